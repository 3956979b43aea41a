"""Items that many tables have: times of contenders, and how many times faster ours is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skiplab.contenders import contenders
from skiplab.rated import RowDict
from skiplab.results.tables import Item, nothing

OURS = {"contender": "blockskip"}


def named(operation: str, *contenders_of: str) -> tuple[tuple[str, str], ...]:
    """The head and the name of each of these contenders: the head is what figures call it."""
    return tuple((contenders(operation)[name].label, name) for name in contenders_of)


def times(*contenders: tuple[str, str], value: str = "ms", **where: Any) -> tuple[Item, ...]:
    """An item for each contender: (its head, its name)."""
    return tuple(Item(head, {"contender": name, **where}, value) for head, name in contenders)


def faster(head: str, *than: str, least: Callable[[RowDict], float] = nothing, **where: Any) -> Item:
    """An item: the speed-up of ours over the fastest of some contenders."""
    return Item(head, {**OURS, **where}, "faster", than, least)
