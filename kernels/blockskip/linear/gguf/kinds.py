"""The kinds of tensors that a GGUF file may hold: what GGML numbers them, and what a block of them takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Kind:
    """A block of `weights` elements in `nbytes` bytes; dtype: torch's, where the elements are plain numbers."""

    name: str
    number: int
    weights: int
    nbytes: int
    dtype: torch.dtype | None = None

    def bytes_of(self, elements: int) -> int:
        """What so many elements take, whole blocks of them."""
        return elements // self.weights * self.nbytes


_PLAIN = (
    Kind("F32", 0, 1, 4, torch.float32),
    Kind("F16", 1, 1, 2, torch.float16),
    Kind("I8", 24, 1, 1, torch.int8),
    Kind("I16", 25, 1, 2, torch.int16),
    Kind("I32", 26, 1, 4, torch.int32),
    Kind("I64", 27, 1, 8, torch.int64),
    Kind("F64", 28, 1, 8, torch.float64),
    Kind("BF16", 30, 1, 2, torch.bfloat16),
)
_QUANTISED = (
    Kind("Q4_0", 2, 32, 18),
    Kind("Q4_1", 3, 32, 20),
    Kind("Q5_0", 6, 32, 22),
    Kind("Q5_1", 7, 32, 24),
    Kind("Q8_0", 8, 32, 34),
    Kind("Q2_K", 10, 256, 84),
    Kind("Q3_K", 11, 256, 110),
    Kind("Q4_K", 12, 256, 144),
    Kind("Q5_K", 13, 256, 176),
    Kind("Q6_K", 14, 256, 210),
    Kind("IQ2_XXS", 16, 256, 66),
    Kind("IQ2_XS", 17, 256, 74),
    Kind("IQ3_XXS", 18, 256, 98),
    Kind("IQ1_S", 19, 256, 50),
    Kind("IQ4_NL", 20, 32, 18),
    Kind("IQ3_S", 21, 256, 110),
    Kind("IQ2_S", 22, 256, 82),
    Kind("IQ4_XS", 23, 256, 136),
    Kind("IQ1_M", 29, 256, 56),
    Kind("TQ1_0", 34, 256, 54),
    Kind("TQ2_0", 35, 256, 66),
    Kind("MXFP4", 39, 32, 17),
    Kind("NVFP4", 40, 64, 36),
    Kind("Q1_0", 41, 128, 18),
)
KINDS = {kind.name: kind for kind in (*_PLAIN, *_QUANTISED)}
NUMBERED = {kind.number: kind for kind in KINDS.values()}
