"""The sweep panel's form of an operation: fields, contenders, figures, and comparable runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skiplab.figures.charts import Chart
from skiplab.store import published
from skiplab.sweep import AnySweep
from skiplab.workload import MODELS

ChartOf = Callable[[pd.DataFrame], Chart]


@dataclass(frozen=True)
class Field:
    """A setting of the panel: a text that `read(label, text)` parses, or one of `options`, if given.

    `start` is the first value; `show(value)` is a value as the field's text.
    """

    name: str
    label: str
    start: Any
    read: Callable[[str, str], Any]
    show: Callable[[Any], str]
    unit: str = ""
    tooltip: str = ""
    options: tuple[str, ...] = ()


@dataclass(frozen=True)
class PanelForm:
    """One operation in the panel.

    sweep(contenders, values, device, budget_s) makes the sweep; `values` holds what each field reads. point(workload)
    names a point in the status line. each_method: whether its figures take a row for each way in which a point was
    timed. without: contenders of workloads that no setting of the form describes.
    """

    operation: str
    label: str
    contenders: tuple[str, ...]
    fields: tuple[Field, ...]
    probe: Any
    sweep: Callable[[tuple[str, ...], Mapping[str, Any], str, float], AnySweep]
    point: Callable[[Any], str]
    views: Mapping[str, ChartOf]
    published: Mapping[str, Callable[[], pd.DataFrame]]
    each_method: bool = False
    without: tuple[str, ...] = ()


def numbers(name: str, text: str, least: int = 1) -> tuple[int, ...]:
    """`512, 1024` as numbers of at least `least`, each once; ValueError names the field and the word."""
    words = [word for word in text.replace(",", " ").split() if word]
    wrong = [word for word in words if not word.isdecimal() or int(word) < least]
    if wrong or not words:
        given = f"got {wrong[0]!r}" if wrong else "got nothing"
        raise ValueError(f"{name}: {given}; allowed are whole numbers of at least {least}, commas between")
    return tuple(dict.fromkeys(int(word) for word in words))


def windows(name: str, text: str) -> tuple[int | None, ...]:
    """As `numbers`, and the words `causal`, `all` and `none` for no window (None)."""
    words = [word for word in text.replace(",", " ").split() if word]
    values: list[int | None] = []
    for word in words:
        values.append(None if word in ("causal", "all", "none") else numbers(name, word)[0])
    if not values:
        raise ValueError(f"{name}: got nothing; allowed are whole numbers of at least 1, or causal")
    return tuple(dict.fromkeys(values))


def one(name: str, text: str, allowed: str = "one whole number") -> int:
    """A single number of at least 1."""
    first, *others = numbers(name, text)
    if others:
        raise ValueError(f"{name}: got {text.strip()!r}; allowed is {allowed}")
    return first


def slots(name: str, text: str) -> int | None:
    """One number, or nothing (None) for a cache as long as its keys."""
    return one(name, text, "one whole number, or nothing") if text.strip() else None


def listed(values: Iterable[Any]) -> str:
    return ", ".join(map(str, values))


def windows_shown(word: str) -> Callable[[Iterable[int | None]], str]:
    return lambda values: listed(word if value is None else value for value in values)


def _chosen(name: str, text: str) -> str:
    return text


def choice(name: str, label: str, start: str, options: Iterable[str]) -> Field:
    return Field(name, label, start, _chosen, str, options=tuple(options))


def heads(values: Mapping[str, Any]) -> dict[str, Any]:
    shape = MODELS[values["model"]]
    return {"q_heads": shape.q_heads, "kv_heads": shape.kv_heads, "head_dim": shape.head_dim, "dtype": values["dtype"]}


GENERATION = {"published: ExecuTorch PR 20198, tokens/s of the whole model": lambda: published("generate")}
