"""Targets: the least value that a table asks of a kernel at a point; nan for none."""

from __future__ import annotations

import math
from collections.abc import Callable

from blockskip.linear.activations import MOST_ROWS

from skiplab.rated import RowDict


def always(least: float) -> Callable[[RowDict], float]:
    """The same target at every point."""
    return lambda row: least


def from_four_windows(row: RowDict) -> float:
    """At least as fast, from a prompt of four windows on."""
    return 1.0 if row["q_len"] >= 4 * row["window"] else math.nan


def windowed_share(row: RowDict) -> float:
    """The target share of the product's rate with a window, by head size."""
    return {128: 0.6, 256: 0.5}.get(row["head_dim"], math.nan) if row["window"] > 0 else math.nan


def long_cache(row: RowDict) -> float:
    """The target share of the read rate, for caches of 16,384 keys or more."""
    return 0.85 if row["kv_len"] >= 16384 else math.nan


def large_layer(row: RowDict) -> float:
    """The target share of the read rate, for layers of more than 100 million weights."""
    return 0.8 if row["out_features"] * row["in_features"] > 1e8 else math.nan


PROMPT_RATES = {256: 8000, 512: 10_000, 2048: 10_500, 8192: 10_500, 32768: 8500, 131072: 5000}
STEP_RATES = {256: 170, 2048: 168, 8192: 164, 32768: 150, 131072: 115}


def prompt_rate(row: RowDict) -> float:
    """The target tokens a second of a prompt, by its length."""
    return PROMPT_RATES.get(row["q_len"], math.nan)


def step_rate(row: RowDict) -> float:
    """The target tokens a second of steps of one token, by what was read before."""
    return STEP_RATES.get(row["depth"], math.nan) if row["q_len"] == 1 else math.nan


def of_one_token(least: float) -> Callable[[RowDict], float]:
    """The same target for steps of one token."""
    return lambda row: least if row["q_len"] == 1 else math.nan


def as_one_query(row: RowDict) -> float:
    """The most that several queries' time is of one query's, where memory decides."""
    if row["kv_len"] < 8192 or not 1 < row["q_len"] <= 16:
        return math.nan
    return 1.15 if row["head_dim"] == 512 and row["q_len"] <= 8 else 1.2


def of_long_float8(row: RowDict) -> float:
    """The target speed-up of a cache in float8, where memory decides."""
    return 1.7 if row["batch"] * row["kv_len"] >= 65536 else math.nan


def few_rows(row: RowDict) -> float:
    """At least as fast, with as many rows as activations="auto" rounds to int8."""
    return 1.0 if row["rows"] <= MOST_ROWS else math.nan


def steps_alone(row: RowDict) -> float:
    """At least as fast, at a model's steps."""
    return 1.0 if row["phase"] == "step" else math.nan


def beside_humming(row: RowDict) -> float:
    """The target speed-up over Humming."""
    return 1.0 if row["rows"] <= 256 else math.nan


def beside_bf16(row: RowDict) -> float:
    """The target speed-up over the float weight: a little below 1 where products dominate and unpacking costs time."""
    most_rows = ((128, 1.0), (256, 0.97), (512, 0.95))
    return next((least for rows, least in most_rows if row["rows"] <= rows), 0.98)
