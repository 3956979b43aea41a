"""Any packed sequences against the oracle: lengths, empty ones too, bands, layouts, rows behind them, hints, tiles."""

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
    lay_out,
    layouts,
    limit,
    mask_of,
    numbers,
    oracle_words,
    score_words,
)
from hypothesis import given
from hypothesis import strategies as st

bands = st.one_of(
    st.tuples(st.just("causal")), st.tuples(st.just("window"), st.integers(1, 60)),
    st.tuples(st.just("band"), limit, limit),
)  # fmt: skip


@st.composite
def packings(draw, longest, head_dims, heads):
    """longest: of a sequence, in queries and in keys."""
    (q_heads, kv_heads), head_dim = draw(st.sampled_from(heads)), draw(st.sampled_from(head_dims))
    length = st.integers(0, longest)
    alike = draw(st.booleans())  # keys are the queries' own
    pairs = draw(st.lists(st.tuples(length, length), min_size=1, max_size=6))
    lengths = np.array([(n, n) if alike else (n, m) for n, m in pairs])
    rows = [int(total) + draw(st.integers(0 if total else 1, 9)) for total in lengths.sum(0)]
    rows = rows if not alike else [rows[0]] * 2
    name, values, seed = (draw(st.sampled_from(x)) for x in (list(DTYPES), VALUES, range(1000)))
    shapes = ((q_heads, rows[0]), (kv_heads, rows[1]), (kv_heads, rows[1]))
    q, k, v = (numbers((1, *shape, head_dim), values, seed + i, DTYPES[name]) for i, shape in enumerate(shapes))
    tree, starts = draw(bands), np.concatenate([[[0, 0]], lengths.cumsum(0)])
    keep = np.zeros((1, q_heads, *rows), bool)
    for (q_first, k_first), (n, m) in zip(starts[:-1], lengths, strict=True):
        keep[:, :, q_first : q_first + n, k_first : k_first + m] = oracle.kept(
            tree, 1, q_heads, n, np.arange(m), [m - n]
        )
    of_q, *of_kv = (draw(layouts) for _ in "qkv")
    for x, layout in zip((k, v), of_kv, strict=True):
        x[:, :, starts[-1][1] :] = 0 if layout in REPEATING else NAN
    tensors = [lay_out(x, layout)[0].transpose(0, 1) for x, layout in zip((q, k, v), (of_q, *of_kv), strict=True)]
    cu = [torch.tensor(starts[:, i], dtype=torch.int32) for i in range(2)]
    hints = [draw(st.none() | st.integers(1, 2 * longest)) for _ in range(2)]
    scale = draw(st.none() | st.sampled_from([0.0, 1.0, -0.5, 64.0]) | st.floats(-2, 2))
    words = {"cu_seqlens_q": cu[0], "cu_seqlens_k": None if alike and draw(st.booleans()) else cu[1], "scale": scale}
    words |= {"max_seqlen_q": hints[0], "max_seqlen_k": hints[1], "mask": mask_of(tree)}
    return Packing(*tensors, words | draw(score_words(q_heads, DTYPES[name])), keep, values)


@dataclass(frozen=True, repr=False)
class Packing:
    """Tensors [total, heads, D], words for `attention_varlen`, which keys each row sees, and the kind of numbers."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    words: dict
    keep: np.ndarray
    values: str

    def __repr__(self):
        tensors = (f"{tuple(x.shape)} stride {x.stride()}" for x in (self.q, self.k, self.v))
        return f"Packing({self.q.dtype}, {self.values}, {', '.join(tensors)}, {self.words})"

    def check(self, impl, far=False, **more):
        out, lse = bs.attention_varlen(self.q, self.k, self.v, impl=impl, return_lse=True, **self.words, **more)
        scale = self.q.shape[2] ** -0.5 if self.words["scale"] is None else self.words["scale"]
        exact = self.values in ("whole", "zero") and (scale == 0 or np.frexp(abs(scale))[0] == 0.5)
        tensors = (exactly(x).swapaxes(0, 1)[None] for x in (self.q, self.k, self.v))
        dtype, scores = str(self.q.dtype).removeprefix("torch."), oracle_words(self.words)
        want = oracle.attention(*tensors, self.keep, scale, dtype, exact=exact, far=far, **scores)
        assert out.dtype == self.q.dtype and lse.dtype == torch.float32 and out.is_contiguous()
        check(out.transpose(0, 1)[None], want.out, want.bound, "out")
        check(lse[None], want.lse, want.lse_bound, "lse")


@pytest.mark.parametrize("impl", ["tiled", "reference", "auto"])
@examples(80)
@given(packings(70, (8, 17, 64), ((1, 1), (6, 2), (4, 1), (2, 2))))
def test_in_pytorch(impl, packing):
    packing.check(impl)


@examples(40)
@given(packings(40, (8, 16), ((1, 1), (2, 1), (6, 2))), st.sampled_from([None, (16, 16, 1, 1), (32, 16, 1, 1)]))
def test_in_the_kernel(packing, config):
    packing.check("triton", far=True, config=config)
