"""What a sweep measures: axes, and the points that they span. A class for each operation."""

from __future__ import annotations

import hashlib
import json
import shlex
from dataclasses import asdict, dataclass, fields
from itertools import product
from types import NoneType
from typing import Any, ClassVar, Self

import blockskip as bs
import msgspec
import torch
from blockskip.arguments import choice, flag, integer, number

from skiplab.contenders import contender
from skiplab.measure import Point
from skiplab.store.schema import fault
from skiplab.workload import DTYPES, AnyWorkload, DecodeWorkload, LinearWorkload, Workload

DEFAULT_CONTENDERS = ("blockskip", "sdpa", "sdpa-causal", "flex")


class Grid:
    """What the three sweeps share. A tuple is an axis; the last one moves fastest, contenders within it.

    The points of one workload follow each other, so that they share its float64 reference.
    """

    operation: ClassVar[str]
    verb: ClassVar[str]
    contenders: tuple[str, ...]
    dtype: str
    device: str
    seed: int
    budget_s: float

    def __post_init__(self) -> None:
        for field in fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, tuple) and not value:
                raise ValueError(f"{field.name}: got nothing; at least one is needed")
            if isinstance(field.default, tuple):
                self._check_axis(field.name)
        choice("dtype", self.dtype, DTYPES)
        integer("seed", self.seed, 0)
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
        """Eight letters that name these parameters."""
        parameters = asdict(self)  # type: ignore[call-overload]
        return hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:8]

    def workloads(self) -> list[AnyWorkload]:
        """Every combination of the axes."""
        raise TypeError("Grid: one of its classes has workloads")

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
            elif value is not None:
                words += [f"--{option} {_word(one)}" for one in (value if isinstance(value, tuple) else (value,))]
        return " ".join(words)

    @classmethod
    def from_parameters(cls, parameters: dict[str, Any]) -> Self:
        """The sweep that a run's header describes; ValueError names the parameter that it cannot be made of.

        One whose default is None may be missing, as in older files.
        """
        known = {field.name: field.default for field in fields(cls)}  # type: ignore[arg-type]
        for name, value in parameters.items():
            if name not in known:
                raise ValueError(
                    f"{name}: got {value!r}; the parameters of `skiplab {cls.verb}` are {', '.join(known)}"
                )
        missing = [name for name, default in known.items() if default is not None and name not in parameters]
        if missing:
            raise ValueError(f"the parameters of `skiplab {cls.verb}` lack {', '.join(missing)}")
        try:
            return msgspec.convert(parameters, cls)
        except msgspec.ValidationError as error:
            if isinstance(error.__cause__, ValueError | TypeError):  # of __post_init__: it names the field itself
                raise error.__cause__ from None
            raise ValueError(fault(error, parameters, "parameters")) from error


OPTIONS = {"contenders": "contender", "budget_s": "budget"}


def _word(value: Any) -> str:
    if value is None:
        return "causal"
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else shlex.quote(str(value))


@dataclass(frozen=True)
class Sweep(Grid):
    """Prefill: every prompt length x every window or mask x every contender, for one head shape, dtype and device.

    A window of None is plain causal. mask: texts that `Mask.from_spec` reads, in the place of the windows; None: the
    windows. buffer: slots of a cache that each prompt stands at the start of, its later keys masked off; None for as
    many as there are tokens. TypeError or ValueError names the field, what was given and what is allowed.
    """

    contenders: tuple[str, ...] = DEFAULT_CONTENDERS
    q_len: tuple[int, ...] = (512, 1024, 2048, 4096)
    window: tuple[int | None, ...] | None = (256, 512, 1024, None)
    batch: int = 1
    q_heads: int = 8
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = "bfloat16"
    buffer: int | None = None
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 5.0
    mask: tuple[str, ...] | None = None
    operation: ClassVar[str] = "attention"
    verb: ClassVar[str] = "sweep"

    def __post_init__(self) -> None:
        self._check_axis("mask")
        if self.buffer is not None:
            integer("buffer", self.buffer, 1)
        super().__post_init__()
        if (self.window is None) == (self.mask is None):
            words = f"got {self.window!r} with the mask {self.mask!r}"
            raise ValueError(f"window: {words}; a sweep runs over windows or over masks: one of the two must be None")
        if self.buffer is not None and self.mask is not None:
            raise ValueError(f"buffer: got {self.buffer} with the mask {self.mask!r}; it goes with windows alone")
        if self.buffer is not None and self.buffer < max(self.q_len):
            raise ValueError(f"buffer: got {self.buffer}; allowed is at least the longest prompt, {max(self.q_len)}")

    def workloads(self) -> list[AnyWorkload]:
        return [self.workload(q_len, one) for q_len, one in product(self.q_len, self.mask or self.window or ())]

    def workload(self, q_len: int, window: int | str | None) -> Workload:
        """The sweep's workload at one prompt length and window, or a mask's text in its place."""
        if isinstance(window, str):
            mask = bs.Mask.from_spec(window)
        else:
            mask = bs.causal() if window is None else bs.sliding_window(window)
        start = None if self.buffer is None else 0
        return Workload(
            q_len, self.buffer, mask, self.batch, self.q_heads, self.kv_heads, self.head_dim, self.dtype, start,
        )  # fmt: skip


@dataclass(frozen=True)
class DecodeSweep(Grid):
    """Decode: every number of keys x every window x every contender, for one head shape, dtype and device.

    buffer: slots of the cache, None for as many as there are keys. A window of None sees all keys. ValueError names
    the field, what was given and what is allowed.
    """

    contenders: tuple[str, ...] = ("blockskip", "sdpa", "flex")
    kv_len: tuple[int, ...] = (256, 1024, 4096, 16384)
    window: tuple[int | None, ...] = (None, 1024)
    q_len: int = 1
    batch: int = 1
    q_heads: int = 8
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = "bfloat16"
    buffer: int | None = None
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 5.0
    operation: ClassVar[str] = "decode"
    verb: ClassVar[str] = "decode"

    def workloads(self) -> list[AnyWorkload]:
        return [
            DecodeWorkload(
                kv_len, window, self.q_len, self.batch, self.q_heads, self.kv_heads, self.head_dim, self.dtype,
                self.buffer,
            )
            for kv_len, window in product(self.kv_len, self.window)
        ]  # fmt: skip


@dataclass(frozen=True)
class LinearSweep(Grid):
    """Linear layers: every shape x rows x bits x group size x contender, for one dtype and device.

    shape: (out_features, in_features). TypeError or ValueError names the field, what was given and what is allowed.
    """

    contenders: tuple[str, ...] = ("blockskip", "dequantise", "bf16", "tinygemm")
    shape: tuple[tuple[int, int], ...] = ((2048, 2048), (8192, 2048))
    rows: tuple[int, ...] = (1,)
    bits: tuple[int, ...] = (4,)
    group_size: tuple[int, ...] = (32,)
    symmetric: bool = False
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 5.0
    operation: ClassVar[str] = "linear"
    verb: ClassVar[str] = "linear"

    def __post_init__(self) -> None:
        for one in self.shape if isinstance(self.shape, tuple) else ():
            if not isinstance(one, tuple) or len(one) != 2:
                raise TypeError(f"shape: given {one!r}; a pair (out_features, in_features) is needed")
        flag("symmetric", self.symmetric)
        super().__post_init__()

    def workloads(self) -> list[AnyWorkload]:
        return [
            LinearWorkload(n, k, rows, bits, group_size, self.symmetric, self.dtype)
            for (n, k), rows, bits, group_size in product(self.shape, self.rows, self.bits, self.group_size)
        ]


AnySweep = Sweep | DecodeSweep | LinearSweep


def sweep_of(operation: str, parameters: dict[str, Any]) -> AnySweep:
    """The sweep that a run's header describes; ValueError for an unknown operation."""
    classes = {one.operation: one for one in (Sweep, DecodeSweep, LinearSweep)}
    if operation not in classes:
        raise ValueError(f"operation: got {operation!r}; allowed are {', '.join(classes)}")
    return classes[operation].from_parameters(parameters)


def usable(device: str) -> bool:
    """Whether torch sees that device here; ValueError for one that the lab does not know."""
    kind, _, index = device.partition(":") if isinstance(device, str) else ("", "", "")
    if kind not in ("cpu", "cuda") or (index and not index.isdecimal()):
        raise ValueError(f"device: got {device!r}; allowed are cpu, cuda, cuda:1 and so on")
    return kind == "cpu" or int(index or 0) < torch.cuda.device_count()
