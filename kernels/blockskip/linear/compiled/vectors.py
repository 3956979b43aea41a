"""The operations on vectors in which the product is written.

It works on 128 codes, four blocks of 32, at a time: 64 bytes of each of the two planes, and 16 sums ("lanes") of eight
products, four of each block. Where a processor's vectors are shorter, LLVM divides them. Addresses are int64. What is
left of a row is done a block at a time. Loads take `one`: None for four blocks; a bool, whichever, for a single one,
with zeros in the place of the others.
"""

# pyright: reportArgumentType=false, reportAttributeAccessIssue=false
# numba calls an intrinsic's function with types in the place of values.

from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .llvm import (
    F32,
    I8,
    I32,
    I64,
    NUMBERS,
    NumberTable,
    Vector,
    as_float32,
    bytes_of,
    call,
    call_named,
    coded,
    constant,
    load,
    shuffled,
    splat,
    store,
)

BLOCK_CODES = 32
BLOCKS = 4
"""Blocks that are multiplied at a time."""
LANES = 16
"""Sums that these products end in."""
BYTES, INTS, FLOATS = Vector(I8, 64), Vector(I32, LANES), Vector(F32, LANES)


@intrinsic(prefer_literal=True)
def table(context, address, kind, shared, half):
    """The `NumberTable` at an address, or None where kind is None; kind, shared and half are constants."""
    if kind is types.none:
        return coded(types.none(types.int64, kind, shared, half), lambda *_: None)
    made = NumberTable(kind.literal_value, shared.literal_value, half.literal_value)
    return coded(made(types.int64, kind, shared, half), lambda build, address, *_: address)


@intrinsic(prefer_literal=True)
def only_if(context, wanted, value):
    """The value, or None unless `wanted`, a constant."""
    kind = value if wanted.literal_value else types.none
    return coded(kind(wanted, value), lambda build, _, value: value if wanted.literal_value else None)


@intrinsic
def load_bytes(context, address, one):
    """64 bytes, or the 16 of one block."""
    return coded(BYTES(types.int64, one), lambda build, address, _: _load_some(build, address, BYTES, one))


@intrinsic
def load_floats(context, address, one):
    """A float32 for each lane."""
    return coded(FLOATS(types.int64, one), lambda build, address, _: _load_some(build, address, FLOATS, one))


@intrinsic
def load_numbers(context, numbers, block, one):
    """The table's numbers from a block on, in float32, each in the lanes of its blocks."""
    blocks = BLOCKS if one is types.none else 1
    halves = 2 if numbers.shared < BLOCK_CODES else 1
    count = max(halves, blocks * BLOCK_CODES // numbers.shared)
    order = [lane * count // (LANES * halves) * halves + numbers.half for lane in range(LANES)]

    def build(build, address, block, _):
        element = NUMBERS[numbers.kind]
        index = build.sdiv(build.mul(block, I64(BLOCK_CODES)), I64(numbers.shared))
        address = build.add(address, build.mul(index, I64(bytes_of(element))))
        loaded = as_float32(build, load(build, address, ir.VectorType(element, count)), numbers.kind)
        spread = shuffled(build, loaded, order)
        return spread if blocks == BLOCKS else _first_lanes(build, spread)

    return coded(FLOATS(numbers, block, one), build)


@intrinsic
def low_codes(context, codes):
    """The low nibbles of bytes."""
    return coded(BYTES(BYTES), lambda build, codes: build.and_(codes, constant(codes.type, 15)))


@intrinsic
def high_codes(context, codes):
    """The high nibbles of bytes."""
    return coded(BYTES(BYTES), lambda build, codes: build.lshr(codes, constant(codes.type, 4)))


@intrinsic
def above_zero(context, codes):
    """Signed codes + 128."""
    return coded(BYTES(BYTES), lambda build, codes: build.xor(codes, constant(codes.type, 128)))


@intrinsic(prefer_literal=True)
def filled_bytes(context, value):
    """A constant in 64 bytes."""
    return coded(BYTES(value), lambda build, _: constant(BYTES.represented, value.literal_value))


@intrinsic
def no_ints(context):
    """A zero for each lane."""
    return coded(INTS(), lambda build: constant(INTS.represented, 0))


@intrinsic
def filled(context, value):
    """A float32 in each lane."""
    return coded(FLOATS(types.float32), lambda build, value: splat(build, FLOATS.represented, value))


@intrinsic
def dot(context, codes, activations, sums):
    """`sums` + in each lane four products of unsigned codes and signed activations, exactly."""

    def generate(context, build, signature, values):
        features = context.codegen().magic_tuple()[2]
        if "+avx512vnni" in features:
            return _dot_by(build, "512", 1, *values)
        if "+avxvnni" in features:
            return _dot_by(build, "256", 2, *values)
        return _dot_by_pairs(build, *values)

    return INTS(BYTES, BYTES, INTS), generate


@intrinsic
def as_floats(context, ints):
    return coded(FLOATS(INTS), lambda build, ints: build.sitofp(ints, FLOATS.represented))


@intrinsic
def fma(context, a, b, c):
    """a * b + c, rounded once."""
    return coded(FLOATS(FLOATS, FLOATS, FLOATS), lambda build, *values: call(build, "llvm.fma", FLOATS, *values))


@intrinsic
def times(context, a, b):
    return coded(FLOATS(FLOATS, FLOATS), lambda build, a, b: build.fmul(a, b))


@intrinsic
def minus(context, a):
    return coded(FLOATS(FLOATS), lambda build, a: build.fneg(a))


@intrinsic
def plus(context, a, b):
    return coded(FLOATS(FLOATS, FLOATS), lambda build, a, b: build.fadd(a, b))


@intrinsic
def total(context, lanes):
    """The sum of all lanes, by halves."""

    def build(build, lanes):
        while (count := lanes.type.count // 2) >= 1:
            halves = (shuffled(build, lanes, range(start, start + count)) for start in (0, count))
            lanes = build.fadd(*halves)
        return build.extract_element(lanes, I32(0))

    return coded(types.float32(FLOATS), build)


@intrinsic
def store_float(context, address, value):
    return coded(types.void(types.int64, types.float32), store)


def _first_lanes(build, vector):
    """The first block's part, and zeros."""
    count = vector.type.count
    order = [i if i < count // BLOCKS else count for i in range(count)]
    return build.shuffle_vector(vector, constant(vector.type, 0), ir.Constant(ir.VectorType(I32, count), order))


def _load_some(build, address, of: Vector, one):
    """A vector, or of one block a quarter of it and zeros."""
    if one is types.none:
        return load(build, address, of.represented)
    element, count = of.represented.element, of.represented.count
    part = load(build, address, ir.VectorType(element, count // BLOCKS))
    order = [i if i < count // BLOCKS else count // BLOCKS for i in range(count)]
    return build.shuffle_vector(part, constant(part.type, 0), ir.Constant(ir.VectorType(I32, count), order))


def _dot_by(build, bits: str, parts: int, codes, activations, sums):
    """By the instruction for it, which takes 64 bytes or 32."""
    lanes = LANES // parts
    words = [build.bitcast(t, INTS.represented) for t in (codes, activations)]
    ends = []
    for part in range(parts):
        given = [shuffled(build, t, range(part * lanes, part * lanes + lanes)) for t in (sums, *words)]
        ends.append(call_named(build, f"llvm.x86.avx512.vpdpbusd.{bits}", given[0].type, *given))
    if parts == 1:
        return ends[0]
    return build.shuffle_vector(*ends, ir.Constant(ir.VectorType(I32, LANES), list(range(LANES))))


def _dot_by_pairs(build, codes, activations, sums):
    """By products in 32 bits of neighbours, which LLVM knows an instruction for on most processors."""
    wide = ir.VectorType(I32, 64)
    products = build.mul(build.zext(codes, wide), build.sext(activations, wide))
    while products.type.count > LANES:
        count = products.type.count
        even, odd = (shuffled(build, products, range(start, count, 2)) for start in (0, 1))
        products = build.add(even, odd)
    return build.add(sums, products)
