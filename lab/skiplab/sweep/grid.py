"""Grids: the axes of a sweep, and the points that they span."""

from __future__ import annotations

import hashlib
import json
import shlex
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import product
from types import NoneType
from typing import Any, ClassVar, Self

import msgspec
import torch
from blockskip.arguments import choice, flag, integer, number

from skiplab.contenders import contender, is_cuda
from skiplab.machine import device_kind
from skiplab.measure import Point
from skiplab.store.faults import fault
from skiplab.workload import DTYPES, Problem


class AnySweep(ABC):
    """The base of all sweeps. Each tuple is an axis; the last axis varies fastest, contenders within it.

    The points of one workload follow each other, so that they share its float64 reference.
    """

    operation: ClassVar[str]
    verb: ClassVar[str]
    contenders: tuple[str, ...]
    dtype: str
    device: str
    seed: int
    budget_s: float
    interleave: bool | None = None
    """Whether the samples of a workload's contenders are taken in turn; None, as in older files: no."""
    may_be_empty: ClassVar[tuple[str, ...]] = ()
    """Axes that may have nothing on them."""

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not value and field.name not in self.may_be_empty:
                raise ValueError(f"{field.name}: got nothing; at least one is needed")
            if isinstance(field.default, tuple):
                self._check_axis(field.name)
        choice("dtype", self.dtype, DTYPES)
        integer("seed", self.seed, 0)
        if self.interleave is not None:
            flag("interleave", self.interleave)
        if number("budget_s", self.budget_s) <= 0:
            raise ValueError(f"budget_s: got {self.budget_s}; allowed is more than 0 seconds")
        for name in self.contenders:
            contender(name, self.operation)
        usable(self.device)
        self.workloads()  # each checks its own axes

    def _check_axis(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, tuple | NoneType):
            raise TypeError(f"{name}: given {value!r}; a tuple is needed, for a single one too")

    @property
    def key(self) -> str:
        """Eight hexadecimal digits that identify these parameters, regardless of the GPU's index."""
        parameters = {**asdict(self), "device": device_kind(self.device)}  # type: ignore[call-overload]
        return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]

    @abstractmethod
    def workloads(self) -> Sequence[Problem]:
        """Every combination of the axes."""

    def points(self) -> list[Point]:
        """The points in the order in which they are measured."""
        return [
            Point(workload, name, device=self.device) for workload, name in product(self.workloads(), self.contenders)
        ]

    def command(self) -> str:
        """The command line that runs this sweep."""
        words = [f"skiplab {self.verb}"]
        for field in fields(self):  # type: ignore[arg-type]
            option = OPTIONS.get(field.name, field.name.replace("_", "-"))
            value = getattr(self, field.name)
            if isinstance(value, bool):
                words += [f"--{option}"] * value
            elif field.name == "interleave":
                words += ["--no-interleave"] * is_cuda(self.device)
            elif value is not None:
                words += [f"--{option} {_word(one)}" for one in (value if isinstance(value, tuple) else (value,))]
        return " ".join(words)

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Self:
        """The sweep described by a run's header; ValueError names a parameter that does not fit.

        Parameters whose default is None or False may be missing, as in older files.
        """
        known = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(
                    f"{name}: got {value!r}; the parameters of `skiplab {cls.verb}` are {', '.join(known)}"
                )
        missing = [
            name
            for name, default in known.items()
            if default is not None and default is not False and name not in parameters
        ]
        if missing:
            raise ValueError(f"the parameters of `skiplab {cls.verb}` lack {', '.join(missing)}")
        try:
            return msgspec.convert(parameters, cls)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, ValueError | TypeError):  # of __post_init__: it names the field itself
                raise error.__cause__ from None
            raise ValueError(fault(error, parameters, "parameters")) from error


OPTIONS = {"contenders": "contender", "budget_s": "budget"}


def interleaved(given: bool | None, device: str) -> bool | None:
    """`interleave` of a sweep as it was asked for, by default on a GPU: there clocks fall with what ran before."""
    return True if given or (given is None and is_cuda(device)) else None


def _word(value: Any) -> str:
    if value is None:
        return "causal"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else shlex.quote(str(value))


def usable(device: str) -> bool:
    """Whether torch sees that device here; ValueError for one that the lab does not know."""
    kind, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ValueError(f"device: got {device!r}; allowed are cpu, cuda, cuda:1 and so on")
    return kind == "cpu" or int(index or 0) < torch.cuda.device_count()
