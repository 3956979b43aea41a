"""A sweep of any operation from texts: axes by name, for commands that are about no operation of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from skiplab.operations import operation_of
from skiplab.sweep.grid import AnySweep
from skiplab.sweep.modules import SWEEPS
from skiplab.text import separated

NOTHING = ("causal", "none")
"""How an axis' value that is None is written; `causal` for a window."""


def sweep_at(operation: str, contenders: Sequence[str], at: Mapping[str, Any], device: str = "cpu") -> AnySweep:
    """The operation's sweep of these contenders, with the axes in `at` in the place of its defaults.

    A value is one of the axis, a list of them, or their text with commas between: `"512,1024"`, `"causal"`,
    `"8192x2048"`. ValueError names an axis that there is not, and those there are.
    """
    kind = SWEEPS[operation_of(operation).name]
    known = {field.name: field.default for field in fields(kind)}  # type: ignore[arg-type]
    axes = [name for name in known if name not in ("contenders", "device")]
    given: dict[str, Any] = {}
    for name, value in at.items():
        if name not in axes:
            raise ValueError(f"at: got {name}; the axes of {operation} are {', '.join(axes)}")
        several = isinstance(known[name], tuple) or name in ("mask", "shape", "kv_dtype")
        given[name] = _values(name, value) if several else _value(value)
    if given.get("mask") is not None and "window" in known:
        given.setdefault("window", None)
    return kind(**{"contenders": tuple(contenders), "device": device, **given})


def _values(name: str, value: Any) -> tuple[Any, ...]:
    if isinstance(value, str):
        try:
            return tuple(map(_value, separated(value)))
        except ValueError as error:
            raise ValueError(f"at: {name}: {error}") from None
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _value(value: Any) -> Any:
    """One value of an axis; a text as the command line has it."""
    if not isinstance(value, str):
        return value
    if value in NOTHING:
        return None
    if value in ("true", "false"):
        return value == "true"
    if value.isdecimal():
        return int(value)
    outputs, _, inputs = value.partition("x")
    return (int(outputs), int(inputs)) if outputs.isdecimal() and inputs.isdecimal() else _number(value)


def _number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
