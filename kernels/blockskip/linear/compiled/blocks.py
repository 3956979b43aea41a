"""The operations on a block of 32 values in which rounding and dequantizing are written."""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# numba calls an intrinsic's function with types in the place of values.

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .llvm import (
    F16,
    F32,
    I8,
    I16,
    I32,
    I64,
    NUMBERS,
    Vector,
    as_float32,
    bytes_of,
    call,
    coded,
    constant,
    load,
    shuffled,
    splat,
    store,
)
from .vectors import BLOCK_CODES

FLOATS, BYTES = Vector(F32, BLOCK_CODES), Vector(I8, BLOCK_CODES)


@intrinsic
def float_at(context, address):
    return coded(types.float32(types.int64), lambda build, address: load(build, address, F32))


@intrinsic(prefer_literal=True)
def load_block(context, address, kind):
    """32 numbers of a kind in NUMBERS, a constant, in float32."""
    of = ir.VectorType(NUMBERS[kind.literal_value], BLOCK_CODES)

    def build(build, address, _):
        return as_float32(build, load(build, address, of), kind.literal_value)

    return coded(FLOATS(types.int64, kind), build)


@intrinsic
def largest(context, block):
    """The largest magnitude of a block, NaN if there is one: as integers magnitudes are in the same order."""

    def build(build, block):
        ints = build.bitcast(block, ir.VectorType(I32, BLOCK_CODES))
        magnitudes = build.and_(ints, constant(ints.type, 0x7FFFFFFF))
        return build.bitcast(call(build, "llvm.vector.reduce.umax", Vector(I32, 1), magnitudes, result=I32), F32)

    return coded(types.float32(FLOATS), build)


@intrinsic
def codes_of(context, block, step):
    """block / step, rounded to even, from -127 to 127."""

    def build(build, block, step):
        quotients = build.fdiv(block, splat(build, block.type, step))
        rounded = call(build, "llvm.nearbyint", FLOATS, quotients)
        for name, limit in (("llvm.minnum", 127.0), ("llvm.maxnum", -127.0)):
            rounded = call(build, name, FLOATS, rounded, constant(rounded.type, limit))
        return build.fptosi(rounded, BYTES.represented)

    return coded(BYTES(FLOATS, types.float32), build)


@intrinsic
def given_codes(context, address):
    """32 codes as they lie."""
    return coded(BYTES(types.int64), lambda build, address: load(build, address, BYTES.represented))


@intrinsic
def no_codes(context):
    return coded(BYTES(), lambda build: constant(BYTES.represented, 0))


@intrinsic(prefer_literal=True)
def store_planes(context, codes, order, first, second):
    """A block's codes at two addresses, 16 each: for int4 even and odd ones, for int8 the halves; order: a constant."""
    planes = _planes(order.literal_value)

    def build(build, codes, _, *addresses):
        for plane, address in zip(planes, addresses, strict=True):
            store(build, address, shuffled(build, codes, plane))

    return coded(types.void(BYTES, order, types.int64, types.int64), build)


@intrinsic(prefer_literal=True)
def store_lane_sums(context, codes, order, address):
    """Of a block's codes the float32 sums that its four lanes make of them: of four of each plane."""
    planes = _planes(order.literal_value)

    def build(build, codes, _, address):
        wide = build.sext(codes, ir.VectorType(I32, BLOCK_CODES))
        parts = [shuffled(build, wide, plane[i::4]) for plane in planes for i in range(4)]
        sums = parts[0]
        for part in parts[1:]:
            sums = build.add(sums, part)
        store(build, address, build.sitofp(sums, ir.VectorType(F32, 4)))

    return coded(types.void(BYTES, order, types.int64), build)


@intrinsic
def nibbles(context, address):
    """A block's int4 codes, in float32."""

    def build(build, address):
        packed = load(build, address, ir.VectorType(I8, BLOCK_CODES // 2))
        low, high = build.and_(packed, constant(packed.type, 15)), build.lshr(packed, constant(packed.type, 4))
        order = [half * BLOCK_CODES // 2 + i for i in range(BLOCK_CODES // 2) for half in range(2)]
        codes = build.shuffle_vector(low, high, ir.Constant(ir.VectorType(I32, BLOCK_CODES), order))
        return build.uitofp(codes, FLOATS.represented)

    return coded(FLOATS(types.int64), build)


@intrinsic
def signed_codes(context, first, second):
    """A block's int8 codes, in float32, of the addresses of their halves."""

    def build(build, *addresses):
        halves = [load(build, address, ir.VectorType(I8, BLOCK_CODES // 2)) for address in addresses]
        order = ir.Constant(ir.VectorType(I32, BLOCK_CODES), list(range(BLOCK_CODES)))
        return build.sitofp(build.shuffle_vector(*halves, order), FLOATS.represented)

    return coded(FLOATS(types.int64, types.int64), build)


@intrinsic
def number(context, numbers, block):
    """The table's number for a block, in float32, in all of it; or those of its two halves."""
    count = 2 if numbers.shared < BLOCK_CODES else 1

    def build(build, address, block):
        element = NUMBERS[numbers.kind]
        index = build.sdiv(build.mul(block, I64(BLOCK_CODES)), I64(numbers.shared))
        address = build.add(address, build.mul(index, I64(bytes_of(element))))
        loaded = as_float32(build, load(build, address, ir.VectorType(element, count)), numbers.kind)
        return shuffled(build, loaded, [i * count // BLOCK_CODES for i in range(BLOCK_CODES)])

    return coded(FLOATS(numbers, block), build)


@intrinsic
def filled(context, value):
    return coded(FLOATS(types.float32), lambda build, value: splat(build, FLOATS.represented, value))


@intrinsic
def minus(context, a, b):
    return coded(FLOATS(FLOATS, FLOATS), lambda build, a, b: build.fsub(a, b))


@intrinsic
def times(context, a, b):
    return coded(FLOATS(FLOATS, FLOATS), lambda build, a, b: build.fmul(a, b))


@intrinsic
def plus(context, a, b):
    return coded(FLOATS(FLOATS, FLOATS), lambda build, a, b: build.fadd(a, b))


@intrinsic(prefer_literal=True)
def store_block(context, values, kind, address):
    """The values rounded to a float dtype, a constant, by torch's name."""

    def build(build, values, _, address):
        store(build, address, _rounded(build, values, kind.literal_value))

    return coded(types.void(FLOATS, kind, types.int64), build)


def _rounded(build, values, kind: str):
    if kind == "float32":
        return values
    if kind == "float16":
        return build.fptrunc(values, ir.VectorType(F16, BLOCK_CODES))
    bits = build.bitcast(values, ir.VectorType(I32, BLOCK_CODES))
    odd = build.and_(build.lshr(bits, constant(bits.type, 16)), constant(bits.type, 1))
    nearest = build.lshr(build.add(build.add(bits, constant(bits.type, 0x7FFF)), odd), constant(bits.type, 16))
    kept = build.select(build.fcmp_unordered("uno", values, values), constant(bits.type, 0x7FC0), nearest)
    return build.trunc(kept, ir.VectorType(I16, BLOCK_CODES))


def _planes(bits: int) -> tuple[range, range]:
    """Which codes of a block are in each plane."""
    return (range(0, 32, 2), range(1, 32, 2)) if bits == 4 else (range(16), range(16, 32))
