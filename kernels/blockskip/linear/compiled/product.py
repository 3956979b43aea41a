"""The product of activations in int8 and packed weights, in numba.

Inside a block of 32 weights the activations stand in two planes of 16 bytes, as the weights need them: for int4 the low
nibbles meet the even activations and the high nibbles the odd ones; for int8 the first half meets the first half. Sums
of their products are whole numbers, and exact. Each lane takes off what the zero point makes of the lane's own
activations, so that it holds no more than its weights are worth, and multiplies by scale and step.

A row's sums run in one order, whatever other rows there are: block by block in each lane, then over the lanes.
"""

# pyright: reportCallIssue=false, reportPrivateImportUsage=false, reportGeneralTypeIssues=false
# numba gives an intrinsic its first argument.

from __future__ import annotations

from numba import carray, float32

from . import vectors as v
from .weights import inlined, share_of_team

ROWS = 4
"""Rows of activations for which weights are unpacked once, where there are several."""
TOGETHER = 64
"""Rows of the weight that meet the same ROWS rows of activations in turn: these stay in the first cache."""


@inlined
def numbers(table, step, block, one):
    """A table's numbers from a block on, times their steps where they are codes; None without a table."""
    if table is None:
        return None
    found = v.load_numbers(table, block, one)
    return found if step is None else v.times(found, v.load_numbers(step, block, one))


@inlined
def planes(codes, second_plane, block, one):
    """The codes of each plane, none of them negative: int8's are 128 more. second_plane: bytes to int8's."""
    loaded = v.load_bytes(codes + 16 * block, one)
    if second_plane is None:
        return v.low_codes(loaded), v.high_codes(loaded)
    return v.above_zero(loaded), v.above_zero(v.load_bytes(codes + second_plane + 16 * block, one))


@inlined
def negative_zero(zero, centre, block, one):
    """What is added to such a code: - (zero point + centre); None where there is neither."""
    if centre is None:
        return None
    if zero is None:
        return v.filled(-centre)
    return v.minus(v.plus(v.load_numbers(zero, block, one), v.filled(centre)))


@inlined
def unpacked(codes, second_plane, scale, scale_step, second_scale, zero, centre, offset, offset_step, block, one):
    """(codes of each plane, scale, scale of the second plane, - zero point, offset) of blocks of a weight row.

    The last three are None where a weight has none.
    """
    first, second = planes(codes, second_plane, block, one)
    scales = numbers(scale, scale_step, block, one), numbers(second_scale, scale_step, block, one)
    return first, second, *scales, negative_zero(zero, centre, block, one), numbers(offset, offset_step, block, one)


@inlined
def added(sums, x, plane, block, one, first, second, scale, second_scale, below, offset):
    """`sums` with the products of such blocks and of a row of activations at x, as `rounding` leaves it."""
    codes, steps, lane_sums = x + 16 * block, x + 2 * plane, x + 2 * plane + plane // 4 + 16 * block
    step = v.load_numbers(v.table(steps, "float32", 32, 0), block, one)
    activations, others = v.load_bytes(codes, one), v.load_bytes(codes + plane, one)
    dots = v.dot(first, activations, v.no_ints())
    if second_scale is not None:  # groups of 16: each half of a block has a scale
        ones = v.filled_bytes(1)
        value = v.fma(below, v.as_floats(v.dot(ones, activations, v.no_ints())), v.as_floats(dots))
        second_dots = v.as_floats(v.dot(second, others, v.no_ints()))
        second_value = v.fma(below, v.as_floats(v.dot(ones, others, v.no_ints())), second_dots)
        return v.fma(step, v.fma(second_scale, second_value, v.times(scale, value)), sums)
    value = v.as_floats(v.dot(second, others, dots))
    if below is not None:
        value = v.fma(below, v.load_floats(lane_sums, one), value)
    if offset is not None:
        return v.fma(step, v.fma(offset, v.load_floats(lane_sums, one), v.times(scale, value)), sums)
    return v.fma(v.times(scale, step), value, sums)


@inlined
def one_row(row, x, plane, blocks, whole):
    """The product of a weight row and a row of activations; whole: blocks that are multiplied four at a time."""
    sums = v.filled(float32(0))
    for block in range(0, whole, v.BLOCKS):
        sums = added(sums, x, plane, block, None, *unpacked(*row, block, None))
    for block in range(whole, blocks):
        sums = added(sums, x, plane, block, True, *unpacked(*row, block, True))
    return v.total(sums)


@inlined
def four_rows(row, x, plane, blocks, whole):
    """As `one_row`, of ROWS rows of activations."""
    a = b = c = d = v.filled(float32(0))
    for block in range(0, whole, v.BLOCKS):
        weights = unpacked(*row, block, None)
        a = added(a, x[0], plane, block, None, *weights)
        b = added(b, x[1], plane, block, None, *weights)
        c = added(c, x[2], plane, block, None, *weights)
        d = added(d, x[3], plane, block, None, *weights)
    for block in range(whole, blocks):
        weights = unpacked(*row, block, True)
        a = added(a, x[0], plane, block, True, *weights)
        b = added(b, x[1], plane, block, True, *weights)
        c = added(c, x[2], plane, block, True, *weights)
        d = added(d, x[3], plane, block, True, *weights)
    return v.total(a), v.total(b), v.total(c), v.total(d)


@inlined
def store_rows(row, x, x_stride, m, rows, out, out_stride, plane, blocks, whole):
    """Writes the products with ROWS rows of activations from m on; those past the end are the last one again."""
    i, j, k = min(m + 1, rows - 1), min(m + 2, rows - 1), min(m + 3, rows - 1)
    given = x + m * x_stride, x + i * x_stride, x + j * x_stride, x + k * x_stride
    a, b, c, d = four_rows(row, given, plane, blocks, whole)
    v.store_float(out + m * out_stride, a)
    v.store_float(out + i * out_stride, b)
    v.store_float(out + j * out_stride, c)
    v.store_float(out + k * out_stride, d)


def make_product(BITS, GROUP, SCALE, SCALE_STEP, SHIFT, SHIFT_STEP, CENTRE, OFFSET, SEVERAL, TEAM, SOURCES):
    """f(pointer to WEIGHT) of constants alone, to be compiled: products with a share of the weight's rows.

    BITS to OFFSET: see `launch.CompiledForm`. SEVERAL: whether there are several rows of activations. TEAM: whether it
    runs in each thread of a team. SOURCES: what numba's cache knows it by.
    """
    ZERO, ADDED = (None, SHIFT) if OFFSET else (SHIFT, None)
    SECOND = SCALE if GROUP == 16 else None
    ABOVE = float((0 if ZERO else CENTRE) + (128 if BITS == 8 else 0))
    BELOW, EIGHT = int(ZERO is not None or ABOVE != 0), int(BITS == 8)

    def product(given):
        _, at = SOURCES, carray(given, 1)[0]
        plane, blocks = at.inputs // 2, at.inputs // 32
        whole = blocks // v.BLOCKS * v.BLOCKS
        first, last = share_of_team(at.outputs) if TEAM else (0, at.outputs)
        for start in range(first, last, TOGETHER):
            for m in range(0, at.rows, ROWS if SEVERAL else 1):
                for n in range(start, min(last, start + TOGETHER)):
                    scale, scale_step = at.scale + n * at.scale_stride, at.scale_step + n * at.scale_step_stride
                    shift, shift_step = at.shift + n * at.shift_stride, at.shift_step + n * at.shift_step_stride
                    row = (
                        at.data + n * at.data_stride,
                        v.only_if(EIGHT, plane),
                        v.table(scale, SCALE, GROUP, 0),
                        v.table(scale_step, SCALE_STEP, 256, 0),
                        v.table(scale, SECOND, GROUP, 1),
                        v.table(shift, ZERO, GROUP, 0),
                        v.only_if(BELOW, float32(ABOVE)),
                        v.table(shift, ADDED, GROUP, 0),
                        v.table(shift_step, SHIFT_STEP, 256, 0),
                    )
                    out = at.out + 4 * n
                    if SEVERAL:
                        store_rows(row, at.x, at.x_stride, m, at.rows, out, at.out_stride, plane, blocks, whole)
                    else:
                        v.store_float(out, one_row(row, at.x, plane, blocks, whole))

    return product
