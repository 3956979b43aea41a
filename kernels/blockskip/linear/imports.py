"""Weights that others have quantised, as QuantizedWeight: codes are moved, no value changes by a bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..arguments import choice, integer, tensor
from .metadata import SPAN
from .weight import BLOCK, GROUP_SIZES, QuantizedWeight, pack

TORCHAO_PACKINGS = {"int4": torch.int8, "tinygemm": torch.uint8}


def from_torchao(
    qdata: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor | None = None, packing: str = "int4"
) -> QuantizedWeight:
    """A torchao int4 weight from its plain tensors: value = (code - 8) * scale + zero_point, code from 0 to 15.

    qdata: [N, K / 2], two codes a byte.
        packing="int4", as torchao's Int4Tensor holds it: int8; a nibble is code - 8 with its sign, the low one first.
        packing="tinygemm", what `aten._convert_weight_to_int4pack` is given: uint8; a nibble is the code, the high one
        first.
    scale, zero_point: a float dtype, [K / group_size, N]: Int4Tensor's own, or `scales_and_zeros[..., 0]` and
        `[..., 1]` of tinygemm. zero_point is in the domain of the values, as both of these have it; None for 0.

    Group sizes of 32, 64, and multiples of 128, which are held in groups of 128. `dequantize(torch.float32)` gives the
    formula in float32, product first; torchao itself rounds the product to scale's dtype too.

    Refused, because it is not these tensors: what `_convert_weight_to_int4pack` returns (its order is the device's),
    preshuffled and sparse packings, integer zero points, and weights of three dimensions. An Int4Tensor's
    act_pre_scale belongs to the activations and is not imported. Raises TypeError for dtypes, ValueError for shapes.
    """
    choice("packing", packing, list(TORCHAO_PACKINGS))
    tensor("qdata", qdata)
    if qdata.dtype != TORCHAO_PACKINGS[packing]:
        raise TypeError(f"qdata: given {qdata.dtype}; {TORCHAO_PACKINGS[packing]} is needed for packing={packing!r}")
    if qdata.ndim != 2 or min(qdata.shape) < 1:
        raise ValueError(f"qdata: given shape {tuple(qdata.shape)}; [N, K / 2] is needed")
    metadata = {"scale": scale} if zero_point is None else {"scale": scale, "middle": zero_point}
    n, k = qdata.shape[0], qdata.shape[1] * 2
    repeats = _repeats(scale, n, k)
    for name, t in (("scale", scale), ("zero_point", zero_point)):
        if t is None:
            continue
        tensor(name, t)
        if not t.is_floating_point():
            raise TypeError(f"{name}: given {t.dtype}; a float dtype is needed")
        if t.shape != scale.shape:
            raise ValueError(f"{name}: given shape {tuple(t.shape)}; must be scale's {tuple(scale.shape)}")
    rows = {name: t.detach().T.repeat_interleave(repeats, 1).contiguous() for name, t in metadata.items()}
    nibbles = qdata.detach().view(torch.uint8)
    # code - 8 in four bits is code with the highest bit the other way
    data = nibbles ^ 0x88 if packing == "int4" else nibbles << 4 | nibbles >> 4
    return QuantizedWeight(**{"data": data.contiguous(), "zero": None, "dtype": scale.dtype, **rows})


def _repeats(scale, n: int, k: int) -> int:
    """How often each column of scale [K / group_size, N] stands in ours; ValueError where it cannot."""
    tensor("scale", scale)
    groups = scale.shape[0] if scale.ndim == 2 else 0
    size = k // groups if groups and k % groups == 0 else 0
    if tuple(scale.shape) != (groups, n) or not (size in GROUP_SIZES or (size and size % GROUP_SIZES[-1] == 0)):
        raise ValueError(
            f"scale: given shape {tuple(scale.shape)}; [K / group_size, N] of K {k}, N {n} is needed, with a "
            f"group_size of 32, 64 or a multiple of {GROUP_SIZES[-1]}"
        )
    return max(1, size // GROUP_SIZES[-1])


def from_gguf(data: torch.Tensor | bytes | bytearray, shape: tuple[int, int], kind: str) -> QuantizedWeight:
    """A weight [N, K] from the raw blocks of a GGUF tensor, row after row. d, m, dmin are float16, little-endian.

    | kind | a block | weights | value |
    | --- | --- | --- | --- |
    | Q4_0 | d, 16 bytes | 32 | (code - 8) * d |
    | Q4_1 | d, m, 16 bytes | 32 | code * d + m |
    | Q8_0 | d, 32 int8 | 32 | code * d |
    | Q4_K | d, dmin, 12 bytes, 128 bytes | 256 | code * (d * scale code) - dmin * minimum code, for each 32 |

    Of 16 bytes the low nibbles come first, then the high ones; Q4_K does so in runs of 32 bytes, and packs its eight
    pairs of 6-bit codes into the 12 bytes. d and m are kept in float16, Q4_K's codes as uint8 with d and -dmin for
    steps (4.625 bits a weight; GGUF's 6-bit codes make 4.5). `dequantize()` gives float32: bit for bit what these
    formulas do in float32.

    data: uint8 tensor of any shape, or bytes.  shape: (N, K) as torch has it; GGUF lists K first. K must be a multiple
    of the block's weights. Raises TypeError for kinds of data, ValueError for sizes and other formats.
    """
    choice("kind", kind, list(GGUF_KINDS))
    block = GGUF_KINDS[kind]
    n, k = _check_shape(shape, block, kind)
    raw = _bytes(data)
    if raw.numel() != n * k // block.weights * block.nbytes:
        raise ValueError(
            f"data: given {raw.numel()} bytes; {n * k // block.weights * block.nbytes} are needed for {n}x{k} in {kind}"
        )
    blocks = raw.view(n, k // block.weights, block.nbytes)
    return QuantizedWeight(**{"zero": None, "dtype": torch.float32, **block.read(blocks)})


def _q4_0(blocks: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"data": _int4(blocks[..., 2:]), "scale": _float16(blocks, 0)}


def _q4_1(blocks: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"data": _int4(blocks[..., 4:]), "scale": _float16(blocks, 0), "minimum": _float16(blocks, 2)}


def _q8_0(blocks: torch.Tensor) -> dict[str, torch.Tensor]:
    codes = blocks[..., 2:].contiguous().view(torch.int8).flatten(1)
    return {"data": pack(codes, 8), "scale": _float16(blocks, 0)}


def _q4_k(blocks: torch.Tensor) -> dict[str, torch.Tensor]:
    first, second, third = blocks[..., 4:16].unflatten(-1, (3, 4)).unbind(-2)  # uint8 [N, K / 256, 4] each
    scale = torch.cat((first & 63, (third & 15) | (first >> 6 << 4)), -1)
    minimum = torch.cat((second & 63, (third >> 4) | (second >> 6 << 4)), -1)
    return {
        "data": _int4(blocks[..., 16:].unflatten(-1, (4, 32))),
        "scale": scale.flatten(1),
        "scale_step": _float16(blocks, 0),
        "minimum": minimum.flatten(1),
        "minimum_step": -_float16(blocks, 2),
    }


def _int4(runs: torch.Tensor) -> torch.Tensor:
    """Runs of bytes [N, ..., bytes], low nibbles first and then high ones, in our order."""
    return pack(torch.cat((runs & 15, runs >> 4), -1).flatten(1), 4)


def _float16(blocks: torch.Tensor, at: int) -> torch.Tensor:
    """The number at byte `at` of each block: float16 [N, blocks]."""
    aligned = blocks[..., at : at + 2].clone(memory_format=torch.contiguous_format)
    return aligned.view(torch.float16).squeeze(-1)


@dataclass(frozen=True)
class Block:
    """A GGUF block: how many weights it holds, in how many bytes, and the tensors of [N, blocks a row, bytes]."""

    weights: int
    nbytes: int
    read: Callable[[torch.Tensor], dict[str, torch.Tensor]]


GGUF_KINDS = {
    "Q4_0": Block(BLOCK, 18, _q4_0),
    "Q4_1": Block(BLOCK, 20, _q4_1),
    "Q8_0": Block(BLOCK, 34, _q8_0),
    "Q4_K": Block(SPAN, 144, _q4_k),
}


def _bytes(data) -> torch.Tensor:
    if isinstance(data, (bytes, bytearray)):
        empty = torch.empty(0, dtype=torch.uint8, device="cpu")
        return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else empty
    if not isinstance(data, torch.Tensor):
        raise TypeError(f"data: given {type(data).__name__}; a uint8 tensor or bytes are needed")
    if data.dtype != torch.uint8:
        raise TypeError(f"data: given {data.dtype}; torch.uint8 is needed")
    return data.contiguous().flatten()


def _check_shape(shape, block: Block, kind: str) -> tuple[int, int]:
    if not isinstance(shape, tuple | list):
        raise TypeError(f"shape: given {type(shape).__name__}; a tuple (N, K) is needed")
    sizes = [integer("shape", size) for size in shape]
    if len(sizes) != 2 or min(sizes) < 1:
        raise ValueError(f"shape: given {tuple(sizes)}; (N, K) with N, K >= 1 is needed")
    n, k = sizes
    if k % block.weights:
        raise ValueError(f"shape: given K {k}; must be a multiple of {block.weights}, {kind}'s block")
    return n, k
