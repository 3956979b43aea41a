"""The Triton block-skip kernel for prefill: online softmax over the key tiles that a mask leaves.

Four ways to skip, one arithmetic (FlashAttention-2, arXiv 2307.08691): every visited tile runs `attend`, in ascending
order, whatever decided to visit it. A tile that keeps nothing leaves the running state as it is, bit for bit, so that
all four modes agree exactly.

    none    visits every tile and applies a dense mask, read as one or two int64 of bits a row and tile
    mask    reads the same bits and leaves a tile early if they are all zero
    bounds  computes the loop limits from a band: masked-left, unmasked, masked-right; reads no mask
    map     walks the tile map's runs; full tiles unmasked, partial ones with their own bits (or the band)
"""

# pyright: reportAttributeAccessIssue=false
# A constexpr is typed as such, not as the named tuple that it holds.

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ...launching.primitives import base, first_bits, load_block, load_mask_bits, local, ring_slots, unpack_bits, wide
from ...launching.scopes import enter_scope, exit_scope
from ..band import band_keeps, band_limits, first_slot, lengths_of
from ..float8 import as_float16, scores_of, signed_queries
from ..sequences import item_at
from ..softmax import accumulate, first_sums, log_sum_exp


class PrefillConstants(NamedTuple):
    """What the kernel is compiled for."""

    SKIP: str
    """none | mask | bounds | map."""
    SIGN: int
    """The scale's: -1, 0 or 1."""
    GROUP: int
    """Query heads of a KV head that share a tile; 1 where each has tiles of its own."""
    HEAD_DIM: int
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_D: int
    """HEAD_DIM or more, a power of two."""
    WIDE: bool
    """Whether an offset inside a tile needs 64 bits."""
    SOURCE: str
    """Keys and values are read by "pointer", by "tma" (Hopper's copy engine), or from a ring: see `ring_slots`."""


@triton.jit
def source(pointer, kv_len, strides, CONSTANTS: tl.constexpr):
    """What `load_keys` reads one head's keys or values from: the pointer, or a descriptor for the copy engine."""
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    BLOCK_N: tl.constexpr = CONSTANTS.BLOCK_N
    result = pointer
    if CONSTANTS.SOURCE == "tma":
        shape = [tl.maximum(kv_len, 1), HEAD_DIM]
        result = tl.make_tensor_descriptor(pointer, shape, [strides[2], 1], [BLOCK_N, BLOCK_D])  # pyright: ignore
    return result


@triton.jit
def load_keys(start, strides, n0, kv_len, slots, DTYPE: tl.constexpr, CONSTANTS: tl.constexpr):
    """[BLOCK_N, BLOCK_D] in DTYPE: the keys or values n0 .. of one head, 0 where there is none, or none any more."""
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    BLOCK_N: tl.constexpr = CONSTANTS.BLOCK_N
    SOURCE: tl.constexpr = CONSTANTS.SOURCE
    if SOURCE == "tma":
        # a descriptor holds a row at least: where there is no key, reading begins behind it
        return start.load([tl.where(kv_len > 0, n0, 1), 0])
    else:  # noqa: RET505 - the other way must not be compiled
        n = tl.arange(0, BLOCK_N)
        d = tl.arange(0, BLOCK_D)
        slot = n  # counted from n0's, or in a ring from the first
        if SOURCE != "pointer":
            slot = ring_slots(n0, n, slots, SOURCE)
        offsets = local(slot, strides[2], CONSTANTS.WIDE)[:, None] + local(d, strides[3], CONSTANTS.WIDE)[None, :]
        if SOURCE == "pointer":
            start += wide(n0) * strides[2]
        pointers = start + offsets
        live = n0 + n < kv_len
        if SOURCE != "pointer":
            live &= n0 + n >= kv_len - slots
        return load_block(pointers, live[:, None], (d < HEAD_DIM)[None, :], HEAD_DIM != BLOCK_D).to(DTYPE)


@triton.jit
def mark(visits, batch, head, row, tile, kind):
    """Records from inside the launch that this tile was computed: 1 masked, 2 unmasked."""
    if visits is not None:
        tl.store(base(visits, batch, head) + wide(row) * visits.strides[2] + tile, kind)


@triton.jit(do_not_specialize=["interleave"])
def prefill(
    q, k, v, out, lse, visits, mask, lengths, band, scoring, interleave, CONSTANTS: tl.constexpr
):  # fmt: skip
    """One program: BLOCK_M rows of one head, or BLOCK_M // GROUP queries of the GROUP heads that share a KV head.

    q, out [B, Hq, Lq, D]; k, v [B, Hkv, Lkv, D]; lse [B, Hq, Lq] or None; visits [B, programs' heads, rows, cols] or
    None. mask: MaskBits (none, mask), TileRuns (map) or None (bounds). lengths, band: see `attention.band`. scoring:
    see `attention.softmax`. CONSTANTS: `PrefillConstants`. Tiles, bounds and masks count in positions, also where the
    cache is a ring: only `load_keys` knows of slots. With `lengths.items` all sequences lie behind each other in one
    batch, and a program's row is an item's.
    Grid: (rows * interleave, programs' heads // interleave, B). The rows of `interleave` heads alternate, the longest
    first, before the next heads come: see `schedule.interleaved_heads`.
    """
    SKIP: tl.constexpr = CONSTANTS.SKIP
    GROUP: tl.constexpr = CONSTANTS.GROUP
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_M: tl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_N: tl.constexpr = CONSTANTS.BLOCK_N
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    WIDE: tl.constexpr = CONSTANTS.WIDE
    QUERIES: tl.constexpr = BLOCK_M // GROUP
    enter_scope("program")
    head = tl.program_id(1) * interleave + tl.program_id(0) % interleave
    row = (tl.num_programs(0) - 1 - tl.program_id(0)) // interleave
    batch = tl.program_id(2)
    q_first, q_len = 0, q.shape[2]
    if lengths.items is None:
        kv_len, q_start = lengths_of(lengths, batch, q_len)  # pyright: ignore
    else:
        row, q_first, q_len, k_first, kv_len = item_at(lengths.items, tl.program_id(0) // interleave)  # pyright: ignore
        q_start = kv_len - q_len

    # rows of this program: query `i` of the call, head `first_head + member`
    m = tl.arange(0, BLOCK_M)
    member = m % GROUP
    first = row * QUERIES
    i = first + m // GROUP
    real_row = (i < q_len) & (m < QUERIES * GROUP)
    first_head = head * GROUP
    kv_head = first_head // (q.shape[1] // k.shape[1])
    d = tl.arange(0, BLOCK_D)
    q_ptr = base(q, batch, first_head) + wide(q_first + first) * q.strides[2]
    q_rows = local(m // GROUP, q.strides[2], WIDE) + local(member, q.strides[1], WIDE)
    q_tile = load_block(
        q_ptr + q_rows[:, None] + local(d, q.strides[3], WIDE)[None, :],
        real_row[:, None], (d < HEAD_DIM)[None, :], HEAD_DIM != BLOCK_D,
    )  # fmt: skip
    q_tile, factor, scale = signed_queries(q_tile, scoring, kv_head, CONSTANTS.SIGN)  # pyright: ignore
    undo = None
    if k.ptr.dtype.element_ty != q_tile.dtype and q_tile.dtype == tl.bfloat16:
        q_tile, undo = as_float16(q_tile)  # pyright: ignore

    k_ptr = base(k, batch, kv_head)
    # values laid out like the keys share their offsets, and so the registers that hold them
    v_strides = k.strides if v.strides is None else v.strides
    v_ptr = v.ptr + wide(batch) * v_strides[0] + wide(kv_head) * v_strides[1]
    if lengths.first is not None:
        first_key = wide(first_slot(lengths, batch))  # pyright: ignore
        k_ptr += first_key * k.strides[2]
        v_ptr += first_key * v_strides[2]
    if lengths.items is not None:
        k_ptr += wide(k_first) * k.strides[2]
        v_ptr += wide(k_first) * v_strides[2]
    keys = source(k_ptr, kv_len, k.strides, CONSTANTS)
    values = source(v_ptr, kv_len, v_strides, CONSTANTS)
    slots = k.shape[2]
    n = tl.arange(0, BLOCK_N)
    q_pos = q_start + i
    acc = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    row_max, row_sum = first_sums(scoring, first_head + member, real_row, BLOCK_M)  # pyright: ignore
    state = (acc, row_max, row_sum)
    if SKIP == "none" or SKIP == "mask":
        # the bits of the mask: int64 [.., q_len, ceil(kv_len / 64)]; those of keys that are not real are 0
        bits_ptr = base(mask, batch, first_head) + i.to(tl.int64) * mask.strides[2]
        for tile in tl.range(0, tl.cdiv(mask.kv_len, BLOCK_N)):
            n0 = tile * BLOCK_N
            bits, more = load_mask_bits(bits_ptr, tl.cdiv(mask.kv_len, 64), n0, real_row, BLOCK_N)
            visited = True
            if SKIP == "mask":
                visited = tl.max(((bits | more) != 0).to(tl.int32), 0) != 0
            if visited:
                k_tile = load_keys(keys, k.strides, n0, kv_len, slots, q_tile.dtype, CONSTANTS)
                score = scores_of(q_tile, k_tile, undo, factor, scoring)
                # always true, but the compiler cannot know: with the same branch as the other modes have, it lays the
                # scores out alike in all of them, so that row sums round alike (at D 512 it does not, without)
                if kv_len >= 0:
                    score = tl.where(unpack_bits(bits, more, BLOCK_N), score, float("-inf"))
                v_tile = load_keys(values, v_strides, n0, kv_len, slots, q_tile.dtype, CONSTANTS)
                state = accumulate(state, score, v_tile, scale)
                mark(visits, batch, head, row, tile, 1)
    elif SKIP == "bounds":
        last = tl.minimum(first + QUERIES, q_len) - 1
        begin, full_begin, full_end, end = band_limits(q_start + first, q_start + last, kv_len, band, BLOCK_N)
        for tile in tl.range(begin, end):
            n0 = tile * BLOCK_N
            k_tile = load_keys(keys, k.strides, n0, kv_len, slots, q_tile.dtype, CONSTANTS)
            score = scores_of(q_tile, k_tile, undo, factor, scoring)
            masked = (tile < full_begin) | (tile >= full_end)
            if masked:
                score = tl.where(band_keeps(q_pos, n0 + n, kv_len, band), score, float("-inf"))
            v_tile = load_keys(values, v_strides, n0, kv_len, slots, q_tile.dtype, CONSTANTS)
            state = accumulate(state, score, v_tile, scale)
            mark(visits, batch, head, row, tile, tl.where(masked, 1, 2))
    else:
        # a row of tiles for the rows of this program, or for each position, of which a single query has one
        map_row = row
        MAP_QUERIES: tl.constexpr = QUERIES if mask.first is None else 1
        if mask.first is not None:
            map_row = q_start - mask.first
        row_ptr = base(mask.start, batch, first_head) + map_row
        for run in tl.range(tl.load(row_ptr), tl.load(row_ptr + 1)):
            run_ptr = mask.runs + wide(run) * 4
            begin = tl.load(run_ptr)
            end = tl.minimum(tl.load(run_ptr + 1), tl.cdiv(kv_len, BLOCK_N))
            # a full run may end in a tile with keys that are not real: that one is masked, by kv_len alone
            full_end = tl.where(tl.load(run_ptr + 2) == 2, kv_len // BLOCK_N, begin)
            for tile in tl.range(begin, end):
                n0 = tile * BLOCK_N
                k_tile = load_keys(keys, k.strides, n0, kv_len, slots, q_tile.dtype, CONSTANTS)
                score = scores_of(q_tile, k_tile, undo, factor, scoring)
                masked = tile >= full_end
                if masked:
                    if mask.bits is None:
                        keep = band_keeps(q_pos, n0 + n, kv_len, band)
                    else:
                        first_tile = tl.load(run_ptr + 3)  # -1 for a full run
                        bits_ptr = mask.bits + wide(first_tile + tile - begin) * (tl.cdiv(BLOCK_N, 64) * MAP_QUERIES)
                        bits_ptr += m // GROUP
                        partial = real_row & (first_tile >= 0)
                        bits = tl.load(bits_ptr, mask=partial, other=-1) & first_bits(kv_len - n0)
                        more = bits
                        if BLOCK_N > 64:
                            more = tl.load(bits_ptr + MAP_QUERIES, mask=partial, other=-1) & first_bits(
                                kv_len - n0 - 64
                            )
                        keep = unpack_bits(bits, more, BLOCK_N)
                    score = tl.where(keep, score, float("-inf"))
                v_tile = load_keys(values, v_strides, n0, kv_len, slots, q_tile.dtype, CONSTANTS)
                state = accumulate(state, score, v_tile, scale)
                mark(visits, batch, head, row, tile, tl.where(masked, 1, 2))

    acc, row_max, row_sum = state
    if scoring.v_scale is not None:
        acc *= tl.load(scoring.v_scale + kv_head * scoring.v_scale_stride)
    result = acc * (1.0 / tl.where(row_sum == 0, 1.0, row_sum))[:, None]
    out_ptr = base(out, batch, first_head) + wide(q_first + first) * out.strides[2]
    out_rows = local(m // GROUP, out.strides[2], WIDE) + local(member, out.strides[1], WIDE)
    out_ptrs = out_ptr + out_rows[:, None] + local(d, out.strides[3], WIDE)[None, :]
    tl.store(out_ptrs, result.to(out.ptr.dtype.element_ty), mask=real_row[:, None] & (d < HEAD_DIM)[None, :])
    if lse is not None:
        lse_ptr = base(lse, batch, first_head) + local(member, lse.strides[1], True)
        lse_ptr += (q_first + i).to(tl.int64) * lse.strides[2]
        tl.store(lse_ptr, log_sum_exp(row_max, row_sum), mask=real_row)
    exit_scope("program")
