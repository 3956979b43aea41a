"""A device's roofs with their samples, kept in `machines/<device>.json` (`data/README.md` has the schema).

The folder is in `data/` of a checkout, and in the user's own where skiplab is installed (`paths.own_data`).

A kernel's rates are given as shares of the rates of copy, read and product. Reads of few megabytes are the floor of a
decode step with few keys, where a launch and the tail of its grid cost more than the bytes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from blockskip.tuned.files import user_folder

from skiplab.machine.machine import Machine
from skiplab.paths import data_path, file_name, own_data

SCHEMA = 1


@dataclass(frozen=True)
class Rate:
    """`amount` bytes or FLOPs in each of `samples_ns`, nanoseconds a call in order; `best` and `median` per second.

    A rate that somebody else recorded has no samples, just the rate `noted`.
    """

    what: str
    amount: int | None = None
    method: str | None = None
    samples_ns: tuple[int, ...] = ()
    flags: tuple[str, ...] = ()
    clocks: Mapping[str, Any] = field(default_factory=dict)
    noted: float | None = None

    @property
    def best(self) -> float:
        """The best rate of the samples: the roof."""
        return self._per_second(np.min)

    @property
    def median(self) -> float:
        return self._per_second(np.median)

    @property
    def median_us(self) -> float:
        """Microseconds a call; nan without samples."""
        return float(np.median(self.samples_ns)) / 1e3 if self.samples_ns else math.nan

    def _per_second(self, choose: Callable[[Sequence[int]], Any]) -> float:
        if not self.samples_ns or self.amount is None:
            return math.nan if self.noted is None else self.noted
        return self.amount * 1e9 / float(choose(self.samples_ns))


@dataclass(frozen=True)
class Roofs:
    """What a file of `data/machines` holds; `device`, `software`: as in a run's header. `source`: who measured."""

    device: Mapping[str, Any]
    source: str
    date: str
    copy: Rate | None = None
    read: Rate | None = None
    products: Mapping[str, Rate] = field(default_factory=dict)
    reads: tuple[Rate, ...] = ()
    software: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The device's, as its driver says it."""
        return self.device["name"]

    def machine(self, dtype: str = "bfloat16") -> Machine:
        """The device as predictions take it, with the source `recorded`; ValueError without a product in `dtype`."""
        if dtype not in self.products:
            raise ValueError(f"dtype: got {dtype!r}; {self.name} has roofs for {', '.join(self.products) or 'none'}")
        bandwidth = max(rate.best for rate in (self.copy, self.read) if rate is not None)
        device = self.device
        return Machine(
            self.name, device["kind"], bandwidth / 1e9, self.products[dtype].best / 1e12, dtype,
            device.get("compute_capability"), device.get("sms"), device.get("l2_mb") or device.get("cache_mb") or 0.0,
            source="recorded",
        )  # fmt: skip

    def read_us(self, moved_bytes: float) -> float:
        """Microseconds that a plain read of so many bytes takes, between the sizes measured; nan outside of them."""
        return float(np.interp(moved_bytes, *self._read_times, left=np.nan, right=np.nan)) if self.reads else math.nan

    @cached_property
    def _read_times(self) -> tuple[np.ndarray, np.ndarray]:
        """Sizes in bytes and the times of their reads in microseconds."""
        return np.array([rate.amount for rate in self.reads], float), np.array([rate.median_us for rate in self.reads])


def roofs_path(device_name: str) -> Path:
    """The default file of a device's roofs."""
    return own_data("machines") / file_name(device_name, ".json")


def write_roofs(roofs: Roofs, path: Path) -> None:
    """Write the file, a line a key; an existing one is replaced."""
    held = {"schema": SCHEMA, **asdict(roofs)}
    lines = (f'  "{name}": {json.dumps(value, allow_nan=False)}' for name, value in held.items())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def read_roofs(path: Path) -> Roofs:
    """Read a file that `write_roofs` wrote; ValueError names the file and what is wrong with it."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: no JSON: {error}") from error
    schema = held.pop("schema", None) if isinstance(held, dict) else None
    if schema != SCHEMA:
        raise ValueError(f"{path.name}: schema {schema!r}; this version of skiplab reads {SCHEMA}")
    try:
        single = {name: held[name] and _rate(held[name]) for name in ("copy", "read")}
        products = {name: _rate(value) for name, value in held["products"].items()}
        return Roofs(**{**held, **single, "products": products, "reads": tuple(map(_rate, held["reads"]))})
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path.name}: a device's roofs lack or have too much: {error}") from error


def _rate(held: Mapping[str, Any]) -> Rate:
    return Rate(**{**held, "samples_ns": tuple(held["samples_ns"]), "flags": tuple(held["flags"])})


def recorded_roofs() -> dict[str, Roofs]:
    """All recorded roofs by the device's name: the user's own replace those of `data/machines`."""
    folders = data_path("machines"), user_folder() / "machines"
    recorded = map(read_roofs, (path for folder in folders for path in sorted(folder.glob("*.json"))))
    return {roofs.name: roofs for roofs in recorded}
