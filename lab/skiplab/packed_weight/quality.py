"""The error of a format: signal to noise, and codes beside their weights, of a weight that is quantised on demand."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import blockskip as bs
import torch

from skiplab.packed_weight.packed import BLOCK, GROUP_SIZES, METADATA, SPAN, Packed


@dataclass(frozen=True)
class Quality:
    """A format, and its signal-to-noise ratio in dB on one weight."""

    packed: Packed
    snr_db: float


FORMATS = tuple(
    (bits, group_size, symmetric, metadata)
    for bits in (4, 8)
    for metadata in METADATA
    for symmetric in (False, True)
    for group_size in GROUP_SIZES
    if metadata == "bfloat16" or not symmetric
)
"""(bits, group size, symmetric, metadata) of every format that is compared."""


def qualities(weight: torch.Tensor) -> tuple[Quality, ...]:
    """Every format's error on this float weight [N, K], quantised now; K a multiple of 256."""
    measured = []
    rows, columns = weight.shape
    for bits, group_size, symmetric, metadata in FORMATS:
        packed = Packed(rows, columns, bits, group_size, symmetric, metadata)
        quantised = bs.quantize(weight, bits, group_size, symmetric, metadata)
        measured.append(Quality(packed, quantised.error(weight)))
    return tuple(sorted(measured, key=lambda one: (one.packed.bits_per_weight, one.snr_db)))


WEIGHTS = ("normal", "heavy tails", "shifted")


@lru_cache(maxsize=8)
def random_weight(kind: str = "normal", rows: int = 8, columns: int = 2048, seed: int = 0) -> torch.Tensor:
    """Float32 [rows, columns], deviation 0.02: normal; Student's t, 3 degrees of freedom; or normal + 0.02.

    Small enough for torch to stay on one thread, and so for an explorer to quantise it in every format while one waits.
    """
    if kind not in WEIGHTS:
        raise ValueError(f"weights: got {kind!r}; allowed are {', '.join(WEIGHTS)}")
    generator = torch.Generator("cpu").manual_seed(seed)
    values = torch.randn(rows, columns, generator=generator, dtype=torch.float32, device="cpu")
    if kind == "heavy tails":
        three = torch.randn(3, rows, columns, generator=generator, dtype=torch.float32, device="cpu")
        chi_squared = three.square().sum(0)
        values = values / chi_squared.sqrt()  # deviation 1: that of Student's t is sqrt(3)
    if kind == "shifted":
        values = values + 1
    return 0.02 * values


@lru_cache(maxsize=8)
def random_qualities(kind: str = "normal", seed: int = 0) -> tuple[Quality, ...]:
    """`qualities` of `random_weight(kind, seed=seed)`."""
    return qualities(random_weight(kind, seed=seed))


@dataclass(frozen=True)
class Codes:
    """A block of 32 adjoining weights of a row: the floats, their codes, and the values that the codes stand for.

    A code stands for (code - zero) * scale + minimum.
    """

    first: int
    weights: tuple[float, ...]
    codes: tuple[int, ...]
    values: tuple[float, ...]
    scale: float
    zero: float
    minimum: float


def codes_of(packed: Packed, row: int, block: int, kind: str = "normal") -> Codes:
    """Block `block` of a row of random weights, quantised now; the same arguments give the same."""
    unit = SPAN if packed.in_features % SPAN == 0 else packed.group_size
    span, inside = divmod(block * BLOCK, unit)
    weight = random_weight(kind, 1, unit, seed=1 + row * (packed.in_features // unit) + span)
    w = bs.quantize(weight, packed.bits, packed.group_size, packed.symmetric, packed.metadata)
    group, here = inside // packed.group_size, slice(inside, inside + BLOCK)
    scale, offset = (0.0 if t is None else t[0, group].item() for t in (w.scale, w.offset))
    steps = [1.0 if t is None else t[0, 0].item() for t in (w.scale_step, w.minimum_step)]
    return Codes(
        block * BLOCK,
        tuple(weight[0, here].tolist()),
        tuple(w.codes()[0, here].tolist()),
        tuple(w.dequantize()[0, here].tolist()),
        scale * steps[0],
        w.centre if w.zero is None else w.zero[0, group].item(),
        offset * steps[1],
    )
