"""Rows of a frame as plain dictionaries, and their axes in words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from skiplab.text import mask_words

if TYPE_CHECKING:
    import pandas as pd


def records(table: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as plain dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def axis_text(name: str, row: Mapping[str, Any]) -> str:
    """An axis in words; of a mask that is no window, its text."""
    value = row[name]
    if isinstance(value, str):
        return value
    if name == "window" and math.isnan(value):
        return mask_words(row) if isinstance(row["mask"], str) else "causal"
    if value is None or math.isnan(value):
        return str(row["dtype"]) if name == "kv_dtype" else ""
    return f"{value:,.0f}" if value == round(value) else f"{value:g}"
