"""Operation: what the lab must know of an operation. Each has one, in a file of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from msgspec import Meta, Struct, inspect

from skiplab.workload.problem import Problem

LARGEST = 2**63 - 1
Count = Annotated[int, Meta(ge=1, le=LARGEST)]
Share = Annotated[float, Meta(gt=0, lt=1)]
Position = Annotated[int, Meta(ge=-LARGEST, le=LARGEST)]


def Said(words: str) -> Meta:
    """What a field of the schema means, for the documentation's tables."""
    return Meta(description=words)


def kind_of(annotated: inspect.Type) -> inspect.Type:
    """A field's type in the schema, without what is said of it and without null."""
    if isinstance(annotated, inspect.Metadata):
        return kind_of(annotated.type)
    if isinstance(annotated, inspect.UnionType):
        kinds = [one for one in annotated.types if not isinstance(one, inspect.NoneType)]
        return kind_of(kinds[0]) if len(kinds) == 1 else annotated
    return annotated


def fields_of(struct: type[Struct]) -> tuple[inspect.Field, ...]:
    """The fields of the schema's structure."""
    return inspect.type_info(struct).fields  # type: ignore[attr-defined]


class RowAxes(Struct):
    """The axes of a row in a run file; a class for each operation, told apart by its name."""

    operation: ClassVar[str]


@dataclass(frozen=True)
class Baseline:
    """The contender that speed-ups are over, what a sentence calls it, and what it calls ours beside it."""

    contender: str
    label: str
    ours: str

    @property
    def note(self) -> str:
        """What stands in brackets beside a time, with the contender's name where a sentence calls it something else."""
        named = "" if self.contender == self.label.lower() else f" ({self.contender})"
        return f"in brackets times faster than {self.label}{named}"


@dataclass(frozen=True)
class Predicted:
    """A contender whose time at the roofs is predicted: its label for a workload, and the arguments of its `work`."""

    contender: str
    label: Callable[[Any], str]
    work: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """One operation of the lab, as data alone; code for it is in a file of its name in each role's package.

    name: in run files, and of its file in each role package. title: in the headings of figures. workload: its class.
    axes: the schema of a row's axes in a run file; filed: those of its optional axes that every row of a file has.
    varying: what the points of one run differ in, in the order of tables; optional: what follows where some have it.
    columns: the columns of a frame that its axes fill; derived: others, each a function of these columns as arrays.
    tokens: the columns whose product is the number of tokens that one call computes.
    baseline, subject: what speed-ups are over, and what a run of it is about, by the axes of one of its points.
    headings: what a table calls an axis, where that is not its own name. words: an axis' value in a sentence.
    without_window: what a point without a window is called, where its mask follows from that; None: by its mask.
    defaults: axes that need no word where each equals another one of its point.
    predicted: who is predicted at the roofs; predicted_flops: which FLOPs of a `Work` take time there.
    told: columns that a table of its points has beside those of all operations.
    examples: small problems, of which each of its contenders takes one at least.
    """

    name: str
    title: str
    workload: type[Problem]
    axes: type[RowAxes]
    filed: tuple[str, ...]
    varying: tuple[str, ...]
    columns: tuple[str, ...]
    tokens: tuple[str, ...]
    baseline: Baseline
    subject: Callable[[Mapping[str, Any]], str]
    headings: Mapping[str, str]
    phrases: Mapping[str, Callable[[float], str]]
    examples: tuple[Problem, ...]
    derived: Mapping[str, Callable[[Mapping[str, np.ndarray]], np.ndarray]] = field(default_factory=dict)
    without_window: str | None = None
    predicted: tuple[Predicted, ...] = ()
    predicted_flops: str = "useful_flops"
    defaults: Mapping[str, str] = field(default_factory=dict)
    optional: tuple[str, ...] = ()
    told: tuple[str, ...] = ()

    def heading(self, axis: str) -> str:
        """The heading of this axis' column in a table."""
        return self.headings.get(axis, axis)

    def varying_in(self, columns: Any) -> tuple[str, ...]:
        """The axes in which a frame's points differ: of the optional ones those that some point has."""
        return (*self.varying, *(name for name in self.optional if columns[name].notna().any()))

    @property
    def texts(self) -> tuple[str, ...]:
        """Those of its columns that hold text; the others hold numbers."""
        texts = {one.name for one in fields_of(self.axes) if isinstance(kind_of(one.type), inspect.StrType)}
        return tuple(name for name in self.columns if name in texts)
