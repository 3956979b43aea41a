"""Reading a mask from its text: names of constructors, numbers, &, | and ~, nothing else."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

from ..arguments import short

if TYPE_CHECKING:
    from .base import Mask

CONSTRUCTORS: dict[str, Callable] = {}
"""What a text may name; `build` enters its constructors."""


def from_spec(spec) -> Mask:
    """The mask that `spec` describes; see `Mask.from_spec`."""
    text, tensors = (spec, ()) if isinstance(spec, str) else _pair(spec)
    try:
        return _read(ast.parse(text, mode="eval").body, text, tensors)
    except SyntaxError as error:
        raise ValueError(f"spec: {short(text)} is not a mask ({error.msg})") from None
    except (RecursionError, MemoryError):  # MemoryError: what Python's parser raises for the same reason
        raise ValueError(f"spec: {short(text)} is nested too deep") from None


def _pair(spec) -> tuple[str, tuple[torch.Tensor, ...]]:
    match spec:
        case (str(text), list() | tuple() as tensors):
            return text, tuple(tensors)
    raise TypeError(f"spec: given {type(spec).__name__}; text, or a pair (text, [tensors]), is needed")


def _read(node: ast.expr, text: str, tensors: tuple[torch.Tensor, ...]) -> Mask:
    match node:
        case ast.BinOp(left, ast.BitAnd(), right):
            return _read(left, text, tensors) & _read(right, text, tensors)
        case ast.BinOp(left, ast.BitOr(), right):
            return _read(left, text, tensors) | _read(right, text, tensors)
        case ast.UnaryOp(ast.Invert(), operand):
            return ~_read(operand, text, tensors)
        case ast.Call(ast.Name("dense"), [ast.Constant(int(index))], []) if 0 <= index < len(tensors):
            return CONSTRUCTORS["dense"](tensors[index])
        case ast.Call(ast.Name(name), args, []) if name in CONSTRUCTORS and name != "dense":
            try:
                return CONSTRUCTORS[name](*map(ast.literal_eval, args))
            except (TypeError, ValueError) as error:
                raise ValueError(f"spec: {short(ast.unparse(node))} in {short(text)}: {error}") from None
    allowed = ", ".join([*(name for name in CONSTRUCTORS if name != "dense"), "dense(index of a tensor)"])
    raise ValueError(
        f"spec: cannot read {short(ast.unparse(node))} in {short(text)}; masks are {allowed}, combined with &, |, ~"
    )
