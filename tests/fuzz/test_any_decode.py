"""Any decode step against the oracle: caches and rings, numbers of keys, windows, splits, routes from `attention`."""

from __future__ import annotations

from dataclasses import dataclass, replace

import blockskip as bs
import numpy as np
import oracle
import pytest
import torch
from draws import (
    DTYPES,
    LAYOUTS,
    NAN,
    REPEATING,
    VALUES,
    check,
    exactly,
    examples,
    lay_out,
    layouts,
    numbers,
    oracle_words,
    score_words,
)
from hypothesis import given
from hypothesis import strategies as st


@st.composite
def steps(draw, longest, head_dims, heads, batches=(1, 2), unread=True, queries=16):
    """queries: the most. unread: whether slots before every window hold NaN, as those without a key do."""
    batch, (q_heads, kv_heads) = draw(st.sampled_from(batches)), draw(st.sampled_from(heads))
    q_len, slots = draw(st.integers(1, queries)), draw(st.integers(1, longest))
    head_dim, name = draw(st.sampled_from(head_dims)), draw(st.sampled_from(list(DTYPES)))
    values, seed = draw(st.sampled_from(VALUES)), draw(st.integers(0, 999))
    rows, keys = (batch, q_heads, q_len, head_dim), (batch, kv_heads, slots, head_dim)
    q, k, v = (numbers(shape, values, seed + i, DTYPES[name]) for i, shape in enumerate((rows, keys, keys)))
    ring, tensor = draw(st.booleans()), draw(st.booleans())
    most = 3 * slots if ring else slots
    lengths = draw(st.lists(st.integers(0 if tensor else 1, most), min_size=batch, max_size=batch))
    window = draw(st.none() | st.integers(1, longest + 4))
    if not tensor:
        lengths = lengths[:1] * batch
    if ring and (tensor or max(lengths) > slots):  # none of the keys that are seen may be overwritten
        q_len = min(q_len, slots)
        q, window = q[:, :, :q_len], draw(st.integers(1, slots - q_len + 1))
    given, first = lengths, [0] * batch
    if tensor and not ring and draw(st.booleans()):
        first = draw(st.lists(st.integers(0, slots), min_size=batch, max_size=batch))
        lengths = [min(n, slots - start) for n, start in zip(lengths, first, strict=True)]
    held = [
        oracle.ring_positions(n, slots) if ring else np.arange(slots) - start
        for n, start in zip(lengths, first, strict=True)
    ]
    positions = np.stack(held)
    real = (positions >= 0) & (positions < np.array(lengths)[:, None])
    tree = ("causal",) if window is None else ("window", window)
    starts = [n - q_len for n in lengths]
    keep = oracle.kept(tree, batch, q_heads, q_len, np.where(real, positions, 0), starts) & real[:, None, None]
    unseen = torch.from_numpy(~keep.any((1, 2)) if unread else ~real)
    of_q, *of_kv = (draw(layouts) for _ in "qkv")
    for x, layout in zip((k, v), of_kv, strict=True):
        for b in range(batch):
            x[b, :, unseen[b]] = 0 if layout in REPEATING else NAN
    q, k, v = (lay_out(x, layout) for x, layout in zip((q, k, v), (of_q, *of_kv), strict=True))
    scale = draw(st.none() | st.sampled_from([0.0, 1.0, -0.5, 64.0, 256.0]) | st.floats(-2, 2))
    kv_len = torch.tensor(given, dtype=torch.int32) if tensor else lengths[0]
    words = {"kv_len": kv_len, "window": window, "scale": scale, "ring": ring}
    if any(first):
        words["kv_start"] = torch.tensor(first, dtype=torch.int32)
    return Step(q, k, v, words | draw(score_words(q_heads, DTYPES[name])), keep, values)


@dataclass(frozen=True, repr=False)
class Step:
    """Tensors, words for `decode`, which slots each query sees [B, Hq, Lq, slots], and the kind of numbers."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    words: dict
    keep: np.ndarray
    values: str

    @property
    def dtype(self) -> str:
        return str(self.q.dtype).removeprefix("torch.")

    def __repr__(self):
        kv = [
            f"{name} {tuple(x.shape)} stride {x.stride()}" for name, x in (("q", self.q), ("k", self.k), ("v", self.v))
        ]
        return f"Step({self.dtype}, {self.values}, {', '.join(kv)}, {self.words})"

    def check(self, found, far=False):
        out, lse = found
        scale = self.q.shape[3] ** -0.5 if self.words["scale"] is None else self.words["scale"]
        exact = self.values in ("whole", "zero") and (scale == 0 or np.frexp(abs(scale))[0] == 0.5)
        q, k, v = (
            exactly(self.q),
            dequantized(self.k, self.words, "k_scale"),
            dequantized(self.v, self.words, "v_scale"),
        )
        scores = oracle_words(self.words)
        want = oracle.attention(q, k, v, self.keep, scale, self.dtype, exact=exact, far=far, **scores)
        assert out.dtype == self.q.dtype and lse.dtype == torch.float32
        check(out, want.out, want.bound, "out")
        check(lse, want.lse, want.lse_bound, "lse")


def dequantized(x, words: dict, name: str) -> np.ndarray:
    scale = words.get(name)
    return exactly(x) if scale is None else exactly(x) * exactly(scale.expand(x.shape[1]))[:, None, None]


@st.composite
def float8_steps(draw, *given, **named):
    """Steps whose keys and values are float8, with scales that are powers of two, or with none."""
    step, words = draw(steps(*given, **named)), {}
    kinds = st.sampled_from([layout for layout in LAYOUTS if layout not in REPEATING])
    k, v = (lay_out(x.to(torch.float8_e4m3fn), draw(kinds)) for x in (step.k, step.v))
    for name in ("k_scale", "v_scale"):
        levels = st.lists(st.sampled_from([-2.0, 0.0, 0.125, 1.0, 4.0]), min_size=k.shape[1], max_size=k.shape[1])
        forms = st.none() | levels.map(torch.tensor) | levels.map(lambda numbers: torch.tensor(numbers[0]))
        words[name] = draw(forms)
    return replace(step, k=k, v=v, words=step.words | words)


def run(step: Step, impl, far=False, **more):
    step.check(bs.decode(step.q, step.k, step.v, impl=impl, return_lse=True, **step.words, **more), far)


@pytest.mark.parametrize("impl", ["tiled", "reference", "auto"])
@examples(120)
@given(steps(120, (8, 17, 64), ((1, 1), (6, 2), (4, 1), (2, 2))))
def test_in_pytorch(impl, step):
    run(step, impl)


@examples(30)
@given(steps(60, (8, 16), ((1, 1), (2, 1), (3, 1)), batches=(1,)), st.sampled_from(["auto", 1, 2, 3, 7]))
def test_the_kernel(step, splits):
    run(step, "triton", far=True, splits=splits)


@examples(60)
@given(float8_steps(120, (8, 17, 64), ((1, 1), (6, 2), (4, 1), (2, 2))), st.sampled_from(["tiled", "reference"]))
def test_float8_in_pytorch(step, impl):
    run(step, impl)


@examples(30)
@given(float8_steps(60, (8, 32), ((1, 1), (2, 1), (4, 2)), batches=(1,)), st.sampled_from(["auto", 1, 2, 3]))
def test_float8_in_the_kernel(step, splits):
    run(step, "triton", far=True, splits=splits)


@examples(60)
@given(
    steps(60, (8, 16), ((2, 1), (4, 2)), unread=False, queries=8),
    st.sampled_from(["measured", "executorch", "prefill", "decode"]),
    st.sampled_from(["tiled", "auto"]),
)
def test_attention_routes_it_to_the_same_result(step, route, impl):
    words = dict(step.words)
    window = words.pop("window")
    mask = bs.causal() if window is None else bs.sliding_window(window)
    step.check(bs.attention(step.q, step.k, step.v, mask, impl=impl, route=route, return_lse=True, **words))
