"""Tile configurations: every launch choice of a kernel in one frozen object, and the one table they come from."""

from __future__ import annotations

from dataclasses import astuple, dataclass

import torch

SMALLEST_CAPABILITY = (8, 0)
LARGEST_BLOCK_N = 64
"""A tile's keys come as one 64-bit word of mask a row."""


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
            "block_n": (16, 32, 64),
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


# The same for calls whose tiles would keep less than half the multiprocessors busy: smaller tiles, more programs. On an
# H100, D 256, 32 heads: 256 queries 14.2 us instead of 15.5, 128 queries 8.1 instead of 10.6; at 512 it no longer pays.
# 64x64 three deep took 11.6 us at 256 queries, but spills 56 bytes.
_PREFILL_SHORT = [
    ((9, 0), 256, 2, TileConfig(64, 32, 4, 2)),
]


def prefill_config(
    capability: tuple[int, int], head_dim: int, dtype: torch.dtype, rows: int | None = None, sms: int | None = None
) -> TileConfig:
    """The configuration of the prefill kernel for a device of this compute capability.

    rows: query rows of the call over all batches and heads; sms: the device's multiprocessors. Where both are given, a
    call too small to fill the device takes smaller tiles. Raises ValueError below compute capability 8.0.
    """
    if capability < SMALLEST_CAPABILITY:
        raise ValueError(
            f"impl: 'triton' needs compute capability 8.0 or higher, this device has {capability[0]}.{capability[1]}; "
            "use impl='tiled'"
        )
    family = (9, 0) if (9, 0) <= capability < (12, 0) else (8, 0)
    config = _first(_PREFILL, family, head_dim, dtype)
    if config is None:
        raise ValueError(f"head_dim: given {head_dim}; from 8 to 512")
    if rows is not None and sms is not None and 2 * rows <= sms * config.block_m:
        smaller = _first(_PREFILL_SHORT, family, head_dim, dtype)
        if smaller is not None and smaller.block_m < config.block_m:
            return smaller
    return config


def _first(table, family: tuple[int, int], head_dim: int, dtype: torch.dtype) -> TileConfig | None:
    for first, dim, element_bytes, config in table:
        if family >= first and head_dim <= dim and dtype.itemsize <= element_bytes:
            return config
    return None
