"""Kernels of `attention.float8` functions alone; imported by the tests that ask them, once it is known how they run."""

import torch
import triton
import triton.language as tl
from blockskip.attention.float8 import as_float16, halves


@triton.jit
def scale_rows(x, out, undo, ROWS: tl.constexpr, DIMS: tl.constexpr):
    rows, dims = tl.arange(0, ROWS), tl.arange(0, DIMS)
    at = rows[:, None] * DIMS + dims[None, :]
    scaled, inverse = as_float16(tl.load(x + at))
    tl.store(out + at, scaled)
    tl.store(undo + rows, inverse)


@triton.jit
def divide_words(words, even, odd, ROWS: tl.constexpr, WORDS: tl.constexpr):
    at = tl.arange(0, ROWS)[:, None] * WORDS + tl.arange(0, WORDS)[None, :]
    first, second = halves(tl.load(words + at))
    tl.store(even + at, first)
    tl.store(odd + at, second)


def scaled_rows(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`as_float16` of x [rows, dims], powers of two."""
    out, undo = torch.empty(x.shape, dtype=torch.float16, device=x.device), torch.empty(len(x), device=x.device)
    scale_rows[(1,)](x, out, undo, *x.shape)
    return out, undo


def divided(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """`halves` of float8 x [rows, dims], powers of two."""
    words = x.view(torch.int16)
    even, odd = (torch.empty(words.shape, dtype=torch.float16, device=x.device) for _ in range(2))
    divide_words[(1,)](words, even, odd, *words.shape)
    return even, odd
