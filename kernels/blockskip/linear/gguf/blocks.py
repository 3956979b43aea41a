"""GGUF's blocks of quantised weights, as QuantizedWeight: codes are moved, no value changes by a bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ...arguments import choice, integer
from ..packing import settled
from ..weight import QUANTIZE_ELEMENTS, QuantizedWeight, pack, row_blocks
from .kinds import KINDS, GGMLType

Tensors = dict[str, torch.Tensor]


def from_gguf(data: torch.Tensor | bytes | bytearray, kind: str, shape: tuple[int, int]) -> QuantizedWeight:
    """A weight [N, K] from the raw blocks of a GGUF tensor, row after row. d, m, dmin are float16, little-endian.

    | kind | a block | weights | value | bits a weight: GGUF's, ours |
    | --- | --- | --- | --- | --- |
    | Q4_0 | d, 16 bytes | 32 | (code - 8) * d | 4.5, 4.5 |
    | Q4_1 | d, m, 16 bytes | 32 | code * d + m | 5, 5 |
    | Q5_0 | d, 4 bytes, 16 bytes | 32 | (code - 16) * d | 5.5, 8.5 |
    | Q5_1 | d, m, 4 bytes, 16 bytes | 32 | code * d + m | 6, 9 |
    | Q8_0 | d, 32 int8 | 32 | code * d | 8.5, 8.5 |
    | Q4_K | d, dmin, 12 bytes, 128 bytes | 256 | code * (d * scale) - dmin * minimum | 4.5, 4.625 |
    | Q5_K | d, dmin, 12 bytes, 32 bytes, 128 bytes | 256 | code * (d * scale) - dmin * minimum | 5.5, 8.625 |
    | Q6_K | 128 bytes, 64 bytes, 16 bytes, d | 256 | (code - 32) * (d * scale) | 6.5625, 8.5625 |

    Of Q4_K and Q5_K scale and minimum are 6-bit codes for each 32 weights; of Q6_K scale is an int8 for each 16.

    Weights of 4 bits become int4. Those of 5 and 6 become int8, which holds them exactly and is what the kernels read;
    they take its memory. Scales and minima keep their codes and float16 steps. `dequantize()` gives float32: bit for
    bit what these formulas do in float32, and what ggml does.

    data: uint8 tensor of any shape, or bytes.  kind, shape: in either order. shape is (N, K) as torch has it; GGUF
    lists K first. K must be a multiple of the block's weights. The length is checked before anything is read. Raises
    TypeError for kinds of data, ValueError for sizes and other formats.
    """
    if isinstance(shape, str) and not isinstance(kind, str):
        kind, shape = shape, kind
    choice("kind", kind, list(READERS))
    n, k = _check_shape(shape, KINDS[kind])
    _check_data(data, KINDS[kind].bytes_of(n * k), f"{n}x{k} in {kind}")
    raw = data.contiguous() if isinstance(data, torch.Tensor) else np.frombuffer(data, np.uint8)
    return unpacked(raw.reshape(n, -1), kind, (n, k))


def unpacked(raw: torch.Tensor | np.ndarray, kind: str, shape: tuple[int, int]) -> QuantizedWeight:
    """The weight [N, K] of raw blocks uint8 [N, bytes a row]; a NumPy array, such as a mapped file, is copied in parts.

    Nothing of the weight shares memory with `raw`.
    """
    block, read = KINDS[kind], READERS[kind]
    parts = []
    for rows in row_blocks(torch.Size(shape), QUANTIZE_ELEMENTS):
        part = raw[rows]
        part = torch.from_numpy(np.array(part)) if isinstance(part, np.ndarray) else part
        parts.append(read(part.unflatten(1, (shape[1] // block.weights, block.nbytes))))
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return settled(QuantizedWeight(**{"zero": None, "dtype": torch.float32, **tensors}))


def _q4_0(blocks: torch.Tensor) -> Tensors:
    return {"data": pack(_nibbles(blocks[..., 2:]), 4), "scale": _float16(blocks, 0)}


def _q4_1(blocks: torch.Tensor) -> Tensors:
    return {"data": pack(_nibbles(blocks[..., 4:]), 4), "scale": _float16(blocks, 0), "minimum": _float16(blocks, 2)}


def _q5_0(blocks: torch.Tensor) -> Tensors:
    codes = _nibbles(blocks[..., 6:]) | _bits(blocks[..., 2:6]) << 4
    return {"data": _int8(codes, 16), "scale": _float16(blocks, 0)}


def _q5_1(blocks: torch.Tensor) -> Tensors:
    codes = _nibbles(blocks[..., 8:]) | _bits(blocks[..., 4:8]) << 4
    return {"data": _int8(codes, 128), "scale": _float16(blocks, 0), "minimum": _float16(blocks, 2)}


def _q8_0(blocks: torch.Tensor) -> Tensors:
    codes = blocks[..., 2:].contiguous().view(torch.int8).flatten(1)
    return {"data": pack(codes, 8), "scale": _float16(blocks, 0)}


def _q4_k(blocks: torch.Tensor) -> Tensors:
    codes = _nibbles(blocks[..., 16:].unflatten(-1, (4, 32)))
    return {"data": pack(codes, 4), **_scales_and_minima(blocks)}


def _q5_k(blocks: torch.Tensor) -> Tensors:
    # bit j of byte i is the fifth bit of code i of the j-th 32
    fifth = torch.stack([blocks[..., 16:48] >> j & 1 for j in range(8)], -2)
    codes = _nibbles(blocks[..., 48:].unflatten(-1, (4, 32))) | fifth.flatten(1) << 4
    return {"data": _int8(codes, 128), **_scales_and_minima(blocks)}


def _q6_k(blocks: torch.Tensor) -> Tensors:
    # each 64 bytes of low nibbles and 32 bytes of pairs of high bits make 128 codes
    pairs = blocks[..., 128:192].unflatten(-1, (2, 32))
    high = torch.stack([pairs >> 2 * j & 3 for j in range(4)], -2)
    codes = _nibbles(blocks[..., :128].unflatten(-1, (2, 64))) | high.flatten(1) << 4
    scale = blocks[..., 192:208].contiguous().view(torch.int8).flatten(1)
    return {"data": _int8(codes, 32), "scale": scale, "scale_step": _float16(blocks, 208)}


def _scales_and_minima(blocks: torch.Tensor) -> Tensors:
    """Of Q4_K and Q5_K: eight pairs of 6-bit codes in 12 bytes, those of the last four in spare bits of the others."""
    first, second, third = blocks[..., 4:16].unflatten(-1, (3, 4)).unbind(-2)  # uint8 [N, K / 256, 4] each
    scale = torch.cat((first & 63, (third & 15) | (first >> 6 << 4)), -1)
    minimum = torch.cat((second & 63, (third >> 4) | (second >> 6 << 4)), -1)
    return {
        "scale": scale.flatten(1),
        "scale_step": _float16(blocks, 0),
        "minimum": minimum.flatten(1),
        "minimum_step": -_float16(blocks, 2),
    }


def _nibbles(runs: torch.Tensor) -> torch.Tensor:
    """Runs of bytes [N, ..., bytes], each its low nibbles first and then the high ones: uint8 [N, K]."""
    return torch.cat((runs & 15, runs >> 4), -1).flatten(1)


def _bits(packed: torch.Tensor) -> torch.Tensor:
    """The bits of [N, ..., bytes], each byte's lowest first: uint8 [N, K]."""
    return torch.stack([packed >> j & 1 for j in range(8)], -1).flatten(1)


def _int8(codes: torch.Tensor, centre: int) -> torch.Tensor:
    """uint8 codes [N, K], less the centre, as int8 data."""
    return pack(codes.to(torch.int16) - centre, 8)


def _float16(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The number at byte `at` of each block: float16 [N, blocks]."""
    aligned = blocks[..., at : at + 2].clone(memory_format=torch.contiguous_format)
    return aligned.view(torch.float16).squeeze(-1)


READERS: dict[str, Callable[[torch.Tensor], Tensors]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}
"""The tensors of a weight, from its raw blocks uint8 [N, blocks a row, bytes], by their kind."""


def _check_data(data, needed: int, what: str) -> None:
    if not isinstance(data, torch.Tensor | bytes | bytearray):
        raise TypeError(f"data: given {type(data).__name__}; a uint8 tensor or bytes are needed")
    if isinstance(data, torch.Tensor) and data.dtype != torch.uint8:
        raise TypeError(f"data: given {data.dtype}; torch.uint8 is needed")
    given = data.numel() if isinstance(data, torch.Tensor) else len(data)
    if given != needed:
        raise ValueError(f"data: given {given} bytes; {needed} are needed for {what}")


def _check_shape(shape, kind: GGMLType) -> tuple[int, int]:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape: given {type(shape).__name__}; a tuple (N, K) is needed")
    sizes = [integer("shape", size) for size in shape]
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"shape: given {tuple(sizes)}; (N, K) with N, K >= 1 is needed")
    n, k = sizes
    if k % kind.weights:
        raise ValueError(f"shape: given K {k}; must be a multiple of {kind.weights}, {kind.name}'s block")
    return n, k
