"""Any attention call against the oracle: masks, shapes, strides, numbers of keys, rings, skip modes, what it visits."""

from __future__ import annotations

from dataclasses import dataclass

import blockskip as bs
import numpy as np
import oracle
import pytest
import torch
from draws import (
    DTYPES,
    NAN,
    REPEATING,
    VALUES,
    check,
    exactly,
    examples,
    kinds,
    lay_out,
    layouts,
    mask_of,
    masks,
    numbers,
    oracle_words,
    score_words,
)
from hypothesis import assume, given
from hypothesis import strategies as st

CONFIGS = ((16, 16, 1, 1), (16, 32, 1, 1), (32, 16, 1, 1))
HEADS = ((1, 1), (2, 1), (2, 2), (6, 2), (3, 1))


@dataclass(frozen=True, repr=False)
class Problem:
    """Tensors, a mask as a tree, and the call's other words; lengths and starts: of each batch."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    tree: tuple
    words: dict
    lengths: list[int]
    starts: list[int]
    values: str

    def __repr__(self):
        kv = [
            f"{name} {tuple(x.shape)} stride {x.stride()}" for name, x in (("q", self.q), ("k", self.k), ("v", self.v))
        ]
        return f"Problem({self.dtype}, {self.values}, {', '.join(kv)}, {self.tree}, {self.words})"

    @property
    def dtype(self) -> str:
        return str(self.q.dtype).removeprefix("torch.")

    def keep(self):
        """bool [B, Hq, Lq, slots]: which slots each query sees."""
        slots = self.k.shape[2]
        held = [oracle.ring_positions(n, slots) if self.words.get("ring") else np.arange(slots) for n in self.lengths]
        keys = np.stack(held)
        real = (keys >= 0) & (keys < np.array(self.lengths)[:, None])
        return self.kept(np.where(real, keys, 0)) & real[:, None, None]

    def kept(self, keys):
        return oracle.kept(self.tree, *self.q.shape[:3], keys, self.starts)

    def expected(self, far: bool) -> oracle.Expected:
        scale = self.words.get("scale")
        scale = self.q.shape[3] ** -0.5 if scale is None else scale
        power = scale == 0 or np.frexp(abs(scale))[0] == 0.5
        exact = power and self.values in ("whole", "zero")
        q, k, v = map(exactly, (self.q, self.k, self.v))
        scores = oracle_words(self.words)
        return oracle.attention(q, k, v, self.keep(), scale, self.dtype, exact=exact, far=far, **scores)


@st.composite
def problems(draw, longest, head_dims, heads=HEADS, batches=(1, 2), ring=False):
    batch, (q_heads, kv_heads) = draw(st.sampled_from(batches)), draw(st.sampled_from(heads))
    q_len, slots = draw(st.integers(1, longest)), draw(st.integers(1, longest))
    head_dim, dtype = draw(st.sampled_from(head_dims)), DTYPES[draw(st.sampled_from(list(DTYPES)))]
    values, seed = draw(st.sampled_from(VALUES)), draw(st.integers(0, 999))
    rows, keys = (batch, q_heads, q_len, head_dim), (batch, kv_heads, slots, head_dim)
    q, k, v = (numbers(shape, values, seed + i, dtype) for i, shape in enumerate((rows, keys, keys)))
    given, lengths = draw(lengths_of(batch, slots, ring))
    q_start = draw(st.none() | st.integers(-20, longest + 20))
    tree = draw(masks(batch, q_heads, q_len, max([slots, *lengths])))
    scales = st.none() | st.sampled_from([0.0, 1.0, -0.5, 64.0, 0.3]) | st.floats(-2, 2)
    words = {"scale": draw(scales), "q_start": q_start, "kv_len": given, **draw(score_words(q_heads, dtype))}
    starts = [n - q_len if q_start is None else q_start for n in lengths]
    of_q, *of_kv = (draw(layouts) for _ in "qkv")
    for x, layout in zip((k, v), of_kv, strict=True):
        for b, n in enumerate(lengths):  # what holds no key may hold anything, where it has memory of its own
            x[b, :, n:] = 0 if layout in REPEATING else NAN
    q, k, v = (lay_out(x, layout) for x, layout in zip((q, k, v), (of_q, *of_kv), strict=True))
    return Problem(q, k, v, tree, words | ({"ring": True} if ring else {}), lengths, starts, values)


@st.composite
def lengths_of(draw, batch, slots, ring):
    """(kv_len as it is given, the number of keys of each batch)."""
    if ring:
        n = draw(st.none() | st.integers(1, 3 * slots))
        return n, [slots if n is None else n] * batch
    match draw(st.sampled_from(["none", "int", "one", "each"])):
        case "none":
            return None, [slots] * batch
        case "int":
            n = draw(st.integers(1, slots))
            return n, [n] * batch
        case "one":
            n = draw(st.integers(-2, slots + 3))
            return torch.tensor(n, dtype=torch.int32), [min(max(n, 0), slots)] * batch
    each = draw(st.lists(st.integers(-2, slots + 3), min_size=batch, max_size=batch))
    return torch.tensor(each, dtype=torch.int32), [min(max(n, 0), slots) for n in each]


def run(problem: Problem, impl: str, far: bool = False, **words) -> None:
    q, k, v = problem.q, problem.k, problem.v
    before = [x.clone() for x in (q, k, v)]
    out, lse, *_ = bs.attention(q, k, v, mask_of(problem.tree), impl=impl, return_lse=True, **problem.words, **words)
    for x, was in zip((q, k, v), before, strict=True):
        torch.testing.assert_close(x, was, rtol=0, atol=0, equal_nan=True)
    assert out.dtype == q.dtype and lse.dtype == torch.float32
    want = problem.expected(far)
    check(out, want.out, want.bound, "out")
    check(lse, want.lse, want.lse_bound, "lse")


@pytest.mark.parametrize("impl", ["tiled", "reference", "auto"])
@examples(120)
@given(problems(90, (8, 17, 40, 64)))
def test_in_pytorch(impl, problem):
    run(problem, impl)


@examples(12)
@given(problems(700, (8, 64), heads=((2, 1),), batches=(1,)))
def test_long_ones(problem):
    run(problem, "tiled")


@pytest.mark.parametrize("impl", ["tiled", "reference"])
@examples(80)
@given(problems(40, (8, 16), ring=True))
def test_rings(impl, problem):
    """A mask that sees an overwritten key is refused, `dilated` and functions also where they only might."""
    run_ring(problem, impl)


def run_ring(problem: Problem, impl: str, far: bool = False, **words) -> None:
    slots, n = problem.k.shape[2], problem.lengths[0]
    overwritten = problem.kept(np.arange(n))[..., : max(n - slots, 0)].any()
    try:
        run(problem, impl, far, **words)
    except ValueError as error:
        assert "overwritten" in str(error)
        assert overwritten or "dilated" in kinds(problem.tree)
    else:
        assert not overwritten


@examples(30)
@given(problems(20, (8, 16), heads=((1, 1), (2, 1)), batches=(1,)), st.data())
def test_the_kernel(problem, data):
    """Any skip mode and tiles; what was visited is what the mask leaves, whole tiles unmasked."""
    is_band, tensor = isinstance(mask_of(problem.tree), bs.Band), isinstance(problem.words["kv_len"], torch.Tensor)
    allowed = ["auto", "none", "mask"] + ["bounds"] * is_band
    allowed += ["map"] * (not tensor or problem.words["q_start"] is not None)
    words = {"skip": data.draw(st.sampled_from(allowed)), "config": data.draw(st.sampled_from(CONFIGS))}
    run(problem, "triton", far=True, **words)


@examples(20)
@given(problems(24, (8,), heads=((1, 1), (2, 1)), batches=(1,)), st.sampled_from(CONFIGS), st.data())
def test_what_the_kernel_visits(problem, config, data):
    assume(not isinstance(problem.words["kv_len"], torch.Tensor))
    mask, call = mask_of(problem.tree), (problem.q, problem.k, problem.v)
    skip = data.draw(st.sampled_from(["none", "mask", "map"] + ["bounds"] * isinstance(mask, bs.Band)))
    words = problem.words | {"skip": skip, "impl": "triton", "config": config, "record": True}
    visits = bs.attention(*call, mask, **words)[1].numpy()
    plan = bs.explain(*call, mask, **words)
    keep = problem.keep()[..., : problem.lengths[0]]
    rows = plan.queries_per_tile
    for h in range(visits.shape[1]):
        state = oracle.states(keep[0, h], rows, config[1])
        assert visits[0, h].shape == state.shape
        if skip in ("mask", "map", "bounds"):
            assert visits[0, h][state > 0].all()
        if skip == "none":
            assert visits[0, h].all()
        whole = np.arange(1, state.shape[1] + 1) * config[1] <= keep.shape[-1]
        if skip in ("map", "bounds") and not kinds(problem.tree) & {"dilated", "mod", "dense"}:
            assert np.array_equal(visits[0, h] > 0, state > 0)
            assert ((visits[0, h] == 2) == ((state == 2) & whole)).all()


@examples(10)
@given(problems(14, (8,), heads=((1, 1),), batches=(1,), ring=True))
def test_the_kernel_on_rings(problem):
    run_ring(problem, "triton", far=True, config=CONFIGS[0])


@examples(60)
@given(problems(40, (8, 16)), st.sampled_from(["none", "causal", "bool", "float"]), st.integers(0, 9), st.data())
def test_the_drop_in(problem, kind, seed, data):
    """torch's own function in float64 says what is meant; float masks add, and may come in any broadcast shape."""
    assume(problem.words["kv_len"] is None)
    q, k, v = problem.q, problem.k, problem.v
    shape = (*q.shape[:3], k.shape[2])
    sizes = tuple(data.draw(st.sampled_from([1, n])) for n in shape)[data.draw(st.integers(0, 2)) :]
    drawn = torch.rand(sizes, generator=torch.Generator().manual_seed(seed))
    attn_mask = {"bool": drawn < 0.6, "float": torch.where(drawn < 0.6, drawn * 4 - 2, -torch.inf)}.get(kind)
    given = {"is_causal": kind == "causal", "enable_gqa": True}
    out = bs.scaled_dot_product_attention(q, k, v, attn_mask, **given)
    keep, added = np.ones(shape, bool), np.zeros(shape)
    if kind == "causal":
        keep &= np.tri(shape[2], shape[3], dtype=bool)
    elif attn_mask is not None:
        full = exactly(attn_mask.expand(shape)) if kind == "float" else attn_mask.expand(shape).numpy()
        keep, added = (full, added) if kind == "bool" else (~np.isinf(full), np.where(np.isinf(full), 0.0, full))
    q, k, v = map(exactly, (q, k, v))
    want = oracle.attention(q, k, v, keep, q.shape[3] ** -0.5, problem.dtype, added=added)
    check(out, want.out, want.bound, "out")
