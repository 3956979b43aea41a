"""How a weight's codes and metadata lie in memory: in rows, as every kernel reads them, or in tiles, for Hopper.

In rows, a row's codes stand one after the other. In tiles, 64 rows x 256 codes are 8 KB of adjoining memory, and so are
their scales and their zero points: a tile is what one program copies at a time, and what it copies next adjoins it.
Inside a tile each block of 32 codes is in the order in which the lanes of a warp take a tensor core's operand: word t
of its four words holds, from its lowest nibble on, the codes 2t, 8 + 2t, 16 + 2t, 24 + 2t and the four that follow
them. So one 16-bit pair of nibbles is a pair of adjoining codes, and unpacking needs no exchange between lanes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from ..gpu import capability_of

if TYPE_CHECKING:
    from .weight import QuantizedWeight

PACKINGS = ("rows", "tiles")
HOPPER = 9
"""The major compute capability of the GPUs that have a kernel for tiles."""
TILE_ROWS = 64
TILE_COLUMNS = 256
TILE_BYTES = TILE_COLUMNS // 2
BLOCK = 32
NIBBLES = 8
"""Codes of a block, and of one of its four words."""
LARGEST_ZERO = 127
"""With 128, to which it is added, a whole number in bfloat16."""
PART_BYTES = 1 << 22
"""Of codes, which are packed anew at a time."""


def tile_order(device: torch.device) -> torch.Tensor:
    """int64 [32]: which code of a block is the i-th nibble of its word t, at 8 t + i."""
    word, nibble = (torch.arange(count, dtype=torch.int64, device=device) for count in (BLOCK // NIBBLES, NIBBLES))
    word = word[:, None]
    return (8 * (nibble % 4) + 2 * word + nibble // 4).flatten()


def why_no_tiles(w: QuantizedWeight) -> str | None:
    """Why a weight cannot lie in tiles, or None where it can."""
    if w.packing == "tiles":
        return None
    n, k = w.shape
    if w.bits != 4:
        return f"its codes are int{w.bits}; tiles hold int4"
    if w.offset is not None or w.encoded:
        return "its metadata is neither a scale alone nor a scale and a zero point"
    if n % TILE_ROWS or k % TILE_COLUMNS:
        return f"its shape is {tuple(w.shape)}; N must be a multiple of {TILE_ROWS}, K one of {TILE_COLUMNS}"
    if any(t.dtype != torch.bfloat16 for t in (w.scale, w.zero) if t is not None):
        return f"its metadata is {w.scale.dtype}; tiles hold bfloat16"
    if w.zero is not None and not w.zero.is_meta and not _are_whole(w.zero):
        return f"its zero points are not all whole numbers from -{LARGEST_ZERO} to {LARGEST_ZERO}"
    return None


def _are_whole(zero: torch.Tensor) -> bool:
    return bool(((zero == zero.round()) & (zero.abs() <= LARGEST_ZERO)).all())


def preferred_packing(w: QuantizedWeight, device: torch.device) -> str:
    """How the weight lies on a device if nobody asks otherwise: in tiles where it can and a kernel reads them."""
    capability = capability_of(device)
    on_hopper = capability is not None and capability[0] == HOPPER
    return "tiles" if on_hopper and why_no_tiles(w) is None else "rows"


def settled(w: QuantizedWeight) -> QuantizedWeight:
    """The weight in the packing that its device prefers."""
    return w.packed(preferred_packing(w, w.device))


def packed(w: QuantizedWeight, packing: str) -> QuantizedWeight:
    """The same weight in the other packing, in memory of its own. Raises ValueError where it cannot lie in tiles."""
    if packing == "rows":
        return _replaced(w, _rows_of_codes(w.data), _from_tiles)
    reason = why_no_tiles(w)
    if reason is not None:
        raise ValueError(f"packing: given 'tiles' for a weight that cannot lie so: {reason}; use 'rows'")
    groups = TILE_COLUMNS // w.group_size
    return _replaced(w, _tiles_of_codes(w.data), lambda t: _to_tiles(t, groups))


def _replaced(w: QuantizedWeight, data: torch.Tensor, change: Callable[[torch.Tensor], torch.Tensor]):
    return replace(w, data=data, scale=change(w.scale), zero=None if w.zero is None else change(w.zero))


def _to_tiles(t: torch.Tensor, columns: int) -> torch.Tensor:
    """[N, K'] -> [N / 64, K' / columns, 64, columns], contiguous."""
    return t.unflatten(0, (-1, TILE_ROWS)).unflatten(2, (-1, columns)).transpose(1, 2).contiguous()


def _from_tiles(t: torch.Tensor) -> torch.Tensor:
    """[N / 64, K' / columns, 64, columns] -> [N, K'], contiguous."""
    return t.transpose(1, 2).flatten(2).flatten(0, 1)


def _tiles_of_codes(data: torch.Tensor) -> torch.Tensor:
    """Codes in rows, uint8 [N, K / 2], to uint8 [N / 64, K / 256, 64, 128]."""
    return _each_part(_to_tiles(data, TILE_BYTES), tile_order(data.device))


def _rows_of_codes(data: torch.Tensor) -> torch.Tensor:
    return _from_tiles(_each_part(data, tile_order(data.device).argsort()))


def _each_part(data: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """uint8 [.., bytes] with each block's 32 codes in another order: new code i is the old code order[i]."""
    out = torch.empty_like(data)
    parts = max(1, data.numel() // PART_BYTES)
    for old, new in zip(data.chunk(parts), out.chunk(parts), strict=True):
        codes = torch.stack([old & 15, old >> 4], -1).flatten(-2).unflatten(-1, (-1, BLOCK))[..., order]
        new.copy_((codes[..., ::2] | codes[..., 1::2] << 4).flatten(-2))
    return out
