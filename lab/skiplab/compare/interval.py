"""The ratio of two medians with its 95 % interval, by a block bootstrap whose distribution is computed, not drawn.

A resample is made of blocks of neighbouring samples, since these are correlated, and blocks go round: else what was
first and last would count for less. How many of its samples lie at or below a value is a sum of independent counts, a
count for each block. So the chance that its median lies there follows from the product of their transforms: without a
seed, and in a hundredth of the time that drawing 2,000 resamples takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

BLOCK = 5
"""Neighbouring samples that are drawn together."""
SHARES = (0.025, 0.975)
DEVIATIONS = 4
"""How far from the middle a resampled median is looked for, in deviations of the count below it, at the most."""
UNLIKELY = 1e-7
"""Medians of less probability are left out."""
AT_ONCE = 1 << 20
"""Numbers of a transform that are held at once."""

Samples = Sequence[int]
Medians = tuple[np.ndarray, np.ndarray]
"""The medians that a resample may have, and the probability of each."""


def ratio_interval(old_ns: Samples, new_ns: Samples) -> tuple[float, float, float]:
    """Ratio of the medians new / old with its 95 % interval."""
    return ratio_intervals([(old_ns, new_ns)])[0]


def ratio_intervals(pairs: Sequence[tuple[Samples, Samples]]) -> list[tuple[float, float, float]]:
    """As `ratio_interval`, of many pairs: those with as many samples share the work."""
    olds, news = (_distributions([pair[side] for pair in pairs]) for side in (0, 1))
    return [
        (float(np.median(new_ns) / np.median(old_ns)), *_interval(old, new))
        for (old_ns, new_ns), old, new in zip(pairs, olds, news, strict=True)
    ]


def _interval(old: Medians, new: Medians) -> tuple[float, float]:
    """The ratios between which 95 % of new / old lie."""
    ratios = (new[0][:, None] / old[0]).ravel()
    order = np.argsort(ratios)
    below = np.cumsum((new[1][:, None] * old[1]).ravel()[order])
    low, high = np.searchsorted(below, np.multiply(SHARES, below[-1]))
    return float(ratios[order[low]]), float(ratios[order[high]])


def _distributions(samples: Sequence[Samples]) -> list[Medians]:
    """The distribution of the resampled median of each list of samples."""
    counts = np.array([len(one) for one in samples], int)
    found: list[Medians] = [(np.empty(0), np.empty(0))] * len(samples)
    for size in np.unique(counts):
        alike = np.flatnonzero(counts == size)
        step = max(1, AT_ONCE // int(size) ** 2)
        for start in range(0, len(alike), step):
            part = alike[start : start + step]
            values, chances = _medians(np.array([samples[index] for index in part], float))
            for index, value, chance in zip(part, values, chances, strict=True):
                likely = chance > UNLIKELY
                found[index] = value[likely], chance[likely]
    return found


def _medians(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of [rows, size] the values around its middle, and the chance that each is a resample's median.

    Of an even number of samples the lower and the upper median count by half each.
    """
    size = samples.shape[1]
    reach = int(DEVIATIONS * np.sqrt(min(BLOCK, size) * size) / 2) + 1
    middle = np.sort(samples, axis=1)[:, max(0, size // 2 - reach) : size // 2 + reach + 1]  # [rows, values]
    below = samples[:, None, :] <= middle[:, :, None]
    at_most = (_at_least(below, (size + 1) // 2) + _at_least(below, size // 2 + 1)) / 2
    at_most[:, -1] = 1.0
    return middle, np.diff(at_most, axis=1, prepend=0.0)


def _at_least(below: np.ndarray, least: int) -> np.ndarray:
    """The chance that at least so many of a resample are below: [rows, values], of bools [rows, values, size]."""
    size = below.shape[2]
    blocks = -(-size // BLOCK)
    rest = size - (blocks - 1) * BLOCK  # the last block of a resample is cut to this
    frequencies = np.arange(size // 2 + 1)
    transform = _transformed(below, min(BLOCK, size), frequencies) ** (blocks - 1)
    transform *= _transformed(below, rest, frequencies)
    counts = np.arange(least, size + 1)
    waves = np.exp(2j * np.pi * np.outer(frequencies, counts) / (size + 1)).sum(axis=1) / (size + 1)
    twice = np.where((frequencies == 0) | (2 * frequencies == size + 1), 1.0, 2.0)  # the others' mirror images
    return np.clip((transform @ (waves * twice)).real, 0.0, 1.0)


def _transformed(below: np.ndarray, width: int, frequencies: np.ndarray) -> np.ndarray:
    """The transform of the number below in a block of this width that begins anywhere: [rows, values, frequencies]."""
    size = below.shape[2]
    round_ = np.concatenate([below, below[:, :, : width - 1]], axis=2)
    sums = np.cumsum(round_, axis=2, dtype=np.int32)
    inside = sums[:, :, width - 1 :].copy()
    inside[:, :, 1:] -= sums[:, :, : size - 1]
    chances = np.stack([(inside == count).mean(axis=2) for count in range(width + 1)], axis=2)
    return chances @ np.exp(-2j * np.pi * np.outer(np.arange(width + 1), frequencies) / (size + 1))
