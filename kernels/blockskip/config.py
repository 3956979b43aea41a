"""Tile configurations of the prefill kernel and the table of them by compute capability.

What was tuned on a device comes before the table: see `tuned`.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import torch

from .arguments import choice
from .gpu import HOPPER, check_capability, family

WARP_SPECIALIZED = ((64, 12), (128, 12), (192, 16))
"""(rows of a tile, warps) of the warp-specialized kernels: 64 rows for each group that computes, or for both."""
WARP_SPECIALIZED_ROWS = 128
"""The fewest query rows of a call for which the warp-specialized kernel is taken."""


ONE_GROUP_HEAD_DIM = 256
"""The largest head size whose results for 64 rows one group's registers hold."""


@dataclass(frozen=True)
class TileConfig:
    """block_m rows x block_n keys a tile; num_warps warps a program; num_stages tiles in flight.

    12 warps with 128 rows are two groups that compute and one warp that copies, 16 warps with 192 rows three of them:
    Hopper's kernels, `attention.prefill.hopper` and `attention.decode.hopper`. 12 warps with 64 rows are two groups
    with the same rows and half of the results' columns each: for heads beyond `ONE_GROUP_HEAD_DIM`.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int

    def __post_init__(self):
        allowed = {
            "block_m": (16, 32, 64, 128, 192, 256),
            "block_n": (16, 32, 64, 128),
            "num_warps": (1, 2, 4, 8, 12, 16),
            "num_stages": tuple(range(1, 9)),
        }
        for name, values in allowed.items():
            object.__setattr__(self, name, choice(f"config: {name}", getattr(self, name), values))
        if self.warp_specialized and (self.block_m, self.num_warps) not in WARP_SPECIALIZED:
            raise ValueError(
                f"config: block_m is {self.block_m} with {self.num_warps} warps; 64 and 128 go with 12, 192 with 16"
            )

    @property
    def warp_specialized(self) -> bool:
        """Whether warps have jobs of their own: see `attention.hopper`."""
        return self.num_warps == 12 or self.block_m == 192

    @property
    def by_columns(self) -> bool:
        """Whether two warp groups have the same rows, and half of the results' columns each."""
        return self.warp_specialized and self.block_m == 64

    @property
    def plain(self) -> TileConfig:
        """The plain kernel's configuration with as many keys a tile, and so the same bits unless `by_columns`."""
        if not self.warp_specialized:
            return self
        if self.block_m == 192:
            return replace(self, block_m=64, num_warps=4, num_stages=min(self.num_stages, 2))
        return replace(self, num_warps=8, num_stages=min(self.num_stages, 2))  # it pads heads, and needs more memory

    @classmethod
    def of(cls, config) -> TileConfig:
        """A TileConfig, or the four numbers of one."""
        if isinstance(config, cls):
            return config
        if not isinstance(config, tuple | list) or len(config) != 4:
            raise TypeError(f"config: given {config!r}; a TileConfig or (block_m, block_n, num_warps, num_stages)")
        return cls(*config)

    def __str__(self):
        warps = f"{self.num_warps} warps"
        if self.warp_specialized:
            warps = f"{self.num_warps - 4} warps and one that copies"
        return f"{self.block_m}x{self.block_n} tiles, {warps}, {self.num_stages} stages"

    def __iter__(self):
        return iter(astuple(self))


# (first capability, head dim up to, bytes an element up to) -> configuration; the first row that fits is taken.
# sm_90 keeps block_m >= 64 (wgmma) and spills nothing in `bounds` and `map`; float32 runs on the FMA units.
# Float8 (1 byte) is converted in registers, for which D 512 has room with fewer rows alone; not yet measured.
_PREFILL = [
    ((9, 0), 64, 1, TileConfig(64, 64, 4, 2)),
    ((9, 0), 128, 1, TileConfig(64, 64, 4, 3)),
    ((9, 0), 256, 1, TileConfig(64, 64, 8, 2)),
    ((9, 0), 512, 1, TileConfig(32, 32, 8, 2)),
    ((8, 0), 64, 1, TileConfig(64, 64, 4, 2)),
    ((8, 0), 128, 1, TileConfig(64, 32, 4, 2)),
    ((8, 0), 256, 1, TileConfig(32, 32, 4, 2)),
    ((8, 0), 512, 1, TileConfig(32, 32, 8, 1)),
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


# The same where keys and values are read by the copy engine (TMA): without pointers there is room for more keys a tile.
_PREFILL_TMA = [
    ((9, 0), 512, 2, TileConfig(64, 128, 8, 1)),
]
TMA_HEAD_DIM = 257
"""The least head size whose keys and values the plain kernel reads by the copy engine (data/TUNING.md, "Prefill")."""


def prefers_tma(capability: tuple[int, int], head_dim: int, dtype: torch.dtype) -> bool:
    """Whether the prefill kernel for such a device reads keys and values by the copy engine, if their layout allows."""
    return family(capability) == HOPPER and head_dim >= TMA_HEAD_DIM and dtype.itemsize == 2


# The same for `short` calls, whose tiles would keep less than half the multiprocessors busy: smaller tiles make more
# programs (data/TUNING.md, "Crossovers").
_PREFILL_SHORT = [
    ((9, 0), 256, 2, TileConfig(64, 32, 4, 2)),
]


@dataclass(frozen=True)
class _Special:
    """Calls that take the warp-specialized kernel in these tiles; the sizes are the least and the most.

    windows: how many keys a query sees; a mask without a window counts as FAR. queries: of a sequence, as a power of
    two that is not above their number.
    """

    head_dims: tuple[int, int]
    windows: tuple[int, int]
    config: TileConfig
    queries: tuple[int, int] = (WARP_SPECIALIZED_ROWS, 1 << 30)
    lengths: tuple[str, ...] = ("medium", "long")
    kinds: tuple[str, ...] = ("causal", "window", "other")


FAR = 1 << 30
LENGTHS = ("short", "medium", "long")
# Measured with the present kernel (data/TUNING.md, "Heads of any size, and batches of short prompts"), so they come
# before what was tuned on another GPU, or for another head size.
_PREFILL_SPECIAL = [
    _Special((64, 64), (FAR, FAR), TileConfig(192, 128, 16, 4), queries=(8192, FAR), kinds=("causal",)),
    _Special((64, 64), (512, FAR), TileConfig(128, 128, 12, 2), queries=(2048, FAR)),
    _Special((65, 96), (512, FAR), TileConfig(128, 128, 12, 3)),
    _Special((64, 64), (1, 256), TileConfig(128, 64, 12, 4), lengths=("long",)),
    _Special((128, 128), (1, 256), TileConfig(128, 64, 12, 4), lengths=("long",)),
    _Special((512, 512), (1, FAR), TileConfig(64, 32, 12, 2), queries=(256, 4096), lengths=LENGTHS),
]


def special_config(
    capability: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    kind: str,
    window: int | None,
    length: str,
    q_len: int,
) -> TileConfig | None:
    """The warp-specialized kernel's configuration for such a call; None where there is none.

    kind, window: as of `tuned.attention.mask_kind`; length: a class, see `length_class`; q_len: queries of a sequence.
    """
    if not can_specialize_warps(capability, head_dim, dtype):
        return None
    for one in _PREFILL_SPECIAL:
        sizes = (one.head_dims, head_dim), (one.windows, window or FAR), (one.queries, q_len)
        if all(least <= size <= most for (least, most), size in sizes) and length in one.lengths and kind in one.kinds:
            return one.config
    return None


def can_specialize_warps(capability: tuple[int, int], head_dim: int, dtype: torch.dtype) -> bool:
    """Whether such a device has warp-specialized kernels for such keys and values."""
    return capability[0] == 9 and (64 <= head_dim <= 256 or head_dim == 512) and dtype.itemsize == 2


def pieces_of(head_dim: int) -> tuple[int, int]:
    """The two powers of two in which the warp-specialized kernel multiplies a head, 0 for one piece.

    They sum to less than the next power of two: 80 is 64 and 16, 72 is that too, 112 is 128.
    """
    whole = power_of_two(head_dim)
    rest = max(16, power_of_two(head_dim - whole // 2))
    return (whole, 0) if rest >= whole // 2 else (whole // 2, rest)


def prefill_config(
    capability: tuple[int, int],
    head_dim: int,
    dtype: torch.dtype,
    rows: int | None = None,
    sms: int | None = None,
    use_tma: bool = True,
) -> TileConfig:
    """The configuration of the prefill kernel for a device of this compute capability.

    use_tma: whether keys and values can be read by the copy engine (TMA), where the kernel does so.
    rows: query rows of the call over all batches and heads; sms: the device's multiprocessors. Where both are given, a
    call too small to fill the device takes smaller tiles. Raises ValueError below compute capability 8.0.
    """
    check_capability(capability)
    tables = family(capability)
    config = _first(_PREFILL, tables, head_dim, dtype)
    if use_tma and prefers_tma(capability, head_dim, dtype):
        config = _first(_PREFILL_TMA, tables, head_dim, dtype)
    if config is None:
        raise ValueError(f"head_dim: given {head_dim}; from 8 to 512")
    if rows is not None and sms is not None and length_class(rows, sms) == "short":
        smaller = _first(_PREFILL_SHORT, tables, head_dim, dtype)
        if smaller is not None and smaller.block_m < config.block_m:
            return smaller
    return config


def _first(table, tables: tuple[int, int], head_dim: int, dtype: torch.dtype) -> TileConfig | None:
    for first, dim, element_bytes, config in table:
        if tables >= first and head_dim <= dim and dtype.itemsize <= element_bytes:
            return config
    return None


def power_of_two(n: int) -> int:
    """The least power of two that is at least n; the sides of a tile are powers of two."""
    return 1 << (n - 1).bit_length()


SHORT, MEDIUM = 64, 256
"""The most query rows a multiprocessor: short, half a tile of 128 rows; medium, two such tiles."""

LEAST_ROWS = {"short": 0, "medium": SHORT + 1, "long": MEDIUM + 1}
"""The fewest query rows a multiprocessor of each class."""


def length_class(rows: int, sms: int) -> str:
    """How well a call's query rows, over all batches and heads, fill a device: short, medium or long.

    short: tiles of 128 rows occupy at most half the multiprocessors. medium: at most two such tiles a multiprocessor,
    so that it matters how full the last round is. long: more.
    """
    return "short" if rows <= SHORT * sms else "medium" if rows <= MEDIUM * sms else "long"
