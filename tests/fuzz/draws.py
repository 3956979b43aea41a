"""What the generated tests draw: masks as trees and as blockskip's, tensors laid out awkwardly; how many examples."""

from __future__ import annotations

import os
from operator import and_, or_

import blockskip as bs
import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

FUZZ_SECONDS = float(os.environ.get("SKIPLAB_FUZZ_SECONDS", "0"))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
NAN = float("nan")


def examples(count: int, **named) -> settings:
    """So many examples: the same ones each time, or in `make fuzz` new ones, whose failures .hypothesis keeps."""
    always = {"max_examples": count, "deadline": None, "suppress_health_check": list(HealthCheck), **named}
    if FUZZ_SECONDS:
        return settings(derandomize=False, print_blob=True, **always)
    return settings(derandomize=True, database=None, print_blob=True, **always)


limit = st.none() | st.integers(-6, 40)
leaves = st.one_of(
    st.tuples(st.just("band"), limit, limit),
    st.tuples(st.just("causal")),
    st.tuples(st.just("window"), st.integers(1, 60)),
    st.tuples(st.just("prefix"), st.integers(0, 40)),
    st.tuples(st.just("sink"), st.integers(0, 9)),
    st.tuples(st.just("chunked"), st.integers(1, 40)),
    st.tuples(st.just("document"), st.lists(st.integers(1, 40), min_size=1, max_size=5).map(tuple)),
)
dilated = st.tuples(st.just("dilated"), st.integers(1, 9))

FUNCTIONS = (
    lambda b, h, q, k: q >= k,
    lambda b, h, q, k: (q * 7 + k * 3) % 5 < 2,
    lambda b, h, q, k: (q + k * (h + 1) + b) % 3 == 0,
)
mods = st.sampled_from(FUNCTIONS).map(lambda fn: ("mod", fn))


def trees(of, most=4):
    """Masks of these leaves, and their combinations."""
    return st.recursive(
        of,
        lambda m: st.one_of(
            st.tuples(st.just("and"), m, m), st.tuples(st.just("or"), m, m), st.tuples(st.just("not"), m)
        ),
        max_leaves=most,
    )


@st.composite
def dense_tables(draw, batch, heads, q_len, kv_len):
    """("dense", bool [q_len, kv_len] or [B or 1, H or 1, q_len, kv_len])."""
    front = draw(st.sampled_from([(), (1, 1), (batch, 1), (1, heads), (batch, heads)]))
    share = draw(st.sampled_from([0.0, 0.05, 0.5, 0.95, 1.0]))
    table = np.random.default_rng(draw(st.integers(0, 99))).random((*front, q_len, kv_len)) < share
    return "dense", table


def masks(batch, heads, q_len, kv_len):
    """Any mask that a call of this size takes, as a tree."""
    return trees(leaves | dilated | mods | dense_tables(batch, heads, q_len, kv_len))


BUILD = {
    "band": bs.band, "causal": bs.causal, "window": bs.sliding_window, "prefix": bs.prefix_lm, "sink": bs.sink,
    "chunked": bs.chunked, "document": bs.document, "dilated": bs.dilated, "mod": bs.mask_mod,
    "dense": lambda table: bs.dense(torch.from_numpy(table)),
}  # fmt: skip


def mask_of(tree) -> bs.Mask:
    """blockskip's mask of a tree."""
    kind, *given = tree
    if kind in ("and", "or"):
        return (and_ if kind == "and" else or_)(*map(mask_of, given))
    return ~mask_of(given[0]) if kind == "not" else BUILD[kind](*given)


def kinds(tree) -> set[str]:
    """The kinds of leaves in a tree."""
    kind, *given = tree
    return set().union(*map(kinds, given)) if kind in ("and", "or", "not") else {kind}


LAYOUTS = ("plain", "inside", "rows apart", "transposed", "every other", "shifted", "heads", "batches", "positions")
REPEATING = LAYOUTS[-3:]
"""Those with stride 0."""


def lay_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """A view of x's shape in memory whose other elements are NaN; stride 0 along a dimension repeats its first entry.

    The values are x's but for stride 0: read them from the view.
    """
    if layout in REPEATING:
        at = {"batches": 0, "heads": 1, "positions": x.ndim - 2}[layout]
        return x.narrow(at, 0, 1).clone().expand(x.shape)
    if layout == "transposed":  # [B, L, H, D] in memory
        return x.transpose(1, x.ndim - 2).contiguous().transpose(1, x.ndim - 2)
    if layout == "shifted":  # an element off a multiple of 16 bytes
        flat = torch.full((x.numel() + 1,), NAN, dtype=x.dtype)
        return flat[1:].view(x.shape).copy_(x)
    steps = {"inside": (0, 0, 3, 5), "rows apart": (0, 0, 2, 0), "every other": (0, 0, 0, x.shape[-1])}
    if layout not in steps:
        return x.clone()
    around = torch.full(
        [n + more for n, more in zip(x.shape, steps[layout][-x.ndim :], strict=True)], NAN, dtype=x.dtype
    )
    view = around[..., ::2] if layout == "every other" else around[tuple(slice(n) for n in x.shape)]
    return view.copy_(x)


layouts = st.sampled_from(LAYOUTS)
VALUES = ("normal", "large", "whole", "zero")


def numbers(shape, values: str, seed: int, dtype: torch.dtype) -> torch.Tensor:
    """Numbers of that kind: normal, of deviation 6, small whole ones (whose products are exact), or all 0."""
    generator = torch.Generator().manual_seed(seed)
    if values == "zero":
        return torch.zeros(shape, dtype=dtype)
    if values == "whole":
        return torch.randint(-3, 4, shape, generator=generator).to(dtype)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32)
    return (drawn * (6 if values == "large" else 1)).to(dtype)


def exactly(x: torch.Tensor) -> np.ndarray:
    """The values in float64."""
    return x.detach().to(torch.float64).numpy()


def check(got: torch.Tensor, want: np.ndarray, bound: np.ndarray, what: str) -> None:
    """Every element within its bound; infinities, and no NaN, where they are wanted."""
    found = exactly(got)
    assert found.shape == want.shape, f"{what}: {found.shape}, wanted {want.shape}"
    assert not np.isnan(found).any(), f"{what}: NaN at {np.argwhere(np.isnan(found))[:3].tolist()}"
    endless = np.isinf(want)
    assert np.array_equal(np.isinf(found) | endless, endless) and (found[endless] == want[endless]).all(), what
    error = np.abs(np.where(endless, 0.0, found) - np.where(endless, 0.0, want))
    worst = np.unravel_index(np.argmax(error - bound), error.shape) if error.size else ()
    assert (error <= bound).all(), f"{what}: {found[worst]} at {worst}, wanted {want[worst]} within {bound[worst]:.3g}"


def score_words(heads: int, dtype: torch.dtype):
    """Sinks of either dtype, with a stride or without, -inf among them, and soft caps; mostly neither."""
    levels = st.lists(st.sampled_from([-np.inf, -20.0, -1.5, 0.0, 0.75, 4.0, 30.0]), min_size=heads, max_size=heads)
    tensors = st.builds(_sinks, levels, st.sampled_from([dtype, torch.float32]), st.integers(1, 2))
    caps = st.none() | st.none() | st.sampled_from([0.5, 5, 30.0, 1e4])
    return st.fixed_dictionaries({"sinks": st.none() | tensors, "softcap": caps})


def _sinks(levels: list[float], dtype: torch.dtype, stride: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=dtype).repeat_interleave(stride)[::stride]


def oracle_words(words: dict) -> dict:
    """What `score_words` drew, as the oracle takes it."""
    sinks = words.get("sinks")
    return {"sinks": None if sinks is None else exactly(sinks), "softcap": words.get("softcap")}
