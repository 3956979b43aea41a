"""Configurations that `skiplab tune` found (`configs/<device>.json`), and the choice between them and the table."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from .arguments import choice, integer
from .config import LEAST_ROWS, LENGTHS, TileConfig, length_class, prefill_config
from .gpu import Gpu
from .mask import Band, Mask


@dataclass(frozen=True)
class Origin:
    """Where a configuration is from.

    how: asked (the caller gave it), tuned (on this device), elsewhere (tuned on `device`, of the same compute
    capability), table.
    """

    how: str
    device: str | None = None

    def __str__(self):
        texts = {"asked": "asked for", "table": "from the table, not tuned"}
        return texts.get(self.how) or f"tuned on {self.device}{', not on this GPU' * (self.how == 'elsewhere')}"


def mask_kind(mask: Mask) -> tuple[str, int | None]:
    """(kind, window) as the prefill kernel tells masks apart.

    window: a band that ends on both sides, and how many keys a query sees; causal: any other band, which has loop
    bounds too; other: what walks a tile map.
    """
    if not isinstance(mask, Band):
        return "other", None
    if mask.left is None or mask.right is None:
        return "causal", None
    return "window", max(1, mask.left + mask.right + 1)


MASK_KINDS = ("causal", "window", "other")
HEAD_DIMS = (64, 128, 256, 512)
"""Head sizes are tuned and tabled in classes, each up to one of these."""


def head_dim_class(head_dim: int) -> int:
    """The class of a head size: the least of `HEAD_DIMS` that is not below it."""
    return next(dim for dim in HEAD_DIMS if head_dim <= dim)


@dataclass(frozen=True)
class Entry:
    """A shape's tuned configuration.

    window: how many keys a query saw, None unless mask is `window`. workloads: over how many of its class it won. at:
    the slowest of them, where a call took median_us with it and table_us with the table's configuration (None where
    that one does not run).
    """

    head_dim: int
    element_bytes: int
    mask: str
    window: int | None
    length: str
    config: TileConfig
    workloads: int
    at: str
    median_us: float
    table_us: float | None

    def __post_init__(self):
        integer("head_dim", self.head_dim, 8, 512)
        for name, values in {"element_bytes": (2, 4), "mask": MASK_KINDS, "length": LENGTHS}.items():
            choice(name, getattr(self, name), values)
        if (self.mask == "window") != (self.window is not None):
            raise ValueError(f"window: given {self.window!r} with the mask {self.mask}; only `window` has one")
        if self.window is not None:
            integer("window", self.window, 1)


@dataclass(frozen=True)
class Tuned:
    """A file of `configs/`: what was tuned on one device, with which versions, and the runs that it came from."""

    device: str
    capability: tuple[int, int]
    torch: str
    triton: str
    runs: str
    entries: tuple[Entry, ...]

    def find(self, head_dim: int, element_bytes: int, kind: str, window: int | None, length: str) -> TileConfig | None:
        """The configuration for such a call; None where none was tuned.

        It has the same element size, mask kind and length class. Among head sizes of one class the least that is not
        below `head_dim` is taken, among windows the nearest by ratio.
        """
        fitting = [
            entry
            for entry in self.entries
            if (entry.element_bytes, entry.mask, entry.length) == (element_bytes, kind, length)
            and head_dim <= entry.head_dim <= head_dim_class(head_dim)
        ]

        def distance(entry: Entry) -> tuple[int, float]:
            ratio = entry.window / window if entry.window and window else 1.0
            return entry.head_dim, max(ratio, 1 / ratio)

        return min(fitting, key=distance).config if fitting else None


SCHEMA = 1
CONFIGS = Path(__file__).parent / "configs"


def read_tuned(path: Path) -> Tuned:
    """Read a file of `configs/`; ValueError names the file and what is wrong with it."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            found = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"schema is {found!r}; this version of blockskip reads {SCHEMA}")
        texts = {name: str(content[name]) for name in ("device", "torch", "triton", "runs")}
        major, minor = map(int, content["capability"].split("."))
        return Tuned(capability=(major, minor), entries=tuple(map(_entry, content["entries"])), **texts)
    except KeyError as error:
        raise ValueError(f"configs/{path.name}: {error.args[0]} is missing") from error
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(f"configs/{path.name}: {error}") from error


def _entry(fields: Mapping[str, Any]) -> Entry:
    return Entry(**{**fields, "config": TileConfig.of(fields["config"])})


@lru_cache(maxsize=8)
def tuned_devices(folder: Path = CONFIGS) -> tuple[Tuned, ...]:
    """All files of `configs/`, read once."""
    return tuple(read_tuned(path) for path in sorted(folder.glob("*.json")))


def choose_config(
    gpu: Gpu, head_dim: int, dtype: torch.dtype, mask: Mask, rows: int, use_tma: bool = True
) -> tuple[TileConfig, Origin]:
    """The prefill kernel's configuration on this GPU, and where it is from.

    rows: query rows of the call over all batches and heads. use_tma: whether keys and values can be read by the copy
    engine; tuning measures only such calls, so that others take the table's.
    First comes what was tuned on a device of this name, then on one of its compute capability, then the table. Raises
    ValueError below compute capability 8.0.
    """
    return _chosen(gpu, head_dim, dtype, *mask_kind(mask), length_class(rows, gpu.sms), use_tma)


@lru_cache(maxsize=1024)
def _chosen(
    gpu: Gpu, head_dim: int, dtype: torch.dtype, kind: str, window: int | None, length: str, use_tma: bool
) -> tuple[TileConfig, Origin]:
    # an unsupported device is an error first
    table = prefill_config(gpu.capability, head_dim, dtype, LEAST_ROWS[length] * gpu.sms, gpu.sms, use_tma)
    if not use_tma:
        return table, Origin("table")
    related = [one for one in tuned_devices() if one.capability == gpu.capability]
    for one in sorted(related, key=lambda one: one.device != gpu.name):
        config = one.find(head_dim, dtype.itemsize, kind, window, length)
        if config is not None:
            return config, Origin("tuned" if one.device == gpu.name else "elsewhere", one.device)
    return table, Origin("table")
