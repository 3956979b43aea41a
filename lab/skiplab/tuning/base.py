"""The base of a tuning's settings, and what each operation's file in this package must hold."""

from __future__ import annotations

import hashlib
import shlex
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

from blockskip.arguments import choice, integer, number
from blockskip.gpu import Gpu

from skiplab.machine import device_kind
from skiplab.workload import DTYPES, Problem

if TYPE_CHECKING:
    from skiplab.anatomy import Anatomy

Config = tuple[int, ...]
"""A kernel's sizes, as a row of a run holds them."""


class Candidate(NamedTuple):
    """A kernel with its sizes: a contender, and its config (None if it has no choice)."""

    contender: str
    config: Config | None = None

    @property
    def sizes(self) -> str:
        """As 128x64x8x2; '' without."""
        return "x".join(map(str, self.config or ()))

    def __str__(self):
        return f"{self.contender} {self.sizes}".strip()


@dataclass(frozen=True)
class Ranking:
    """What a class's workloads say. times: workload -> candidate -> median in nanoseconds; scores: of all that can
    win, best first; 1.0 is the fastest everywhere."""

    times: Mapping[str, Mapping[Candidate, float]]
    scores: Mapping[Candidate, float]

    def us(self, at: str, candidate: Candidate) -> float:
        """Its median on that workload in microseconds."""
        return round(self.times[at][candidate] / 1e3, 2)

    def us_if_timed(self, at: str, candidate: Candidate) -> float | None:
        """As `us`; None if it was not timed there."""
        return self.us(at, candidate) if candidate in self.times[at] else None


class AnyTuning(ABC):
    """The settings of a tuning, as a run's header holds them; each operation has a dataclass."""

    operation: ClassVar[str]
    verb: ClassVar[str]
    dtype: str
    device: str
    seed: int
    budget_s: float

    def __post_init__(self) -> None:
        choice("dtype", self.dtype, DTYPES)
        integer("seed", self.seed, 0)
        if number("budget_s", self.budget_s) <= 0:
            raise ValueError(f"budget_s: got {self.budget_s}; allowed is more than 0 seconds")

    @property
    def key(self) -> str:
        """Eight letters that name these parameters, whichever GPU of a machine they are for."""
        same = replace(self, device=device_kind(self.device))  # type: ignore[type-var]
        return hashlib.sha256(repr(same).encode()).hexdigest()[:8]

    @abstractmethod
    def workloads(self) -> Sequence[Problem]:
        """The workloads on which candidates are timed; those of a class are adjacent where possible."""

    @abstractmethod
    def candidates(self, workload: Any, gpu: Gpu) -> list[Candidate]:
        """What may be fastest on it, by arithmetic."""

    @abstractmethod
    def name(self) -> str:
        """A name for people, which distinguishes it from other tunings of its operation."""

    def command(self) -> str:
        """The command line that repeats it."""
        words = [f"skiplab {self.verb}"]
        for one in fields(self):  # type: ignore[arg-type]
            value, name = getattr(self, one.name), one.name.removesuffix("_s").replace("_", "-")
            if isinstance(value, bool):
                words += [f"--{name}"] * value
            else:
                several = value if isinstance(value, tuple) else () if value is None else (value,)
                words += [f"--{name} {_word(item)}" for item in several]
        return " ".join(words)


def _word(value: Any) -> str:
    if value is None:  # no window
        return "causal"
    text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return shlex.quote(text)


class TuningModule(Protocol):
    """What an operation's module holds beside its `AnyTuning`. A class consists of calls that use the same entry.

    HEAD: the heading of a table of entries.
    """

    HEAD: str

    def candidate_of(self, contender: str, config: Config | None) -> Candidate | None:
        """The candidate that a row is of; None for a row of somebody else."""
        ...

    def class_of(self, axes: Mapping[str, Any], candidate: Candidate, sms: int) -> Any:
        """The class of a workload, by a row's axes, on a GPU of so many multiprocessors; classes have an order."""
        ...

    def race_of(self, one: Any) -> Any:
        """A key shared by classes of which a candidate that was slow in one need not be timed in the others."""
        ...

    def compiled_as(self, one: Any, candidate: Candidate) -> Any:
        """A key of what is compiled, and therefore right or wrong as a whole: the candidate and its constants."""
        ...

    def default(self, one: Any, gpu: Gpu) -> Candidate:
        """The candidate that the class's calls use if nothing is tuned."""
        ...

    def anatomy(self, capability: tuple[int, int], workload: Any, candidate: Candidate) -> Anatomy | None:
        """The anatomy of the candidate's kernel; None if it has nothing to compile."""
        ...

    def same_kernel(self, workload: Any) -> Any:
        """A key shared by workloads that run the same compiled kernel, for each candidate."""
        ...

    def entry(self, one: Any, winner: Candidate, ranking: Ranking, default: Candidate) -> Any:
        """The winner as `blockskip.tuned` keeps it."""
        ...

    def line(self, entry: Any) -> str:
        """An entry's line under HEAD."""
        ...
