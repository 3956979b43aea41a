"""The choice between what was tuned and the defaults, and where it is from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch

from ..config import LEAST_ROWS, TileConfig, length_class, prefill_config, special_config
from ..gpu import Gpu
from ..mask import Mask
from . import attention, decode, linear
from .attention import mask_kind
from .files import Place, Tuned, tuned_devices


@dataclass(frozen=True)
class Origin:
    """Where a configuration is from.

    how: asked (by the caller), tuned (on this device), elsewhere (on `device`, of the same compute capability), table
    (the defaults; `device` then names the GPUs that they are for, as sm_90). place: of what was tuned, where it stands.
    """

    how: str
    device: str | None = None
    place: Place | None = field(default=None, compare=False)

    def __str__(self):
        if self.how == "table":
            return "from the table, not tuned" if self.device is None else f"defaults for {self.device}"
        return "asked for" if self.how == "asked" else f"tuned on {self.device}{self._elsewhere}"

    @property
    def _elsewhere(self) -> str:
        return ", not on this GPU" if self.how == "elsewhere" else ""


def _related(gpu: Gpu) -> Iterator[tuple[Tuned, str]]:
    """What was tuned on a device of this name, then on others of its compute capability; and `Origin.how` of each."""
    related = [one for one in tuned_devices() if one.capability == gpu.capability]
    for one in sorted(related, key=lambda one: one.device != gpu.name):
        yield one, "tuned" if one.device == gpu.name else "elsewhere"


def _origin(one: Tuned, how: str, operation: str, entry: Any) -> Origin:
    return Origin(how, one.device, one.place(operation, entry))


def choose_config(
    gpu: Gpu, head_dim: int, dtype: torch.dtype, mask: Mask, rows: int, use_tma: bool = True, q_len: int = 0
) -> tuple[TileConfig, Origin]:
    """The prefill kernel's configuration on this GPU, and where it is from.

    rows: query rows of the call over all batches and heads. use_tma: whether keys and values can be read by the copy
    engine; tuning measures only such calls, so that others take the table's. q_len: queries of a sequence, where the
    warp-specialized kernel can do the call; 0 leaves its special tiles out.
    First comes what was tuned on a device of this name, then on one of its compute capability, then the table; but the
    table's special tiles come before all but what was tuned on this device for this head size. Raises ValueError below
    compute capability 8.0.
    """
    # q_len counts by its power of two, so that few differ
    return _chosen(
        gpu, head_dim, dtype, *mask_kind(mask), length_class(rows, gpu.sms), use_tma, 1 << q_len.bit_length() >> 1
    )


@lru_cache(maxsize=1024)
def _chosen(
    gpu: Gpu, head_dim: int, dtype: torch.dtype, kind: str, window: int | None, length: str, use_tma: bool, q_len: int
) -> tuple[TileConfig, Origin]:
    # an unsupported device is an error first
    table = prefill_config(gpu.capability, head_dim, dtype, LEAST_ROWS[length] * gpu.sms, gpu.sms, use_tma)
    if not use_tma:
        return table, Origin("table")
    special = special_config(gpu.capability, head_dim, dtype, kind, window, length, q_len)
    for one, how in _related(gpu):
        entries = one.entries("attention")
        if special is not None:
            entries = [entry for entry in entries if how == "tuned" and entry.head_dim == head_dim]
        entry = attention.find(entries, head_dim, dtype.itemsize, kind, window, length)
        if entry is not None:
            return entry.config, _origin(one, how, "attention", entry)
    return special or table, Origin("table")


@lru_cache(maxsize=1024)
def find_decode(
    gpu: Gpu, head_dim: int, element_bytes: int, block_m: int
) -> tuple[TileConfig, Origin] | tuple[None, None]:
    """The decode kernel's tuned configuration on this GPU for programs of so many rows, and where it is from."""
    for one, how in _related(gpu):
        entry = decode.find(one.entries("decode"), head_dim, element_bytes, block_m)
        if entry is not None:
            return entry.config, _origin(one, how, "decode", entry)
    return None, None


@lru_cache(maxsize=1024)
def find_linear(
    gpu: Gpu, form: linear.Form, out_features: int, in_features: int, rows: int
) -> tuple[linear.LinearEntry, Origin] | tuple[None, None]:
    """The fastest kernel that was measured on this GPU for such a product, and where that is from."""
    for one, how in _related(gpu):
        entry = linear.find(one.entries("linear"), form, out_features, in_features, rows)
        if entry is not None:
            return entry, _origin(one, how, "linear", entry)
    return None, None


def forget() -> None:
    """Read the files again at the next call, as when they have been written anew in this process."""
    for cached in (tuned_devices, _chosen, find_decode, find_linear):
        cached.cache_clear()
