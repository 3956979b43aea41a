"""Checks of one argument each: TypeError for its kind, ValueError for its range.

The message names the argument, what was given and what is allowed; what comes back is a plain int, float, bool or str.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from numbers import Real
from typing import Any

import torch

LARGEST = 1 << 60
"""Whole numbers stay below: sums and differences of a few of them fit into 64 bits."""


def integer(name: str, value: Any, least: int | None = None, most: int | None = None) -> int:
    """A whole number: Python's, NumPy's or a tensor's; no bool."""
    is_bool = isinstance(value, bool) or getattr(value, "dtype", None) == torch.bool
    try:
        number = None if is_bool else operator.index(value)
    except (TypeError, RuntimeError):  # RuntimeError: a tensor on the meta device
        number = None
    if number is None:
        raise TypeError(f"{name}: given {short(value)}; an int is needed")
    if (least is not None and number < least) or (most is not None and number > most):
        raise ValueError(f"{name}: given {short(number)}; must be {_range(least, most)}")
    if abs(number) >= LARGEST:
        raise ValueError(f"{name}: given {short(number)}; its size must be below 2**{LARGEST.bit_length() - 1}")
    return number


def number(name: str, value: Any) -> float:
    """A finite number: Python's or NumPy's; no bool."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name}: given {type(value).__name__} {short(value)}; a number is needed")
    try:
        as_float = float(value)
    except OverflowError:
        as_float = math.inf
    if not math.isfinite(as_float):
        raise ValueError(f"{name}: given {short(value)}; must be finite")
    return as_float


def flag(name: str, value: Any) -> bool:
    """True or False, nothing else."""
    if not isinstance(value, bool):
        raise TypeError(f"{name}: given {short(value)}; True or False is needed")
    return value


def choice(name: str, value: Any, allowed: Sequence[Any]) -> Any:
    """One of the texts, or of the ints, that are allowed."""
    if isinstance(allowed[0], int):
        value = integer(name, value)
    if not isinstance(value, int | str) or value not in allowed:
        raise ValueError(f"{name}: given {short(value)}; allowed are {', '.join(map(str, allowed))}")
    return value


def tensor(name: str, value: Any, dtypes: Sequence[torch.dtype] = ()) -> torch.Tensor:
    """A tensor, of one of these dtypes where some are given."""
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{name}: given {type(value).__name__}; a tensor is needed")
    if dtypes and value.dtype not in dtypes:
        raise TypeError(f"{name}: given {value.dtype}; allowed are {', '.join(map(str, dtypes))}")
    return value


def _range(least: int | None, most: int | None) -> str:
    if least is None or most is None:
        return f"at most {most}" if least is None else f"at least {least}"
    return f"from {least} to {most}"


def short(value: Any) -> str:
    """The value as a text of at most a line: an int may have more digits than Python prints, a text any length."""
    if isinstance(value, int) and not isinstance(value, bool) and value.bit_length() > 128:
        return f"an int of {value.bit_length()} bits"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
