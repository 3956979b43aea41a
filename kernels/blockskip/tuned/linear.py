"""Tuned kernels of quantised linear layers: by the weight's form, its shape, and the rows of activations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from ..arguments import choice, flag, integer

ACTIVATIONS = ("int8", "float")


@dataclass(frozen=True)
class Form:
    """What decides, beside its shape, how a weight is multiplied.

    packing: how it lies in memory, as `linear.packing` names it. encoded: scales and minima are uint8 codes.
    activations: int8 or float, what they are multiplied as.
    """

    bits: int
    packing: str
    group_size: int
    symmetric: bool
    encoded: bool
    activations: str

    def __post_init__(self):
        choice("activations", self.activations, ACTIVATIONS)
        for name in ("bits", "group_size"):
            integer(name, getattr(self, name), 1)
        for name in ("symmetric", "encoded"):
            flag(name, getattr(self, name))


@dataclass(frozen=True)
class LinearEntry:
    """The fastest kernel for x [rows, in_features] and a weight [out_features, in_features] of that form.

    config: the kernel's parameters by name, {} for one that has none. median_us, default_us: microseconds a call of it,
    and of what is taken without tuning (None where that does not run).
    """

    form: Form
    out_features: int
    in_features: int
    rows: int
    kernel: str
    config: Mapping[str, int | None] = field(hash=False)
    median_us: float = math.nan
    default_us: float | None = None

    def __post_init__(self):
        for name in ("out_features", "in_features", "rows"):
            integer(name, getattr(self, name), 1)
        for name, value in self.config.items():
            if value is not None:
                integer(f"config: {name}", value, 0)

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Self:
        """The entry that `fields()` wrote."""
        rest = dict(fields)
        return cls(Form(**{name: rest.pop(name) for name in Form.__dataclass_fields__}), **rest)

    @property
    def what(self) -> str:
        """What it is for, in words."""
        rows = f"{self.rows} row{'s' if self.rows > 1 else ''}"
        return f"{self.out_features} x {self.in_features}, int{self.form.bits} in {self.form.packing}, {rows}"

    def fields(self) -> dict[str, Any]:
        """What a file holds: the form's fields beside the others."""
        rest = asdict(self)
        return {**rest.pop("form"), **rest}


def find(
    entries: Iterable[LinearEntry], form: Form, out_features: int, in_features: int, rows: int
) -> LinearEntry | None:
    """The entry for such a product; None where none was tuned.

    Of the same form. Of the rows that were measured the least that are not below are taken, since sizes are made for so
    many rows at most; for more rows than any there is no entry. Among those the nearest shape: the least
    |log2 of the ratio of out_features x in_features| + |log2 of the ratio of in_features|.
    """
    fitting = [entry for entry in entries if entry.form == form and rows <= entry.rows]

    def distance(entry: LinearEntry) -> tuple[int, float]:
        inputs = entry.in_features / in_features
        weights = entry.out_features / out_features * inputs
        return entry.rows, abs(math.log2(weights)) + abs(math.log2(inputs))

    return min(fitting, key=distance) if fitting else None
