"""A packed weight to floats, in numba: the bits of `QuantizedWeight.dequantize`."""

# pyright: reportCallIssue=false, reportPrivateImportUsage=false
# numba gives an intrinsic its first argument.

from __future__ import annotations

from numba import carray, float32

from . import blocks as b
from . import vectors
from .weights import inlined, share_of_team


@inlined
def codes(address, second_plane, block):
    """A block's codes in float32. second_plane: bytes to int8's."""
    if second_plane is None:
        return b.nibbles(address + 16 * block)
    return b.signed_codes(address + 16 * block, address + second_plane + 16 * block)


@inlined
def numbers(table, step, block):
    """A table's number for a block, times its step where it is a code."""
    found = b.number(table, block)
    return found if step is None else b.times(found, b.number(step, block))


@inlined
def shifted(values, offset, offset_step, block):
    """`values` + the offset, where there is one."""
    return values if offset is None else b.plus(values, numbers(offset, offset_step, block))


@inlined
def zero_of(zero, centre, block):
    return b.filled(centre) if zero is None else b.number(zero, block)


def make_dequantize(BITS, GROUP, SCALE, SCALE_STEP, SHIFT, SHIFT_STEP, CENTRE, OFFSET, TO, TEAM, SOURCES):
    """f(pointer to WEIGHT) of constants alone, to be compiled: its values as `TO`, a float dtype by torch's name.

    Others: see `product.make_product`.
    """
    ZERO, ADDED = (None, SHIFT) if OFFSET else (SHIFT, None)
    EIGHT, SIZE, MIDDLE = int(BITS == 8), 4 if TO == "float32" else 2, float(CENTRE)

    def dequantize(given):
        _, at = SOURCES, carray(given, 1)[0]
        first, last = share_of_team(at.outputs) if TEAM else (0, at.outputs)
        for n in range(first, last):
            data, second_plane = at.data + n * at.data_stride, vectors.only_if(EIGHT, at.inputs // 2)
            scale = vectors.table(at.scale + n * at.scale_stride, SCALE, GROUP, 0)
            scale_step = vectors.table(at.scale_step + n * at.scale_step_stride, SCALE_STEP, 256, 0)
            zero = vectors.table(at.shift + n * at.shift_stride, ZERO, GROUP, 0)
            offset = vectors.table(at.shift + n * at.shift_stride, ADDED, GROUP, 0)
            offset_step = vectors.table(at.shift_step + n * at.shift_step_stride, SHIFT_STEP, 256, 0)
            for block in range(at.inputs // 32):
                above = b.minus(codes(data, second_plane, block), zero_of(zero, float32(MIDDLE), block))
                values = b.times(above, numbers(scale, scale_step, block))
                values = shifted(values, offset, offset_step, block)
                b.store_block(values, TO, at.out + n * at.out_stride + 32 * SIZE * block)

    return dequantize
