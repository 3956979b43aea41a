"""Text that people read and write, wherever in the lab: numbers of three digits, lists with commas, Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def digits(value: float) -> str:
    """Three significant digits, and all that stand before the point: `0.0700`, `1.29`, `287`, `4,678`; '' of nan."""
    if value != value:
        return ""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:#.3g}"


def percent(share: float, places: int = 0) -> str:
    """A share in hundredths, the mark a hard space behind it: `97 %`; with so many places after the point."""
    return f"{100 * share:.{places}f}\u00a0%"


def listed(items: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(items[:-1])] * (len(items) > 1) + list(items[-1:]))


def called(label: str, contender: str) -> str:
    """A contender in a table, behind its name what to type for it: `FlexAttention (flex)`; `blockskip` is one word."""
    return contender if label in (contender, *contender.split()) else f"{label} ({contender})"


def counted(number: int, what: str) -> str:
    """`1 thread`, `2 threads`."""
    return f"{number:,} {what}{'s' * (number != 1)}"


def why(error: Exception) -> str:
    """What went wrong, of an error whose file is named before it: `no such file or directory`."""
    told = error.strerror if isinstance(error, OSError) else None
    return told[:1].lower() + told[1:] if told else str(error)


def sentence(text: str) -> str:
    """The text with a capital first, unless it begins with a mark."""
    return text[:1].upper() + text[1:]


def mask_words(axes: Mapping[str, Any]) -> str:
    """A row's mask that is no window: `causal`, of packed prompts how many and how long, or the mask's own text."""
    mask, packed = axes.get("mask"), axes.get("packed")
    if isinstance(packed, str):
        return f"packed, {packed}"
    return "causal" if mask == "causal()" else str(mask)


def separated(text: str) -> list[str]:
    """The parts between commas, as of `1,2,4`; one in brackets does not separate: `causal(), sink(4, 2)` has two parts.

    ValueError for a part that is empty.
    """
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    parts = [part.strip() for part in parts]
    if not all(parts):
        raise ValueError(f"got {text!r}, where a comma has nothing on one side; allowed are values with commas between")
    return parts


def markdown(heads: Sequence[Any], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; `|` in a cell, as masks have it, does not end the cell."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
