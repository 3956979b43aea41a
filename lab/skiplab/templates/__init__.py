"""The lab's markup: HTML, SVG and plotly's text come from the Jinja2 templates here, which escape what they are given.

A run file, a kernel's name or an error may hold anything. No other module writes markup; markup that a template shall
insert unescaped is wrapped in `trusted`, which has few callers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

PLOTLY = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"})
"""What begins a tag, an entity or a formula in plotly's text; `plotly.js` knows no other entity of a quotation mark."""


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def render(name: str, /, **values: Any) -> str:
    """The markup of a macro, named as `file.macro`, with every value escaped."""
    return macro(name)(**values)


def macro(name: str) -> Callable[..., str]:
    """The macro `file.macro` as a function of its values, for repeated use."""
    file, _, part = name.partition(".")
    made = getattr(_environment().get_template(f"{file}.html").module, part)
    return lambda **values: str(made(**values)).strip()


def cells(table: Any) -> list[list[str]]:
    """A frame's rows as text: numbers in at most six digits, nothing where a value is missing."""
    rows = table.itertuples(index=False, name=None)
    return [[_cell(value) for value in row] for row in rows]


def _cell(value: Any) -> str:
    if value is None or value != value:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def trusted(markup: str) -> Markup:
    """Marks text as markup that a library made and escaped: templates insert it as it is."""
    return Markup(markup)


def plotly_text(text: str) -> str:
    """Text escaped for plotly, so that tags, links and formulas are shown as written."""
    return text.translate(PLOTLY)
