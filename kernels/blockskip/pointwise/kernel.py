"""The Triton kernels between a decoder's products. Each computes in float32 and rounds what it stores, once.

They are launched before the kernel ahead has ended: weights are read at once, everything else after `gdc_wait`.
"""

# pyright: reportAttributeAccessIssue=false
# A constexpr has the attributes of its value.

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from ..launching.primitives import wide

LOG2_E = tl.constexpr(1.4426950408889634)
GELU_SCALE = tl.constexpr(1.5957691216057308)
"""2 * sqrt(2 / pi): 0.5 (1 + tanh(u)) is the logistic function of 2 u."""
GELU_CUBIC = tl.constexpr(0.044715)


class NormConstants(NamedTuple):
    """What `residual_norm` is compiled for. BLOCK: COLUMNS or more, a power of two."""

    COLUMNS: int
    BLOCK: int
    OVERLAP: bool


class HeadConstants(NamedTuple):
    """What `rotated_heads` is compiled for.

    BLOCK_H: heads of one program. HALF: half of HEAD_DIM or more, a power of two. FIRST_VALUE: the first head of the
    product that is read as values.
    """

    QUERY_HEADS: int
    KV_HEADS: int
    HEAD_DIM: int
    FIRST_VALUE: int
    VALUE_NORM: bool
    BLOCK_H: int
    HALF: int
    OVERLAP: bool


@triton.jit
def begin_early(OVERLAP: tl.constexpr):
    """Lets the next kernel start, which may read weights at once, and waits for the one ahead."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()


@triton.jit
def over_root_mean_square(x, eps, COLUMNS: tl.constexpr):
    """x over the root of the mean of its squares; x holds 0 beyond COLUMNS."""
    return x * tl.rsqrt(tl.sum(x * x, 0) / COLUMNS + eps)


@triton.jit
def residual_norm(x, update, out, normed, weight, update_weight, scalar, eps, CONSTANTS: tl.constexpr):
    """One row of: out = (x + norm(update)) * scalar, normed = norm(out). All [M, COLUMNS], dense.

    update None: out is x, and not written. update_weight None: update as it is. scalar: one element, or None. Grid: M.
    """
    COLUMNS: tl.constexpr = CONSTANTS.COLUMNS
    k = tl.arange(0, CONSTANTS.BLOCK)
    real = k < COLUMNS
    w = tl.load(weight + k, mask=real, other=0.0).to(tl.float32)
    if update_weight is not None:
        w_update = tl.load(update_weight + k, mask=real, other=0.0).to(tl.float32)
    factor = 1.0
    if scalar is not None:
        factor = tl.load(scalar).to(tl.float32)
    begin_early(CONSTANTS.OVERLAP)
    at = wide(tl.program_id(0)) * COLUMNS + k
    row = tl.load(x + at, mask=real, other=0.0).to(tl.float32)
    if update is not None:
        added = tl.load(update + at, mask=real, other=0.0).to(tl.float32)
        if update_weight is not None:
            added = over_root_mean_square(added, eps, COLUMNS) * w_update
        row = (row + added) * factor
        rounded = row.to(out.dtype.element_ty)
        tl.store(out + at, rounded, mask=real)
        row = rounded.to(tl.float32)  # what the next layer reads
    result = over_root_mean_square(row, eps, COLUMNS) * w
    tl.store(normed + at, result.to(normed.dtype.element_ty), mask=real)


@triton.jit
def halves(pointer, head, token, heads, CONSTANTS: tl.constexpr):
    """float32 [BLOCK_H, HALF] twice: the two halves of some heads of a token; `heads` in a row of the product."""
    HEAD_DIM: tl.constexpr = CONSTANTS.HEAD_DIM
    d = tl.arange(0, CONSTANTS.HALF)[None, :]
    start = pointer + wide(token) * heads * HEAD_DIM
    at = head[:, None] * HEAD_DIM + d
    ok = (head < heads)[:, None] & (d < HEAD_DIM // 2)
    first = tl.load(start + at, mask=ok, other=0.0).to(tl.float32)
    return first, tl.load(start + at + HEAD_DIM // 2, mask=ok, other=0.0).to(tl.float32)


@triton.jit
def halves_of(pointer, CONSTANTS: tl.constexpr):
    """float32 [1, HALF] twice: the two halves of a norm's weight."""
    HALF_DIM: tl.constexpr = CONSTANTS.HEAD_DIM // 2
    d = tl.arange(0, CONSTANTS.HALF)
    first = tl.load(pointer + d, mask=d < HALF_DIM, other=0.0).to(tl.float32)
    second = tl.load(pointer + HALF_DIM + d, mask=d < HALF_DIM, other=0.0).to(tl.float32)
    return first[None, :], second[None, :]


@triton.jit
def over_heads(first, second, eps, HEAD_DIM: tl.constexpr):
    """The halves over the root of the mean of their head's squares."""
    factor = tl.rsqrt(tl.sum(first * first + second * second, 1) / HEAD_DIM + eps)[:, None]
    return first * factor, second * factor


@triton.jit
def turned_heads(qkv, first_head, token, turn, rotation, weight, eps, CONSTANTS: tl.constexpr):
    """BLOCK_H heads of a token, normed if there is a weight, and rotated; turn: which row of cos and sin.

    All is loaded before anything is computed: the loads wait for memory together.
    """
    HALF_DIM: tl.constexpr = CONSTANTS.HEAD_DIM // 2
    ALL: tl.constexpr = CONSTANTS.FIRST_VALUE + CONSTANTS.KV_HEADS
    d = tl.arange(0, CONSTANTS.HALF)
    first, second = halves(qkv, first_head + tl.arange(0, CONSTANTS.BLOCK_H), token, ALL, CONSTANTS)  # pyright: ignore[reportGeneralTypeIssues]
    at = wide(turn) * HALF_DIM + d
    cos = tl.load(rotation.cos + at, mask=d < HALF_DIM, other=0.0)[None, :]
    sin = tl.load(rotation.sin + at, mask=d < HALF_DIM, other=0.0)[None, :]
    if weight is not None:
        w_first, w_second = halves_of(weight, CONSTANTS)
        first, second = over_heads(first, second, eps, CONSTANTS.HEAD_DIM)
        first, second = first * w_first, second * w_second
    return first * cos - second * sin, second * cos + first * sin


@triton.jit
def store_halves(view, batch, head, slot, heads, parts, CONSTANTS: tl.constexpr):
    """Writes the halves of the heads below `heads` into a slot of [B, heads, slots, D]."""
    HALF_DIM: tl.constexpr = CONSTANTS.HEAD_DIM // 2
    first, second = parts
    d = tl.arange(0, CONSTANTS.HALF)[None, :]
    start = view.ptr + wide(batch) * view.strides[0] + wide(slot) * view.strides[2]
    at = head.to(tl.int64)[:, None] * view.strides[1]
    ok = (head < heads)[:, None] & (d < HALF_DIM)
    kind = view.ptr.dtype.element_ty
    tl.store(start + at + d * view.strides[3], first.to(kind), mask=ok)
    tl.store(start + at + (d + HALF_DIM) * view.strides[3], second.to(kind), mask=ok)


@triton.jit
def rotated_heads(qkv, q, keys, values, slots, rotation, norms, tokens, each, CONSTANTS: tl.constexpr):
    """BLOCK_H heads of one token of the fused product qkv [B, tokens, heads * D]: normed, rotated, written.

    q, keys, values: `View`s [B, H, slots, D]; q's slot is the token. slots: int64, or None, as q. rotation: `Rotation`,
    norms: (query, key, eps). each: 1 where batch entries have rows of slots and of the rotation of their own, else 0,
    for (slots, rotation). Grid: (B * tokens, blocks of query heads, then of keys', then of values').
    """
    BLOCK_H: tl.constexpr = CONSTANTS.BLOCK_H
    KV_HEADS: tl.constexpr = CONSTANTS.KV_HEADS
    QUERY_HEADS: tl.constexpr = CONSTANTS.QUERY_HEADS
    QUERY_BLOCKS: tl.constexpr = (QUERY_HEADS + BLOCK_H - 1) // BLOCK_H
    KV_BLOCKS: tl.constexpr = (KV_HEADS + BLOCK_H - 1) // BLOCK_H
    ALL: tl.constexpr = CONSTANTS.FIRST_VALUE + KV_HEADS
    begin_early(CONSTANTS.OVERLAP)
    token = tl.program_id(0)
    batch, t = token // tokens, token % tokens
    block = tl.program_id(1)
    h = tl.arange(0, BLOCK_H)
    slot = wide(t)
    if slots is not None:
        slot = tl.load(slots + batch * each[0] * tokens + t)
    turn = batch * each[1] * tokens + t
    if block < QUERY_BLOCKS:
        head = block * BLOCK_H
        parts = turned_heads(qkv, head, token, turn, rotation, norms.query, norms.eps, CONSTANTS)
        store_halves(q, batch, head + h, t, QUERY_HEADS, parts, CONSTANTS)
    elif block < QUERY_BLOCKS + KV_BLOCKS:
        head = (block - QUERY_BLOCKS) * BLOCK_H
        parts = turned_heads(qkv, QUERY_HEADS + head, token, turn, rotation, norms.key, norms.eps, CONSTANTS)
        store_halves(keys, batch, head + h, slot, KV_HEADS, parts, CONSTANTS)
    else:
        head = (block - QUERY_BLOCKS - KV_BLOCKS) * BLOCK_H
        first, second = halves(qkv, CONSTANTS.FIRST_VALUE + head + h, token, ALL, CONSTANTS)
        if CONSTANTS.VALUE_NORM:
            first, second = over_heads(first, second, norms.eps, CONSTANTS.HEAD_DIM)
        store_halves(values, batch, head + h, slot, KV_HEADS, (first, second), CONSTANTS)


@triton.jit
def logistic(x):
    return 1.0 / (1.0 + tl.exp2(-x * LOG2_E))


@triton.jit
def gated(gate_up, out, width, GELU: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    """BLOCK columns of a row of out [M, width] = activation(gate) * up, of gate_up [M, 2 width]; both dense.

    GELU: by its tanh form; else SiLU. Grid: (M, blocks of columns).
    """
    begin_early(OVERLAP)
    row = wide(tl.program_id(0))
    k = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    real = k < width
    start = gate_up + row * 2 * width
    gate = tl.load(start + k, mask=real, other=0.0).to(tl.float32)
    up = tl.load(start + width + k, mask=real, other=0.0).to(tl.float32)
    argument = gate
    if GELU:
        argument = GELU_SCALE * (gate + GELU_CUBIC * gate * gate * gate)
    result = gate * logistic(argument) * up
    tl.store(out + row * width + k, result.to(out.dtype.element_ty), mask=real)
