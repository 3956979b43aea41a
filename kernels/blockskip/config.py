"""Tile configurations: every launch choice of a kernel in one frozen object, and where they come from.

`configs/<device>.json` holds what `skiplab tune` measured on a device; what no file has comes from the table here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .mask import Band, Mask

SMALLEST_CAPABILITY = (8, 0)


@dataclass(frozen=True)
class TileConfig:
    """block_m rows x block_n keys a tile; num_warps warps a program; num_stages tiles in flight."""

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def __post_init__(self):
        allowed = {
            "block_m": (16, 32, 64, 128, 256),
            "block_n": (16, 32, 64, 128),
            "num_warps": (1, 2, 4, 8, 16),
            "num_stages": tuple(range(1, 9)),
        }
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"config: {name} is {getattr(self, name)!r}; allowed are {', '.join(map(str, values))}"
                )

    @classmethod
    def of(cls, config) -> TileConfig:
        """A TileConfig, or the four numbers of one."""
        if isinstance(config, cls):
            return config
        if not isinstance(config, tuple | list) or len(config) != 4:
            raise TypeError(f"config: given {config!r}; a TileConfig or (block_m, block_n, num_warps, num_stages)")
        return cls(*config)

    def __str__(self):
        return f"{self.block_m}x{self.block_n} tiles, {self.num_warps} warps, {self.num_stages} stages"

    def __iter__(self):
        return iter(astuple(self))


class Gpu(NamedTuple):
    """What of a GPU decides its tiles: name as the driver gives it, compute capability, multiprocessors."""

    name: str
    capability: tuple[int, int]
    sms: int


@dataclass(frozen=True)
class Origin:
    """Where a configuration is from.

    how: asked (by the caller), tuned (on this device), elsewhere (on `device`, of the same compute capability), table.
    """

    how: str
    device: str | None = None

    def __str__(self):
        words = {"asked": "asked for", "table": "from the table, not tuned"}
        return words.get(self.how) or f"tuned on {self.device}{', not on this GPU' * (self.how == 'elsewhere')}"


# (first capability, head dim up to, bytes an element up to) -> configuration; the first row that fits is taken.
# sm_90 keeps block_m >= 64 (wgmma) and spills nothing in `bounds` and `map`; float32 runs on the FMA units.
_PREFILL = [
    ((9, 0), 64, 2, TileConfig(64, 64, 4, 2)),
    ((9, 0), 128, 2, TileConfig(64, 64, 4, 3)),
    ((9, 0), 256, 2, TileConfig(128, 64, 8, 2)),
    ((9, 0), 512, 2, TileConfig(64, 32, 8, 2)),
    ((8, 0), 64, 2, TileConfig(128, 64, 4, 2)),
    ((8, 0), 128, 2, TileConfig(128, 32, 4, 2)),
    ((8, 0), 256, 2, TileConfig(64, 32, 4, 2)),
    ((8, 0), 512, 2, TileConfig(32, 32, 8, 1)),
    ((8, 0), 64, 4, TileConfig(64, 32, 4, 2)),
    ((8, 0), 128, 4, TileConfig(32, 32, 4, 2)),
    ((8, 0), 256, 4, TileConfig(32, 16, 8, 1)),
    ((8, 0), 512, 4, TileConfig(16, 16, 8, 1)),
]


# The same where keys and values are read by descriptors, which leave room for more keys a tile: D 512, 32 heads, causal
# at 8,192 tokens took an H100 5.7 ms instead of 9.7.
_PREFILL_DESCRIBED = [
    ((9, 0), 512, 2, TileConfig(64, 128, 8, 1)),
]
DESCRIBED_FROM = 257
"""The least head size whose keys and values are read by descriptors; below, pointers were sooner on an H100."""


def describes(capability: tuple[int, int], head_dim: int, dtype: torch.dtype) -> bool:
    """Whether the prefill kernel for such a device reads such keys and values by descriptors, if they can be."""
    return _family(capability) == (9, 0) and head_dim >= DESCRIBED_FROM and dtype.itemsize == 2


# The same for `short` calls, whose tiles would keep less than half the multiprocessors busy: smaller tiles, more
# programs. On an H100, D 256, 32 heads: 256 queries 14.2 us instead of 15.5, 128 queries 8.1 instead of 10.6; at 512 it
# no longer pays. 64x64 three deep took 11.6 us at 256 queries, but spills 56 bytes.
_PREFILL_SHORT = [
    ((9, 0), 256, 2, TileConfig(64, 32, 4, 2)),
]


def prefill_config(
    capability: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    rows: int | None = None,
    sms: int | None = None,
    described: bool = True,
) -> TileConfig:
    """The configuration of the prefill kernel for a device of this compute capability.

    described: whether keys and values can be read by descriptors, where the kernel does so.
    rows: query rows of the call over all batches and heads; sms: the device's multiprocessors. Where both are given, a
    call too small to fill the device takes smaller tiles. Raises ValueError below compute capability 8.0.
    """
    if capability < SMALLEST_CAPABILITY:
        raise ValueError(
            f"impl: 'triton' needs compute capability 8.0 or higher, this device has {capability[0]}.{capability[1]}; "
            "use impl='tiled'"
        )
    family = _family(capability)
    config = _first(_PREFILL, family, head_dim, dtype)
    if described and describes(capability, head_dim, dtype):
        config = _first(_PREFILL_DESCRIBED, family, head_dim, dtype)
    if config is None:
        raise ValueError(f"head_dim: given {head_dim}; from 8 to 512")
    if rows is not None and sms is not None and length_class(rows, sms) == "short":
        smaller = _first(_PREFILL_SHORT, family, head_dim, dtype)
        if smaller is not None and smaller.block_m < config.block_m:
            return smaller
    return config


def _family(capability: tuple[int, int]) -> tuple[int, int]:
    return (9, 0) if (9, 0) <= capability < (12, 0) else (8, 0)


def _first(table, family: tuple[int, int], head_dim: int, dtype: torch.dtype) -> TileConfig | None:
    for first, dim, element_bytes, config in table:
        if family >= first and head_dim <= dim and dtype.itemsize <= element_bytes:
            return config
    return None


LENGTHS = ("short", "medium", "long")
SHORT, MEDIUM = 64, 512
"""Query rows a multiprocessor, at most: half a tile of 128 rows, and four such tiles."""


def length_class(rows: int, sms: int) -> str:
    """How well a call's query rows, over all batches and heads, fill a device: short, medium or long.

    short: tiles of 128 rows for less than half the multiprocessors. medium: up to four a multiprocessor, where it
    counts how full the last round is. long: more.
    """
    return "short" if rows <= SHORT * sms else "medium" if rows <= MEDIUM * sms else "long"


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
"""A head size is tuned, and tabled, together with those above the next smaller one of these."""


def head_dim_class(head_dim: int) -> int:
    """The least of `HEAD_DIMS` that is not below."""
    return next(dim for dim in HEAD_DIMS if head_dim <= dim)


@dataclass(frozen=True)
class Entry:
    """A shape's tuned configuration.

    window: how many keys a query saw, None unless mask is `window`. It won over `workloads` workloads of its class;
    median_us, table_us: microseconds a call of it and of the table's (None where that one does not run), `at` the
    slowest of them.
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
        allowed = {"head_dim": range(8, 513), "element_bytes": (2, 4), "mask": MASK_KINDS, "length": LENGTHS}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                words = "8 to 512" if name == "head_dim" else ", ".join(map(str, values))
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed are {words}")
        if (self.mask == "window") != (isinstance(self.window, int) and self.window >= 1):
            raise ValueError(f"window is {self.window!r} with the mask {self.mask}; only `window` has one")


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

        Of the same element size, mask kind and length class. Of head sizes that share a class the least that is not
        below is taken; of windows the nearest by ratio.
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
    gpu: Gpu, head_dim: int, dtype: torch.dtype, mask: Mask, rows: int, described: bool = True
) -> tuple[TileConfig, Origin]:
    """The prefill kernel's configuration on this GPU, and where it is from.

    rows: query rows of the call over all batches and heads. described: whether keys and values can be read by
    descriptors, where the kernel does so; tuning takes such that can, so that for others the table stands.
    First comes what was tuned on a device of this name, then on one of its compute capability, then the table. Raises
    ValueError below compute capability 8.0.
    """
    return _chosen(gpu, head_dim, dtype, *mask_kind(mask), length_class(rows, gpu.sms), described)


@lru_cache(maxsize=1024)
def _chosen(
    gpu: Gpu, head_dim: int, dtype: torch.dtype, kind: str, window: int | None, length: str, described: bool
) -> tuple[TileConfig, Origin]:
    rows = 0 if length == "short" else None
    # an unsupported device is an error first
    table = prefill_config(gpu.capability, head_dim, dtype, rows, gpu.sms, described)
    if describes(gpu.capability, head_dim, dtype) and not described:
        return table, Origin("table")
    related = [one for one in tuned_devices() if one.capability == gpu.capability]
    for one in sorted(related, key=lambda one: one.device != gpu.name):
        config = one.find(head_dim, dtype.itemsize, kind, window, length)
        if config is not None:
            return config, Origin("tuned" if one.device == gpu.name else "elsewhere", one.device)
    return table, Origin("table")
