"""Operations of Triton's interpreter in a step: what becomes of operands and result is found once for their types.

The first time Triton itself computes; how is kept only where numpy then gives the same bits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from triton.language import core
from triton.runtime import interpreter

NUMBERS = (int, float, bool)
INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
CAST_AS_THEY_ARE = {
    *((a, b) for a in INTEGERS for b in (*INTEGERS, "fp32", "fp64") if a != b), ("fp16", "fp32"), ("fp32", "fp64"),
}  # fmt: skip
"""Pairs of elements of which numpy makes one from the other as Triton does."""


def _quotient(a: Any, b: Any) -> Any:
    return (a - np.fmod(a, b)) // b


QUOTIENT = (False, False, True, True)
OPERATIONS = {
    "__add__": (np.add, (True, True)), "__sub__": (np.subtract, (True, False)), "__mul__": (np.multiply, ()),
    "__and__": (np.bitwise_and, ()), "__or__": (np.bitwise_or, ()),
    "__mod__": (np.fmod, QUOTIENT), "__floordiv__": (_quotient, QUOTIENT),
    "__lt__": (np.less, None), "__le__": (np.less_equal, None), "__gt__": (np.greater, None),
    "__ge__": (np.greater_equal, None), "__eq__": (np.equal, None), "__ne__": (np.not_equal, None),
}  # fmt: skip
"""By the name of a tensor's method: numpy's function, and what Triton asks of the operands' types; None: it asks
nothing of them, and makes a number a tensor before it looks at the other's type."""
CHOICES = {"minimum": (np.minimum, None), "maximum": (np.maximum, None)}
"""The same of the language's functions."""
EVERYTHING = slice(None)


def quick(owner: Any, name: str, slow: Callable) -> Callable:
    """A function of the language, of `core.tensor` or of a module, in fewer steps where its operands allow that."""
    if owner is core.tensor:
        if name in OPERATIONS:
            return _operation(slow, *OPERATIONS[name], KNOWN.setdefault(name, {}))
        if name == "to":
            return _cast(slow, KNOWN.setdefault(name, {}))
        if name == "__getitem__":
            return _expanded(slow, KNOWN.setdefault(name, {}))
    elif name in CHOICES:
        return _operation(slow, *CHOICES[name], KNOWN.setdefault(name, {}))
    elif name == "cast":
        return _cast(slow, KNOWN.setdefault(name, {}))
    elif name == "where":
        return _where(slow, KNOWN.setdefault(name, {}))
    return slow


KNOWN: dict[str, dict[Any, Any]] = {}
"""By function and by the types of its operands: how it is computed; None: as Triton does."""


def number_key(number: Any) -> tuple[type, Any]:
    """What tells a number from all others: 1 from True and 1.0, 0.0 from -0.0."""
    return type(number), number.hex() if type(number) is float else number


@dataclass(frozen=True)
class Like:
    """What tensors of one type share; `of` makes one of its numbers."""

    type: Any
    dtype: Any
    numel: Any
    shape: Any
    element: Any

    @classmethod
    def as_made(cls, made: Any) -> "Like":
        return cls(made.type, made.dtype, made.numel, made.shape, made.handle.dtype)

    def of(self, data: Any) -> Any:
        handle, tensor = object.__new__(interpreter.TensorHandle), object.__new__(core.tensor)
        handle.data, handle.dtype, handle.attr = data, self.element, {}
        tensor.handle, tensor.type, tensor.dtype = handle, self.type, self.dtype
        tensor.numel, tensor.shape = self.numel, self.shape
        return tensor


def _key(operand: Any) -> Any:
    """The operand's type, with its value where it is a number; None for what is neither."""
    kind = type(operand)
    if kind is core.tensor:
        return operand.type.name
    return number_key(operand) if kind in NUMBERS else None


def _taker(given: Any, become: Any) -> Callable[[Any], Any] | None:
    """How an operand's numbers are taken for what Triton makes of it; None: in no plain way."""
    if type(given) is not core.tensor:
        constant = become.handle.data
        return lambda number: constant
    elements = given.dtype.name, become.dtype.name
    if elements[0] == elements[1]:
        return lambda tensor: tensor.handle.data
    if elements not in CAST_AS_THEY_ARE:
        return None
    dtype = interpreter._get_np_dtype(become.dtype)
    return lambda tensor: tensor.handle.data.astype(dtype)


def _same(found: Any, made: Any) -> bool:
    return found.dtype == made.dtype and found.shape == made.shape and found.tobytes() == made.tobytes()


def _operation(slow: Callable, function: Callable, flags: tuple[bool, ...] | None, known: dict[Any, Any]) -> Callable:
    def call(lhs, rhs, *more, _semantic=None, **named):
        key = of_lhs, of_rhs = _key(lhs), _key(rhs)
        if more or named or of_lhs is None or of_rhs is None or (type(lhs) in NUMBERS and type(rhs) in NUMBERS):
            return slow(lhs, rhs, *more, **named)
        if key not in known:
            made = slow(lhs, rhs)
            known[key] = learnt(lhs, rhs, made)
            return made
        found = known[key]
        if found is None:
            return slow(lhs, rhs)
        left, right, dtype, like = found
        data = function(left(lhs), right(rhs))
        return like.of(data if data.dtype == dtype else data.astype(dtype))

    def learnt(lhs, rhs, made):
        semantic = interpreter.interpreter_semantic
        given = (lhs, rhs) if flags is not None else map(semantic.to_tensor, (lhs, rhs))
        operands = semantic.binary_op_type_checking_impl(*given, *(flags or ()))
        left, right = (_taker(*pair) for pair in zip((lhs, rhs), operands, strict=True))
        if left is None or right is None or operands[1].dtype.is_ptr():
            return None
        if made.dtype.name not in (operands[0].dtype.name, core.int1.name):
            return None
        if operands[0].dtype.is_ptr():
            right = _bytes_of(right, operands[0].dtype.element_ty)
        dtype = made.handle.data.dtype
        same = _same(function(left(lhs), right(rhs)).astype(dtype), made.handle.data)
        return (left, right, dtype, Like.as_made(made)) if same else None

    return call


def _bytes_of(offsets: Callable[[Any], Any], element: Any) -> Callable[[Any], Any]:
    """Numbers of elements as numbers of bytes, which may be counted back: modulo 2**64."""
    size = np.uint64(max(1, element.primitive_bitwidth // 8))
    return lambda operand: size * offsets(operand).astype(np.uint64)


def _cast(slow: Callable, known: dict[Any, Any]) -> Callable:
    def call(tensor, dtype, *more, _semantic=None, **named):
        if more or named or type(dtype) is not core.dtype:
            return slow(tensor, dtype, *more, **named)
        if type(tensor) in NUMBERS:
            return of_number(tensor, dtype)
        elements = tensor.dtype.name, dtype.name
        if elements[0] == elements[1]:
            return tensor
        if elements not in CAST_AS_THEY_ARE:
            return slow(tensor, dtype)
        key = tensor.type.name, dtype.name
        if key not in known:
            made = slow(tensor, dtype)
            known[key] = made.handle.data.dtype, Like.as_made(made)
            return made
        to, like = known[key]
        return like.of(tensor.handle.data.astype(to))

    def of_number(number, dtype):
        key = *number_key(number), dtype.name
        if key not in known:
            made = slow(number, dtype)
            known[key] = made.handle.data, Like.as_made(made)
        data, like = known[key]
        return like.of(data)

    return call


def _expanded(slow: Callable, known: dict[Any, Any]) -> Callable:
    """tensor[:, None] and its like."""

    def call(tensor, index, _semantic=None):
        if type(index) is not tuple or not all(one is None or one == EVERYTHING for one in index):
            return slow(tensor, index)
        key = tensor.type.name, *(one is None for one in index)
        if key not in known:
            made = slow(tensor, index)
            known[key] = made.handle.data.shape, tensor.handle.data.size, Like.as_made(made)
            return made
        shape, size, like = known[key]
        data = tensor.handle.data
        return like.of(data.reshape(shape)) if data.size == size else slow(tensor, index)

    return call


def _where(slow: Callable, known: dict[Any, Any]) -> Callable:
    def call(condition, x, y, _semantic=None):
        of_x, of_y = _key(x), _key(y)
        if type(condition) is not core.tensor or of_x is None or of_y is None:
            return slow(condition, x, y)
        key = condition.type.name, of_x, of_y
        if key not in known:
            made = slow(condition, x, y)
            known[key] = learnt(condition, x, y, made)
            return made
        found = known[key]
        if found is None:
            return slow(condition, x, y)
        left, right, like = found
        return like.of(np.where(condition.handle.data, left(x), right(y)))

    def learnt(condition, x, y, made):
        operands = interpreter.interpreter_semantic.binary_op_type_checking_impl(x, y, True, True)
        left, right = (_taker(*pair) for pair in zip((x, y), operands, strict=True))
        if condition.dtype is not core.int1 or left is None or right is None:
            return None
        data = np.where(condition.handle.data, left(x), right(y))
        return (left, right, Like.as_made(made)) if _same(data, made.handle.data) else None

    return call
