"""Whether colours stand out on a page, and whether somebody takes one for another.

Contrast is WCAG 2.2's ratio of luminances; what people without one kind of cones see is by the matrices of Machado,
Oliveira and Fernandes (2009, severity 1) on linear sRGB; how far two colours are apart is their distance in Oklab.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

MARK_CONTRAST = 3.0
"""Asked of what is no text (WCAG 2.2, 1.4.11)."""
APART = 0.08
"""Distance in Oklab from which colours are told apart at a glance: four times 0.02, which is just noticed."""
PAGES = ("#FFFFFF", "#111111", "#121212", "#0D1117", "#1E1E1E")
"""Grounds that figures stand on: white, JupyterLab's dark theme, Chromium's dark page, GitHub's, VS Code's."""

Matrix = tuple[tuple[float, float, float], ...]
SEEN: dict[str, Matrix] = {
    "all cones": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.303900),
    ),
}  # fmt: skip
CONES: Matrix = (
    (0.4122214708, 0.5363325363, 0.0514459929), (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)  # fmt: skip
OKLAB: Matrix = (
    (0.2104542553, 0.7936177850, -0.0040720468), (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)  # fmt: skip


def contrast(first: str, second: str) -> float:
    """From 1 (equal) to 21 (black and white), of two colours such as `#0072B2`."""
    low, high = sorted(_times(((0.2126, 0.7152, 0.0722),), _linear(colour))[0] for colour in (first, second))
    return (high + 0.05) / (low + 0.05)


def apart(first: str, second: str, seen: Matrix) -> float:
    """How far apart the colours are in Oklab, where white and black are 1 apart, for who sees by one of `SEEN`."""
    return math.dist(_oklab(first, seen), _oklab(second, seen))


@lru_cache(maxsize=4096)
def alike(first: str, second: str) -> bool:
    """Whether somebody takes one colour for the other, where nothing else tells them apart."""
    return any(apart(first, second, seen) < APART for seen in SEEN.values())


def _linear(colour: str) -> list[float]:
    parts = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    return [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]


def _oklab(colour: str, seen: Matrix) -> list[float]:
    light = [min(max(part, 0.0), 1.0) for part in _times(seen, _linear(colour))]
    return _times(OKLAB, [math.cbrt(part) for part in _times(CONES, light)])


def _times(matrix: Matrix, values: Sequence[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, values, strict=True)) for row in matrix]
