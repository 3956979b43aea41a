"""The Triton split-K kernels for decode: few queries, long caches, all SMs busy.

The live key tiles of a KV head are divided among a number of programs that the host has fixed; where they begin and end
is worked out on the device from the true kv_len, so that a large buffer with few keys keeps every program busy and a
CUDA graph replays with new lengths (Flash-Decoding, https://pytorch.org/blog/flash-decoding). Every program keeps a
true running maximum; the last program of a KV head merges where the shares are few and small, else `reduce`.
"""

# pyright: reportAttributeAccessIssue=false
# A constexpr is typed as such, not as the named tuple that it holds.

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ...launching.primitives import base, load_block, load_mask_bits, local, ring_slots, unpack_bits, wide
from ...launching.scopes import enter_scope, exit_scope
from ..band import band_keeps, band_limits, first_slot, keys_of
from ..float8 import accumulate_words, as_float16, scores_of, signed_queries
from ..softmax import accumulate, finite_max, first_sums, log_sum_exp


class DecodeConstants(NamedTuple):
    """What `decode` is compiled for."""

    SIGN: int
    """The scale's: -1, 0 or 1."""
    GROUP: int
    """Query heads of a KV head."""
    HEAD_DIM: int
    BLOCK_M: int
    BLOCK_N: int
    BLOCK_D: int
    """HEAD_DIM or more, a power of two."""
    BLOCK_R: int
    """Where the last program merges: the rows of a KV head or more, a power of two; else 1."""
    BLOCK_S: int
    """Where the last program merges: the shares or more, a power of two; else 1."""
    APART: bool
    """Whether blocks of a KV head's rows stand side by side in the grid: where they are more than BLOCK_M; and where
    products are by wgmma also one block, since ptxas waits for its instructions one by one otherwise."""
    WIDE: bool
    """Whether an offset inside a tile needs 64 bits."""
    OVERLAP: bool
    """Whether it is launched before the kernel ahead has ended, and lets the next one start before it has."""
    RING: str
    """See `ring_kind`."""
    BITS: bool
    """Whether a mask's bits say what queries see, not the band."""
    MASK_ALL: bool
    """Whether the band masks every tile, not those alone that need it; see `plan.uses_wgmma`."""
    WORDS: bool
    """Whether values are float8 that are read in words of two; their strides count words."""


@triton.jit
def load_slots(pointer, strides, n0, low, kv_len, slots, PACKED: tl.constexpr, CONSTANTS: tl.constexpr):
    """[BLOCK_N, BLOCK_D // PACKED]: the keys n0 .. of a head's cache, 0 outside low .. kv_len - 1, where NaN may be.

    PACKED: how many dimensions an element of the pointer holds.
    """
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM // PACKED
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D // PACKED
    BLOCK_N: tl.constexpr = CONSTANTS.BLOCK_N
    WIDE: tl.constexpr = CONSTANTS.WIDE
    RING: tl.constexpr = CONSTANTS.RING
    n = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    slot = n  # counted from n0's, or in a ring from the first
    if RING != "none":
        slot = ring_slots(n0, n, slots, RING)
    offsets = local(slot, strides[2], WIDE)[:, None] + local(d, strides[3], WIDE)[None, :]
    live = (n0 + n >= low) & (n0 + n < kv_len)
    start = pointer
    if RING == "none":
        start += wide(n0) * strides[2]
    return load_block(start + offsets, live[:, None], (d < HEAD_DIM)[None, :], HEAD_DIM != BLOCK_D)


@triton.jit
def share(begin, end, split, splits):
    """Tiles (from, to) of the `split`-th of `splits` even shares of begin..end; shares differ by one tile at most."""
    tiles = wide(end - begin)
    first = begin + (tiles * split // splits).to(tl.int32)
    return first, begin + (tiles * (split + 1) // splits).to(tl.int32)


@triton.jit
def shares(parts, index, ok, HEAD_DIM: tl.constexpr, d):
    """(acc, row_max, row_sum) of the shares at `index`; d: acc's columns. The L1, which may be stale, is bypassed."""
    row_max = tl.load(parts.row_max + index, mask=ok, other=float("-inf"), cache_modifier=".cg")
    row_sum = tl.load(parts.row_sum + index, mask=ok, other=0.0, cache_modifier=".cg")
    acc = tl.load(
        parts.acc + tl.expand_dims(index * HEAD_DIM, -1) + d, mask=tl.expand_dims(ok, -1) & (d < HEAD_DIM), other=0.0,
        cache_modifier=".cg",
    )  # fmt: skip
    # a share that saw no key has left its acc unwritten, perhaps nan; loading only after row_sum would be a second trip
    return tl.where(tl.expand_dims(row_sum != 0, -1), acc, 0.0), row_max, row_sum


@triton.jit
def store_rows(out, lse, row, real_row, state, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of out and lse, both contiguous, from their whole state."""
    acc, row_max, row_sum = state
    d = tl.arange(0, BLOCK_D)
    result = acc / tl.where(row_sum == 0, 1.0, row_sum)[:, None]
    out_ptrs = out.ptr + (row * HEAD_DIM)[:, None] + d[None, :]
    tl.store(out_ptrs, result.to(out.ptr.dtype.element_ty), mask=real_row[:, None] & (d < HEAD_DIM)[None, :])
    if lse is not None:
        tl.store(lse.ptr + row, log_sum_exp(row_max, row_sum), mask=real_row)


@triton.jit
def rows_of(q, batch, kv_head, r, GROUP: tl.constexpr):
    """int64: where the rows r of a KV head stand among all B * Hq * Lq rows."""
    return (wide(batch) * q.shape[1] + kv_head * GROUP + r % GROUP) * q.shape[2] + r // GROUP


@triton.jit
def is_last(counter, programs):
    """Whether this is the last of `programs` programs to call it; it then sees what the others stored before."""
    tl.debug_barrier()  # what all threads have stored is released by the one that counts
    last = tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == programs - 1
    if last:
        tl.atomic_xchg(counter, 0)
    return last


@triton.jit
def merge_at_once(q, out, lse, parts, batch, kv_head, splits, CONSTANTS: tl.constexpr):
    """Merges all shares of a KV head's rows, held in registers at once as [BLOCK_R, BLOCK_S, BLOCK_D]."""
    GROUP: tl.constexpr = CONSTANTS.GROUP
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    r = tl.arange(0, CONSTANTS.BLOCK_R)
    s = tl.arange(0, CONSTANTS.BLOCK_S)
    d = tl.arange(0, BLOCK_D)
    row = rows_of(q, batch, kv_head, r, GROUP)
    real_row = r < GROUP * q.shape[2]
    ok = real_row[:, None] & (s < splits)[None, :]
    accs, row_maxes, row_sums = shares(parts, (row * splits)[:, None] + s[None, :], ok, HEAD_DIM, d[None, None, :])
    row_max = tl.max(row_maxes, 1)
    weights = tl.exp2(row_maxes - finite_max(row_max)[:, None])
    state = tl.sum(accs * weights[:, :, None], 1), row_max, tl.sum(row_sums * weights, 1)
    store_rows(out, lse, row, real_row, state, HEAD_DIM, BLOCK_D)


@triton.jit
def masked_alike(score, own, n, band):
    """The scores of keys n of a tile that the rows see, -inf for others; own: the key at which each row stands.

    The last query stands at the last key: what none may see, as it is not real, lies behind all.
    """
    keep = n[None, :] <= own[:, None]
    if band.left is not None:
        keep &= n[None, :] >= own[:, None] - band.left
    return tl.where(keep, score, float("-inf"))


@triton.jit
def seen_tiles(first_row, q_len, kv_len, slots, band, CONSTANTS: tl.constexpr):
    """(the first key that may be read, then begin, full_begin, full_end, end of `band_limits`) of BLOCK_M rows."""
    first_q = kv_len - q_len
    first, last = first_q, kv_len - 1  # the positions of these rows' queries
    if CONSTANTS.APART:
        first = first_q + first_row // CONSTANTS.GROUP
        last = tl.minimum(first_q + (first_row + CONSTANTS.BLOCK_M - 1) // CONSTANTS.GROUP, last)
    low = first * 0
    if band.left is not None:
        low = tl.maximum(first - band.left, 0)
    if CONSTANTS.RING != "none":
        low = tl.maximum(low, kv_len - slots)
    begin, full_begin, full_end, end = band_limits(first, last, kv_len, band, CONSTANTS.BLOCK_N)  # pyright: ignore
    return low, begin, full_begin, full_end, end


@triton.jit
def caches_of(k, v, v_strides, lengths, batch, kv_head, CONSTANTS: tl.constexpr):
    """Where a KV head's keys and values begin, the values as words of two if WORDS."""
    k_ptr = base(k, batch, kv_head)
    v_ptr = v.ptr
    if CONSTANTS.WORDS:
        v_ptr = v_ptr.to(tl.pointer_type(tl.int16), bitcast=True)
    v_ptr = v_ptr + wide(batch) * v_strides[0] + wide(kv_head) * v_strides[1]
    if lengths.first is not None:
        first_key = wide(first_slot(lengths, batch))  # pyright: ignore
        k_ptr += first_key * k.strides[2]
        v_ptr += first_key * v_strides[2]
    return k_ptr, v_ptr


@triton.jit
def first_state(scoring, heads, sees_sinks, CONSTANTS: tl.constexpr):
    """(acc, row_max, row_sum) before the first tile; if WORDS, acc of even and acc of odd columns. heads: the rows'."""
    BLOCK_M: tl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    row_max, row_sum = first_sums(scoring, heads, sees_sinks, BLOCK_M)  # pyright: ignore
    if CONSTANTS.WORDS:
        acc = tl.zeros((BLOCK_M, BLOCK_D // 2), tl.float32)
        return acc, acc, row_max, row_sum
    else:  # noqa: RET505 - the other way must not be compiled
        return tl.zeros((BLOCK_M, BLOCK_D), tl.float32), row_max, row_sum


@triton.jit
def after_all(state, scoring, kv_head, CONSTANTS: tl.constexpr):
    """(acc [BLOCK_M, BLOCK_D], row_max, row_sum) of the state that `attend` has after its last tile."""
    if CONSTANTS.WORDS:
        even, odd, row_max, row_sum = state
        state = (tl.reshape(tl.join(even, odd), (CONSTANTS.BLOCK_M, CONSTANTS.BLOCK_D)), row_max, row_sum)
    if scoring.v_scale is not None:
        state = (state[0] * tl.load(scoring.v_scale + kv_head * scoring.v_scale_stride), state[1], state[2])
    return state


@triton.jit
def attend(
    q, k, v, mask, lengths, band, scoring, at, part, kv_len, EVEN: tl.constexpr, CONSTANTS: tl.constexpr
):  # fmt: skip
    """(acc [BLOCK_M, BLOCK_D], row_max, row_sum [BLOCK_M]) of BLOCK_M rows of a KV head after a part of their tiles.

    mask: `decode.launch.RowBits` if BITS. at: (batch, KV head, its first row). part: (i, n), the i-th of n even shares
    of the tiles of keys that these rows see, if EVEN, else the i-th to the n-th of them. kv_len: the batch's.
    """
    GROUP: tl.constexpr = CONSTANTS.GROUP
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_M: tl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_N: tl.constexpr = CONSTANTS.BLOCK_N
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    WIDE: tl.constexpr = CONSTANTS.WIDE
    batch, kv_head, first_row = at
    q_len = q.shape[2]
    first_q = kv_len - q_len

    # row r of a KV head: query r // GROUP of its r % GROUP-th query head
    r = first_row + tl.arange(0, BLOCK_M)
    i = r // GROUP
    real_row = i < q_len
    d = tl.arange(0, BLOCK_D)
    q_rows = local(r % GROUP, q.strides[1], WIDE) + local(i, q.strides[2], WIDE)
    q_tile = load_block(
        base(q, batch, kv_head * GROUP) + q_rows[:, None] + local(d, q.strides[3], WIDE)[None, :],
        real_row[:, None], (d < HEAD_DIM)[None, :], HEAD_DIM != BLOCK_D,
    )  # fmt: skip
    q_tile, factor, scale = signed_queries(q_tile, scoring, kv_head, CONSTANTS.SIGN)  # pyright: ignore
    undo = None
    if k.ptr.dtype.element_ty != q_tile.dtype and q_tile.dtype == tl.bfloat16:
        q_tile, undo = as_float16(q_tile)  # pyright: ignore

    slots = k.shape[2]
    low, begin, full_begin, full_end, end = seen_tiles(first_row, q_len, kv_len, slots, band, CONSTANTS)  # pyright: ignore
    if EVEN:
        begin, end = share(begin, end, part[0], part[1])
    else:
        end = begin + part[1]
        begin += part[0]
    # values laid out like the keys share their offsets, and so the registers that hold them
    v_strides = k.strides if v.strides is None else v.strides
    k_ptr, v_ptr = caches_of(k, v, v_strides, lengths, batch, kv_head, CONSTANTS)  # pyright: ignore
    n = tl.arange(0, BLOCK_N)
    # the first share has seen the sinks, the others have not
    heads = kv_head * GROUP + r % GROUP
    state = first_state(scoring, heads, real_row & (part[0] == 0), CONSTANTS)
    if CONSTANTS.BITS:
        # a tile's bits are loaded while the one before is multiplied
        bits_ptr = mask.ptr + wide(batch) * mask.strides[0] + heads.to(tl.int64) * mask.strides[1]
        bits_ptr += i.to(tl.int64) * mask.strides[2]
        bits, more = load_mask_bits(bits_ptr, mask.words, begin * BLOCK_N, real_row & (begin < end), BLOCK_N)
    for tile in tl.range(begin, end):
        n0 = tile * BLOCK_N
        if CONSTANTS.BITS:
            is_ahead = real_row & (tile + 1 < end)
            next_bits, next_more = load_mask_bits(bits_ptr, mask.words, n0 + BLOCK_N, is_ahead, BLOCK_N)
        k_tile = load_slots(k_ptr, k.strides, n0, low, kv_len, slots, 1, CONSTANTS).to(q_tile.dtype)
        score = scores_of(q_tile, k_tile, undo, factor, scoring)
        if CONSTANTS.BITS:
            score = tl.where(unpack_bits(bits, more, BLOCK_N), score, float("-inf"))
            bits, more = next_bits, next_more
        elif CONSTANTS.MASK_ALL:
            score = masked_alike(score, first_q + i - n0, n, band)
        elif (tile < full_begin) | (tile >= full_end):
            score = tl.where(band_keeps(first_q + i, n0 + n, kv_len, band), score, float("-inf"))
        if CONSTANTS.WORDS:
            words = load_slots(v_ptr, v_strides, n0, low, kv_len, slots, 2, CONSTANTS)
            state = accumulate_words(state, score, words, scale)
        else:
            v_tile = load_slots(v_ptr, v_strides, n0, low, kv_len, slots, 1, CONSTANTS).to(q_tile.dtype)
            state = accumulate(state, score, v_tile, scale)
    return after_all(state, scoring, kv_head, CONSTANTS)


@triton.jit
def decode(q, k, v, out, lse, parts, lengths, band, scoring, mask, CONSTANTS: tl.constexpr):
    """One program: one share of the key tiles for BLOCK_M of the GROUP * Lq rows that a KV head serves.

    q, out [B, Hq, Lq, D]; k, v [B, Hkv, Lkv, D]; lse [B, Hq, Lq] or None. parts: where shares go, see
    `decode.launch.Parts`; parts.acc is None for a single share, which writes out and lse itself; parts.arrived:
    counters, 0 before and after, or None where `reduce` merges. lengths, band: see `attention.band`. scoring: see
    `attention.softmax`. mask: `decode.launch.RowBits`, with a band that has no limits, or None. CONSTANTS:
    `DecodeConstants`. All but `load_slots` counts in positions, also where the cache is a ring.
    Grid: (splits * blocks of rows, KV heads, B); blocks that read the same keys run side by side, so that one of them
    brings these to the L2 for all.
    """
    GROUP: tl.constexpr = CONSTANTS.GROUP
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    BLOCK_M: tl.constexpr = CONSTANTS.BLOCK_M
    BLOCK_D: tl.constexpr = CONSTANTS.BLOCK_D
    enter_scope("share")
    if CONSTANTS.OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    split, kv_head, batch = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    splits = tl.num_programs(0)
    q_len = q.shape[2]
    first_row = 0
    if CONSTANTS.APART:
        blocks = tl.cdiv(GROUP * q_len, BLOCK_M)
        first_row = split % blocks * BLOCK_M
        split //= blocks
        splits //= blocks
    kv_len = keys_of(lengths, batch)  # pyright: ignore
    at, part = (batch, kv_head, first_row), (split, splits)
    state = attend(q, k, v, mask, lengths, band, scoring, at, part, kv_len, True, CONSTANTS)

    r = first_row + tl.arange(0, BLOCK_M)
    real_row = r // GROUP < q_len
    row = rows_of(q, batch, kv_head, r, GROUP)
    if parts.acc is None:  # Triton 3.6 cannot ask a tuple with a None in it whether it is None
        store_rows(out, lse, row, real_row, state, HEAD_DIM, BLOCK_D)
    else:
        acc, row_max, row_sum = state
        index = row * splits + split
        tl.store(parts.row_max + index, row_max, mask=real_row)
        tl.store(parts.row_sum + index, row_sum, mask=real_row)
        d = tl.arange(0, BLOCK_D)
        # a share that saw nothing is known by its sum
        stored = (real_row & (row_sum != 0))[:, None] & (d < HEAD_DIM)[None, :]
        tl.store(parts.acc + (index * HEAD_DIM)[:, None] + d[None, :], acc, mask=stored)
        if parts.arrived is not None:
            counter = parts.arrived + batch * tl.num_programs(1) + kv_head
            if is_last(counter, splits):
                enter_scope("merge")
                merge_at_once(q, out, lse, parts, batch, kv_head, splits, CONSTANTS)
                exit_scope("merge")
    exit_scope("share")


@triton.jit
def merged(state, parts, index, ok, HEAD_DIM: tl.constexpr, d):
    """(acc [dimensions d], row_max, row_sum) of a row, with the shares at `index` beside those that it has."""
    acc, row_max, row_sum = state
    accs, row_maxes, row_sums = shares(parts, index, ok, HEAD_DIM, d[None, :])  # pyright: ignore
    new_max = tl.maximum(row_max, tl.max(row_maxes, 0))
    safe_max = finite_max(new_max)
    rescale = tl.exp2(row_max - safe_max)
    weights = tl.exp2(row_maxes - safe_max)
    row_sum = row_sum * rescale + tl.sum(row_sums * weights, 0)
    return acc * rescale + tl.sum(accs * weights[:, None], 0), new_max, row_sum


@triton.jit
def store_merged(out, lse, row, state, HEAD_DIM: tl.constexpr, d):
    """Dimensions d of a row of out from its whole state, and by the programs of the first of them its lse."""
    acc, row_max, row_sum = state
    result = acc / tl.where(row_sum == 0, 1.0, row_sum)
    tl.store(out.ptr + row * HEAD_DIM + d, result.to(out.ptr.dtype.element_ty), mask=d < HEAD_DIM)
    if lse is not None:
        tl.store(lse.ptr + row, log_sum_exp(row_max, row_sum), mask=tl.program_id(1) == 0)


@triton.jit
def reduce(
    out, lse, parts, splits,
    HEAD_DIM: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_D: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK_D dimensions of one row of out, merged from its shares, BLOCK_S at a time.

    Grid: (B * Hq * Lq, blocks of dimensions). Maxima and sums are kept apart, and not as one log-sum-exp: at logits of
    ten thousand that would round to a thousandth. OVERLAP: it is launched early and waits here for `decode`'s end.
    """
    enter_scope("merge")
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    row = wide(tl.program_id(0))
    d = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    acc = tl.zeros((BLOCK_D,), tl.float32)
    state = acc, tl.full((), float("-inf"), tl.float32), tl.full((), 0.0, tl.float32)
    for first in tl.range(0, splits, BLOCK_S):
        s = first + tl.arange(0, BLOCK_S)
        state = merged(state, parts, row * splits + s, s < splits, HEAD_DIM, d)
    store_merged(out, lse, row, state, HEAD_DIM, d)
    exit_scope("merge")
