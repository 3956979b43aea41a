"""The kinds of tensors that a GGUF file may hold: what GGML numbers them, and what a block of them takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class GGMLType:
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
    GGMLType("F32", 0, 1, 4, torch.float32),
    GGMLType("F16", 1, 1, 2, torch.float16),
    GGMLType("I8", 24, 1, 1, torch.int8),
    GGMLType("I16", 25, 1, 2, torch.int16),
    GGMLType("I32", 26, 1, 4, torch.int32),
    GGMLType("I64", 27, 1, 8, torch.int64),
    GGMLType("F64", 28, 1, 8, torch.float64),
    GGMLType("BF16", 30, 1, 2, torch.bfloat16),
)
_QUANTISED = (
    GGMLType("Q4_0", 2, 32, 18),
    GGMLType("Q4_1", 3, 32, 20),
    GGMLType("Q5_0", 6, 32, 22),
    GGMLType("Q5_1", 7, 32, 24),
    GGMLType("Q8_0", 8, 32, 34),
    GGMLType("Q2_K", 10, 256, 84),
    GGMLType("Q3_K", 11, 256, 110),
    GGMLType("Q4_K", 12, 256, 144),
    GGMLType("Q5_K", 13, 256, 176),
    GGMLType("Q6_K", 14, 256, 210),
    GGMLType("IQ2_XXS", 16, 256, 66),
    GGMLType("IQ2_XS", 17, 256, 74),
    GGMLType("IQ3_XXS", 18, 256, 98),
    GGMLType("IQ1_S", 19, 256, 50),
    GGMLType("IQ4_NL", 20, 32, 18),
    GGMLType("IQ3_S", 21, 256, 110),
    GGMLType("IQ2_S", 22, 256, 82),
    GGMLType("IQ4_XS", 23, 256, 136),
    GGMLType("IQ1_M", 29, 256, 56),
    GGMLType("TQ1_0", 34, 256, 54),
    GGMLType("TQ2_0", 35, 256, 66),
    GGMLType("MXFP4", 39, 32, 17),
    GGMLType("NVFP4", 40, 64, 36),
    GGMLType("Q1_0", 41, 128, 18),
)
KINDS = {kind.name: kind for kind in (*_PLAIN, *_QUANTISED)}
NUMBERED = {kind.number: kind for kind in KINDS.values()}
