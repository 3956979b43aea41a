"""Masks as packed bits, as the kernels read them. Bit n of an int64 is its key n; a key that is not real has 0."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch

from ...mask import Mask, kept_by_mask
from ...mask_runs import Grid
from ...tilemap import TileMap
from ..call import AttentionCall

BITS = 64
ELEMENTS_AT_ONCE = 1 << 24


def pack(keep: torch.Tensor) -> torch.Tensor:
    """int64 [..., ceil(n / 64)] of bool [..., n]."""
    keep = torch.nn.functional.pad(keep, (0, -keep.shape[-1] % BITS)).unflatten(-1, (-1, BITS))
    return (keep.long() << torch.arange(BITS, dtype=torch.int64, device=keep.device)).sum(-1)


def bits_of(call: AttentionCall, kv_len: int) -> torch.Tensor:
    """The bits of a call's mask, as of `mask_bits`, over the first `kv_len` keys."""
    batch, heads, q_len, _ = call.q.shape
    q_start, kv_real = call.planned_q_start, call.kv_len
    if call.bounded_lengths is not None:
        kv_real = call.bounded_lengths
        q_start = kv_real - q_len if call.q_start is None else q_start
    return mask_bits(call.mask, q_len, kv_len, q_start, kv_real, batch, heads, call.q.device)


def mask_bits(mask: Mask, q_len: int, kv_len: int, q_start, kv_real, batch: int, heads: int, device) -> torch.Tensor:
    """int64 [1 or B, 1 or H, q_len, ceil(kv_len / 64)]: the whole mask, evaluated some rows at a time.

    `q_start` and `kv_real` (keys beyond it are not kept) are ints, or int tensors [B] on `device`: nothing is read
    back.
    """
    if isinstance(q_start, int) and isinstance(kv_real, int):
        return _kept_bits(mask, q_len, kv_len, q_start, kv_real, batch, heads, torch.device(device))
    return _whole_mask(mask, q_len, kv_len, q_start, kv_real, batch, heads, device)


def _whole_mask(mask: Mask, q_len: int, kv_len: int, q_start, kv_real, batch: int, heads: int, device) -> torch.Tensor:
    by_batch, by_head = mask.varies
    on_device = not (isinstance(q_start, int) and isinstance(kv_real, int))
    arange = partial(torch.arange, dtype=torch.int64, device=device)
    b = arange(batch if by_batch or on_device else 1)[:, None, None, None]
    h = arange(heads if by_head else 1)[None, :, None, None]
    # an int is filled in: a copy from the host could not be captured in a CUDA graph
    q_start, kv_real = (
        torch.full((1, 1, 1, 1), x, dtype=torch.int64, device=device) if isinstance(x, int) else x.reshape(-1, 1, 1, 1)
        for x in (q_start, kv_real)
    )
    keys = arange(kv_len)[None, None, None]
    at_once = max(1, ELEMENTS_AT_ONCE // (b.numel() * h.numel() * kv_len))
    parts = []
    for first in range(0, q_len, at_once):
        rows = arange(first, min(first + at_once, q_len))[None, None, :, None]
        keep = mask.keep(rows + q_start, keys, b, h, rows) & (keys < kv_real)
        parts.append(pack(keep.expand(b.numel(), h.numel(), -1, -1)))
    return torch.cat(parts, 2).contiguous()


@kept_by_mask(lambda bits: bits.nbytes)
def _kept_bits(mask: Mask, *call) -> torch.Tensor:
    _refuse_capture(mask, call[-1])
    bits = _whole_mask(mask, *call)
    _finish(bits.device)
    return bits


def _refuse_capture(mask: Mask, device: torch.device) -> None:
    """RuntimeError inside a CUDA graph capture: tables cannot be made there: a graph would repeat their copies."""
    if capturing(device):
        raise RuntimeError(
            f"mask: the tables of {mask!r} are not on {device} yet, and cannot be made while a CUDA graph is captured; "
            "make the same call once before capturing, with the same mask object, shapes, kv_len and q_start"
        )


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph of the device's current stream is being captured."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


def _finish(device: torch.device) -> None:
    """Waits until cached tables are written: a later call may read them on another stream."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


@kept_by_mask(lambda tables: sum(table.nbytes for table in tables if table is not None))
def map_tables(mask: Mask, tiles: Grid, grid: tuple[int, int], with_bits: bool, device: torch.device):
    """The runs of a mask's tile maps on a device, and the bits of their partial tiles.

    Of the maps over `tiles`, for each (batch, head) of `grid` = (1 or B, 1 or H).
    -> start int32 [*grid, rows + 1], into runs int32 [n, 4] = (first column, end column, state, index of its first
    partial tile or -1);
       bits int64 [partial tiles, ceil(block_n / 64), block_m] or None.
    """
    _refuse_capture(mask, device)
    tilemaps = [TileMap.build(mask, *tiles, batch=b, head=h) for b in range(grid[0]) for h in range(grid[1])]
    starts, runs, bits, runs_before, partial_before = [], [], [], 0, 0
    for tm in tilemaps:
        partial = np.where(tm.runs[:, 2] == 1, tm.runs[:, 1] - tm.runs[:, 0], 0)
        first_tile = np.where(tm.runs[:, 2] == 1, partial_before + np.cumsum(partial) - partial, -1)
        runs.append(np.concatenate([tm.runs, first_tile[:, None].astype(np.int32)], 1))
        starts.append(tm.run_start.astype(np.int32) + runs_before)
        runs_before += len(tm.runs)
        partial_before += int(partial.sum())
        if with_bits:
            bits.append(_tile_bits(tm, device))
    start = torch.from_numpy(np.stack(starts)).reshape(*grid, -1).to(device)
    tables = start, torch.from_numpy(np.concatenate(runs)).to(device), torch.cat(bits) if with_bits else None
    _finish(device)
    return tables


def dense_tables(bits: torch.Tensor, block_m: int, block_n: int, kv_len: int):
    """Tables as of `map_tables` whose rows visit every tile of `kv_len` keys, each a partial one.

    bits: the whole mask, as of `mask_bits`. Nothing is read back from the device.
    """
    *grid, q_len, _ = bits.shape
    rows, cols, count = -(-q_len // block_m), -(-kv_len // block_n), grid[0] * grid[1]
    if block_n < BITS:
        shifts = torch.arange(0, BITS, block_n, dtype=torch.int64, device=bits.device)
        bits = (bits[..., None] >> shifts & (1 << block_n) - 1).flatten(-2)
    words = -(-block_n // BITS)
    bits = torch.nn.functional.pad(bits, (0, cols * words - bits.shape[-1], 0, rows * block_m - q_len))
    tiles = bits.reshape(count, rows, block_m, cols, words).permute(0, 1, 3, 4, 2).reshape(-1, words, block_m)
    row = torch.arange(count * rows, dtype=torch.int32, device=bits.device)
    runs = torch.stack([torch.zeros_like(row), torch.full_like(row, cols), torch.ones_like(row), row * cols], 1)
    start = row.reshape(*grid, rows)
    return torch.cat([start, start[..., -1:] + 1], -1), runs, tiles.contiguous()


POSITIONS = 1024
"""Query positions of one table for single queries: it is built in 2 to 3 ms, once in so many tokens."""


def position_tables(mask: Mask, block: int, block_n: int, device: torch.device):
    """The tables of `map_tables` for single queries at the positions block * POSITIONS .., a row of tiles each.

    Row r's tiles are those of a call with one query at block * POSITIONS + r, whose kv_len, one more, the kernel bounds
    them by. For masks that are of positions.
    """
    first = block * POSITIONS
    return map_tables(mask, Grid(POSITIONS, first + POSITIONS, 1, block_n, first), (1, 1), True, device)


def _tile_bits(tm: TileMap, device: torch.device) -> torch.Tensor:
    """int64 [partial tiles, ceil(block_n / 64), block_m]: the bits of the partial tiles, in the order of the runs."""
    row_start, col, is_full = tm.to_csr()
    every_row = torch.arange(tm.rows, dtype=torch.int64, device="cpu")
    row = torch.repeat_interleave(every_row, row_start.diff())[~is_full].to(device)
    col = col[~is_full].to(device)
    at_once = max(1, ELEMENTS_AT_ONCE // (tm.block_m * tm.block_n))
    rows, keys = (torch.arange(n, dtype=torch.int64, device=device) for n in (tm.block_m, tm.block_n))
    parts = [torch.empty((0, -(-tm.block_n // BITS), tm.block_m), dtype=torch.int64, device=device)]
    for first in range(0, len(row), at_once):
        some = slice(first, first + at_once)
        i = (row[some, None] * tm.block_m + rows)[:, :, None]
        k = (col[some, None] * tm.block_n + keys)[:, None, :]
        real = (i < tm.q_len) & (k < tm.kv_len)
        i, k = i.clamp(max=tm.q_len - 1), k.clamp(max=tm.kv_len - 1)  # a tensor inside the mask is never left
        parts.append(pack(tm.mask.keep(i + tm.q_start, k, tm.batch, tm.head, i) & real).transpose(1, 2))
    return torch.cat(parts)
