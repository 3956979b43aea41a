"""Vectors of LLVM's as types of numba, and helpers to build its code."""

# pyright: reportAttributeAccessIssue=false
# a vector's element has a width where it is no float.

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir
from numba import types
from numba.extending import models, register_model

I8, I16, I32, I64, F16, F32 = (*map(ir.IntType, (8, 16, 32, 64)), ir.HalfType(), ir.FloatType())
NUMBERS = {"bfloat16": I16, "float16": F16, "float32": F32, "uint8": I8, "int8": I8}
"""What a table may hold, by torch's names."""


class Vector(types.Type):
    """`count` elements of a type of LLVM's."""

    def __init__(self, element: ir.Type, count: int) -> None:
        self.represented = ir.VectorType(element, count)
        super().__init__(f"Vector({self.represented})")


class NumberTable(types.Type):
    """The address of a row's numbers, of a kind in NUMBERS, each for `shared` codes.

    half: of a block's two numbers, where they are of 16 codes, which one is meant.
    """

    represented = I64

    def __init__(self, kind: str, shared: int, half: int) -> None:
        self.kind, self.shared, self.half = kind, shared, half
        super().__init__(f"NumberTable({kind}, {shared}, {half})")


@register_model(Vector)
@register_model(NumberTable)
class _Model(models.PrimitiveModel):
    def __init__(self, manager, of: Vector | NumberTable) -> None:
        super().__init__(manager, of, of.represented)


def coded(signature, build: Callable):
    """What an intrinsic returns: its signature, and code that build(builder, *values) makes."""

    def generate(context, builder, signature, values):
        made = build(builder, *values)
        return context.get_dummy_value() if made is None else made

    return signature, generate


def bytes_of(element: ir.Type) -> int:
    return {F32: 4, F16: 2}.get(element) or element.width // 8


def call(build, name: str, of: Vector, *values, result: ir.Type | None = None):
    """A call of LLVM's function for vectors `of`, or of the values' own where those differ."""
    given = values[0].type
    element = {F32: "f32"}.get(given.element, f"i{getattr(given.element, 'width', 0)}")
    return call_named(build, f"{name}.v{given.count}{element}", result or of.represented, *values)


def call_named(build, name: str, result: ir.Type, *values):
    kind = ir.FunctionType(result, [value.type for value in values])
    return build.call(build.module.globals.get(name) or ir.Function(build.module, kind, name), values)


def constant(like: ir.VectorType, value) -> ir.Constant:
    return ir.Constant(like, [value] * like.count)


def splat(build, like: ir.VectorType, value):
    return shuffled(build, build.insert_element(ir.Constant(like, ir.Undefined), value, I32(0)), [0] * like.count)


def shuffled(build, vector, order):
    order = list(order)
    return build.shuffle_vector(vector, vector, ir.Constant(ir.VectorType(I32, len(order)), order))


def load(build, address, of: ir.Type):
    loaded = build.load(build.inttoptr(address, of.as_pointer()))
    loaded.align = 1
    return loaded


def store(build, address, value):
    build.store(value, build.inttoptr(address, value.type.as_pointer())).align = 1


def as_float32(build, numbers, kind: str):
    to = ir.VectorType(F32, numbers.type.count)
    if kind == "float32":
        return numbers
    if kind == "float16":
        return build.fpext(numbers, to)
    if kind == "bfloat16":
        wide = build.zext(numbers, ir.VectorType(I32, to.count))
        return build.bitcast(build.shl(wide, constant(wide.type, 16)), to)
    return build.sitofp(numbers, to) if kind == "int8" else build.uitofp(numbers, to)
