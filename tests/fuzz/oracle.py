"""What the contract's words mean, in numpy's float64, and how far roundings may lead from it.

Nothing of blockskip is imported: a mask is a tree of plain tuples such as ("and", ("window", 8), ("not", ("sink", 2))).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

HALF_UNIT = {"float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}
"""The largest relative error of one rounding."""
SMALLEST = {"float32": 2.0**-149, "bfloat16": 2.0**-133, "float16": 2.0**-24}
"""The smallest number above 0: half of it is the largest error of a rounding near 0."""
U32 = HALF_UNIT["float32"]
LEAST_WEIGHT = 2.0**-125
"""Exponentials below it may come as 0: those below 2**-126 in float32, below 2**-125.5 in torch's CPU kernel."""


def keeps(tree, q, k, row, batch=0, head=0):
    """bool, broadcast: whether the query at position q (row `row` of the call) sees the key at position k."""
    kind, *given = tree
    back = q - k
    match kind:
        case "and" | "or":
            a, b = (keeps(part, q, k, row, batch, head) for part in given)
            return a & b if kind == "and" else a | b
        case "not":
            return ~keeps(given[0], q, k, row, batch, head)
        case "band":
            left, right = given
            return (back <= (np.inf if left is None else left)) & (back >= (-np.inf if right is None else -right))
        case "causal":
            return k <= q
        case "window":
            return (back >= 0) & (back < given[0])
        case "prefix":
            return (k <= q) | (k < given[0])
        case "sink":
            return (k < given[0]) & (q == q)
        case "chunked":
            return np.floor_divide(q, given[0]) == np.floor_divide(k, given[0])
        case "document":
            ends = np.cumsum(given[0])
            inside = (q >= 0) & (q < ends[-1]) & (k < ends[-1])
            return inside & (np.searchsorted(ends, q, "right") == np.searchsorted(ends, k, "right"))
        case "dilated":
            return back % given[0] == 0
        case "dense":
            table = given[0]
            if table.ndim == 2:
                return table[row, k]
            return table[batch if table.shape[0] > 1 else 0, head if table.shape[1] > 1 else 0, row, k]
        case "mod":
            return given[0](batch, head, row, k) & (row == row) & (k == k)
    raise AssertionError(kind)


def kept(tree, batches, heads, q_len, keys, q_start):
    """bool [batches, heads, q_len, keys]; q_start: one for each batch; keys: positions [keys], or [batches, keys]."""
    row = np.arange(q_len)[:, None]
    out = np.empty((batches, heads, q_len, np.shape(keys)[-1]), bool)
    for b, h in np.ndindex(batches, heads):
        positions = np.broadcast_to(keys, (batches, np.shape(keys)[-1]))[b][None]
        out[b, h] = keeps(tree, row + q_start[b], positions, row, b, h)
    return out


def states(keep, block_m, block_n):
    """uint8 [rows, cols] of keep [q_len, kv_len]: 0 empty, 1 partial, 2 full, of real elements only."""
    q_len, kv_len = keep.shape
    out = np.zeros((-(-q_len // block_m), -(-kv_len // block_n)), np.uint8)
    for r, c in np.ndindex(out.shape):
        part = keep[r * block_m : (r + 1) * block_m, c * block_n : (c + 1) * block_n]
        out[r, c] = 2 if part.all() else int(part.any())
    return out


def ring_positions(kv_len, slots):
    """The position that each slot holds after kv_len keys, negative where none."""
    out = np.full(slots, -1)
    for position in range(max(0, kv_len - slots), kv_len):
        out[position % slots] = position
    return out


@dataclass(frozen=True)
class Expected:
    """A result and the largest error that roundings explain; lse and its bound for attention alone."""

    out: np.ndarray
    bound: np.ndarray
    lse: np.ndarray | None = None
    lse_bound: np.ndarray | None = None


def attention(q, k, v, keep, scale, dtype, *, exact=False, far=False, added=0.0, sinks=None, softcap=None) -> Expected:
    """softmax(scale * q k^T + added, where keep) v; a query that sees nothing gives 0 and lse -inf.

    sinks: [heads], a key of that score for all queries, whose value is 0. softcap: scores are softcap * tanh(. / it).
    exact: products q k and their multiples by scale have no rounding in float32 (whole numbers, a power of two).
    far: the exponent's argument is a difference of two rounded products, as Triton's interpreter has its fma.
    """
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(np.where(keep_any(keep, group)[..., None], x, 0.0), group, 1) for x in (k, v))
    score, size = scale * (q @ k.swapaxes(2, 3)), abs(scale) * (np.abs(q) @ np.abs(k).swapaxes(2, 3))
    score, size = score + added, size + np.abs(added)
    tangent = 0.0
    if softcap is not None:  # float32's tangent is off by 16 units; its slope is 1 at most, so other errors grow not
        score = softcap * np.tanh(score / softcap)
        tangent = 20 * U32 * np.abs(score)
    if sinks is not None:
        logits = np.broadcast_to(sinks[:, None, None], (*score.shape[:3], 1))
        there = np.isfinite(logits)
        keep = np.concatenate([keep, there], 3)
        logits = np.where(there, logits, 0.0)
        score, size = np.concatenate([score, logits], 3), np.concatenate([size, np.abs(logits)], 3)
        v = np.pad(v, ((0, 0), (0, 0), (0, 1), (0, 0)))
        tangent = 0.0 if softcap is None else np.pad(tangent, ((0, 0), (0, 0), (0, 0), (0, 1)))
    exact = exact and sinks is None and softcap is None
    score = np.where(keep, score, -np.inf)
    most = score.max(-1, keepdims=True)
    blind = np.isneginf(most)
    down = np.where(keep, score - np.where(blind, 0.0, most), -np.inf)
    weight = np.exp(down)
    total = weight.sum(-1, keepdims=True)
    share = weight / np.where(blind, 1.0, total)
    out = share @ v
    lse = np.where(blind, -np.inf, most + np.log(np.where(blind, 1.0, total)))[..., 0]

    # float32: products and sums of q k, their scaling, the difference from the maximum, the exponential
    distance = np.where(keep, -down, 0.0)
    moved = 3 * U32 * distance + (2 * U32 * size if far else 0.0) + tangent
    if not exact:
        moved = moved + (q.shape[3] + 2) * U32 * size + 2 * U32 * np.where(keep, np.abs(score), 0.0)
    summing = (2 * keep.shape[3] + 16) * U32
    relative = np.where(keep, np.expm1(moved + summing), 0.0)
    # a weight is rounded to the dtype, and so is the result over some of the keys, and the whole
    unit = HALF_UNIT[dtype]
    magnitude = share @ np.abs(v)
    error = (share * relative) @ np.abs(v) + np.abs(out) * (share * relative).sum(-1, keepdims=True)
    error = error + 2 * unit * magnitude + unit * (np.abs(out) + error)
    tiny = max(SMALLEST[dtype], LEAST_WEIGHT) * (1 + np.where(keep, 1.0, 0.0) @ np.abs(v))
    shift = np.where(keep, moved, 0.0).max(-1)
    lse_bound = shift + summing + 4 * U32 * (1 + np.where(np.isneginf(lse), 0.0, np.abs(lse)))
    return Expected(np.where(blind, 0.0, out), np.where(blind, 0.0, error + tiny), lse, lse_bound)


def keep_any(keep, group):
    """bool [B, Hkv, keys]: whether any query of the head's group sees the key."""
    b, h, _, n = keep.shape
    return keep.any(2).reshape(b, h // group, group, n).any(2)


def rounded_activations(x):
    """x [M, K], float32, as int8 leaves it: float64 codes times float32 steps, a step for each 32."""
    blocks = x.astype(np.float32).reshape(len(x), -1, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    codes = np.clip(np.rint(blocks / np.where(step == 0, np.float32(1), step)), -127, 127)
    return (codes.astype(np.float64) * step).reshape(x.shape)


def codes(data, bits):
    """Codes [N, K] of packed data: nibbles low first, or int8 in two planes of half blocks."""
    if bits == 4:
        return np.stack([data & 15, data >> 4], -1).reshape(len(data), -1).astype(np.float64)
    return data.transpose(0, 2, 1, 3).reshape(len(data), -1).astype(np.float64)


def weight(data, bits, scale, zero=None, minimum=None, scale_step=None, minimum_step=None):
    """(values, sum of the magnitudes of their terms) [N, K] in float64, as QuantizedWeight's table of layouts says."""
    code = codes(data, bits)

    def each(values, step):
        values = values.astype(np.float64)
        if step is not None:
            values = values * np.repeat(step, values.shape[1] // step.shape[1], 1)
        return np.repeat(values, code.shape[1] // values.shape[1], 1)

    scale = each(scale, scale_step)
    if zero is not None:
        value = (code - each(zero, None)) * scale
        return value, np.abs(value)
    if minimum is not None:
        spread, low = (code - (0 if bits == 4 else -128)) * scale, each(minimum, minimum_step)
        return spread + low, np.abs(spread) + np.abs(low)
    value = (code - (8 if bits == 4 else 0)) * scale
    return value, np.abs(value)


def linear(x, w, terms, bias, dtype) -> Expected:
    """x [M, K] w^T + bias for up to 8 rows of rounded activations, and for more rows of plain ones.

    w, terms: `weight`'s. bias: [N], or None.
    """
    few, unit = len(x) <= 8, HALF_UNIT[dtype]
    left = rounded_activations(x) if few else x
    add = np.zeros(len(w)) if bias is None else bias
    out, size = left @ w.T + add, np.abs(left) @ terms.T + np.abs(add)
    error = (x.shape[1] + 16) * U32 * size
    if not few:  # the weight is rounded to the dtype, and the product before the bias is added
        error = error + unit * (np.abs(left) @ np.abs(w).T) + unit * size
        error = error + SMALLEST[dtype] * np.abs(left).sum(1, keepdims=True)
    error = error + unit * (np.abs(out) + error) + SMALLEST[dtype]
    return Expected(out, error)
