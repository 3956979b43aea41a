"""Marks of doubtful cells. What most cells of a table would carry is said once above it; exceptions are marked."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

APART, REFUSED = "≈", "–"
MARKS = {
    "throttled": "†", "unconverged": "‡", "bimodal": "‡", "busy": "‡", "l2-resident": "◊", "impossible": "‖",
    "unchecked": "‖",
}  # fmt: skip
"""Flags that make a graph's replay doubtful; that a single call waits for its launch, or allocates, does not."""
SCATTER = 0.05
"""Quartiles further apart, as a share of the median, earn a ‡: of less a reader of three digits sees little."""
NOTES = {
    "†": "the GPU ran slower, at its power limit",
    "‡": "the quartiles lie over 5\u00a0% apart: the median had not settled, the samples fell into two groups, or the "
    "machine was busy",
    "◊": "what a call reads was not rotated past five times the last cache",
    APART: "the two were timed in different runs",
    "‖": "not to be trusted: faster than the roofs, or not compared with the reference",
}
EXCEPT = {"†": "○", "‡": "□", "◊": "●", "‖": "■", APART: "="}
"""What marks the cells without a mark that most of the table's have."""


def marks_of(flags: str, spread: float) -> str:
    """The marks of a row's flags. spread: between its quartiles, as a share of the median."""
    earned = (MARKS[flag] for flag in flags.split(", ") if flag in MARKS)
    return "".join(dict.fromkeys(mark for mark in earned if mark != "‡" or not spread <= SCATTER))


def spread_of(row: Any) -> Any:
    """The distance between a row's quartiles, or those of a frame's rows, as a share of the median."""
    return (row["high_ms"] - row["low_ms"]) / row["median_ms"]


def usual(marks: Collection[str]) -> str:
    """The marks that more than half of a table's cells have; marks: of each cell with a number."""
    return "".join(mark for mark in NOTES if 2 * sum(mark in one for one in marks) > len(marks))


def shown(marks: str, usual: str) -> str:
    """What a cell carries: its unusual marks, and a mark for each usual one that it has not."""
    kept = "".join(mark for mark in marks if mark not in usual)
    return kept + "".join(EXCEPT[mark] for mark in usual if mark not in marks)


def above(usual: str, text: str, of: str = "cells") -> str:
    """What most cells of a table have in common, or all: a sentence for each mark. text: of all the table's cells."""
    said = []
    for mark in usual:
        but = EXCEPT[mark] in text
        exceptions = f" (not {EXCEPT[mark]})" if but else ""
        said.append(f"In {'most' if but else 'all'} {of}{exceptions} {NOTES[mark]}.")
    return " ".join(said)


def close(flags: Iterable[str], marks: Collection[str]) -> str:
    """How many cells are flagged for what ‡ stands for and lack it, as their quartiles lie close; empty without any."""
    earned = [any(MARKS.get(flag) == "‡" for flag in text.split(", ")) for text in flags]
    count = sum(one and "‡" not in own for one, own in zip(earned, marks, strict=True))
    without = " without ‡" if any("‡" in own for own in marks) else ""
    cells, their = (f"{count} cells{without} are", "their") if count != 1 else (f"1 cell{without} is", "its")
    words = f"flagged as not settled, in two groups or busy in the run files, but {their} quartiles lie within"
    return f"{cells} {words} 5\u00a0%" if count else ""


def notes_of(text: str) -> list[str]:
    """A sentence on what the marks in a text mean; none without any."""
    meanings = "; ".join(f"{mark} {meaning}" for mark, meaning in NOTES.items() if mark in text)
    return [f"{meanings}."] if meanings else []
