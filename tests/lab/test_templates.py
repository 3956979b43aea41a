"""The one mechanism that makes markup: it escapes, and nothing else in the lab writes a tag."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import skiplab
from jinja2 import UndefinedError
from skiplab.figures import interactive
from skiplab.figures.charts import Hover
from skiplab.templates import plotly_text, render, trusted
from skiplab.widgets import controls

LAB = Path(skiplab.__file__).parent
TAGS = re.compile(
    r"</?(a|b|br|code|div|figure|h[1-6]|i|img|li|p|pre|rect|script|span|style|sub|sup|svg|t[dhr]|table|text)\b"
)
ALLOWED = {"interactive.py": "<br>", "share.py": "<script[^>]*"}
"""Between lines that are escaped one by one; and what is looked for in a page, to take it out."""
TAG = "<img src=x onerror='run()'>\"&"


def literals(path: Path) -> list[str]:
    return [node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)
            and isinstance(node.value, str)]  # fmt: skip


@pytest.mark.parametrize("path", sorted(LAB.rglob("*.py")), ids=lambda path: path.relative_to(LAB).as_posix())
def test_no_module_writes_a_tag(path):
    assert [
        text for text in literals(path) if TAGS.search(text) and not text.startswith(ALLOWED.get(path.name, "\0"))
    ] == []


def test_what_is_given_is_escaped_and_what_is_trusted_is_not():
    made = controls.problem(TAG, TAG)
    assert "<img" not in made and made.count("&lt;img src=x onerror=&#39;run()&#39;&gt;&#34;&amp;") == 2
    assert "<img" in render("widgets.heading", text=trusted("<img>"))
    with pytest.raises(UndefinedError):
        render("widgets.problem", what="an advice is missing")


def test_plotly_text_holds_neither_tags_nor_formulas():
    assert plotly_text("<b>&$x$ it's") == "&lt;b&gt;&amp;&#36;x&#36; it's"
    (hover,) = interactive.hover_texts([Hover(TAG, ", more", ("a", "b < c"))])
    assert hover == "<b>&lt;img src=x onerror=&#39;run()&#39;&gt;&#34;&amp;</b>, more<br>a<br>b &lt; c"
