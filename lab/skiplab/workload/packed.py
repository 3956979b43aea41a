"""Packed prompts of different lengths: as text, as a mask, and as what kernels with `cu_seqlens` take."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import accumulate, groupby
from typing import NamedTuple

import blockskip as bs
import numpy as np
import torch
from blockskip.mask.kinds import Document

SHORTEST = 1


class PackedPrompts(NamedTuple):
    """Prompts behind each other: their lengths, and the band that each sees of itself."""

    lengths: tuple[int, ...]
    band: bs.Band

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def is_causal(self) -> bool:
        return self.band.right == 0

    @property
    def window(self) -> int | None:
        """How many keys a query sees, itself included; None where no limit is on the left."""
        return None if self.band.left is None else self.band.left + 1

    def cu_seqlens(self, device: torch.device) -> torch.Tensor:
        """int32 [prompts + 1]: where each begins, and the end."""
        return torch.tensor((0, *accumulate(self.lengths)), dtype=torch.int32, device=device)

    def __str__(self):
        shortest, count = min(self.lengths), len(self.lengths)
        sizes = f"{shortest:,}" if shortest == self.longest else f"{shortest:,} to {self.longest:,}"
        return f"{count:,} of {sizes}{self._seen}"

    @property
    def _seen(self) -> str:
        """Which of its keys a query sees, where that is not all up to its own."""
        if self.band == bs.causal():
            return ""
        return f", window {self.window:,}" if self.is_causal else f", {self.band!r}"


def packed_mask(lengths: Sequence[int], band: bs.Mask) -> bs.Mask:
    """The mask of packed prompts that each see this band of themselves."""
    return bs.document(lengths) & band


def packed_of(mask: bs.Mask) -> PackedPrompts | None:
    """The packed prompts that a mask is of; None for any other mask."""
    documents = [leaf for leaf in mask.leaves() if isinstance(leaf, Document)]
    others = [leaf for leaf in mask.leaves() if not isinstance(leaf, Document)]
    if len(documents) != 1 or len(others) > 1:
        return None
    document, band = documents[0], others[0] if others else bs.band(None, None)
    same = (document & band, band & document) if others else (document,)
    if not isinstance(band, bs.Band) or mask not in same:
        return None
    return PackedPrompts(document.lengths, band)


def lengths_of(text: str, seed: int = 0) -> tuple[int, ...]:
    """The lengths that a text names: `128x384x1024`, `512*32` (32 of 512), or drawn, as `64-4096:16384`.

    The last draws lengths from 64 to 4,096, their logarithms even, until there are 16,384 tokens in all; the same for
    the same seed. ValueError for any other text.
    """
    try:
        if ":" in text:
            sizes, total = text.split(":")
            low, high = map(int, sizes.split("-"))
            found = _drawn(low, high, int(total), seed)
        else:
            found = tuple(n for part in text.split("x") for n in _repeated(part))
    except ValueError:
        found = ()
    if not found or min(found) < SHORTEST:
        raise ValueError(
            f"lengths: got {text!r}; allowed are lengths with x between, as 128x384x1024 or 512*32 (32 of 512), or a "
            "range and all tokens, as 64-4096:16384"
        )
    return found


def lengths_text(lengths: Iterable[int]) -> str:
    """A text that `lengths_of` reads: `512*32`, `128x384x1024`."""
    counted = [(length, len(list(same))) for length, same in groupby(lengths)]
    return "x".join(str(length) if count == 1 else f"{length}*{count}" for length, count in counted)


def _repeated(part: str) -> tuple[int, ...]:
    length, star, count = part.partition("*")
    return (int(length),) * (int(count) if star else 1)


def _drawn(low: int, high: int, total: int, seed: int) -> tuple[int, ...]:
    """Lengths whose sum is `total`; the last one is what is left, and never shorter than `low` unless `total` is."""
    if not SHORTEST <= low <= high or total < 1:
        raise ValueError
    random, found, left = np.random.default_rng(seed), [], total
    while left:
        length = min(round(math.exp(random.uniform(math.log(low), math.log(high)))), left)
        found.append(left if left - length < low else length)
        left -= found[-1]
    return tuple(found)
