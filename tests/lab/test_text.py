"""Text as people read and write it: digits, lists with commas, Markdown."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from skiplab.text import called, digits, markdown, percent, separated, why

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"), (0.00421, "0.00421"), (0.07, "0.0700"), (0.4, "0.400"), (1.286, "1.29"), (99.94, "99.9"),
        (99.96, "100"), (287.4, "287"), (4678.2, "4,678"), (float("nan"), ""),
    ],
)  # fmt: skip
def test_three_digits(value, text):
    assert digits(value) == text


@pytest.mark.parametrize("exponent", range(-4, 6))
def test_digits_keep_a_number_to_half_of_the_third_digit(exponent):
    for step in range(1, 100):
        value = step * 1.0101 * 10.0**exponent
        assert float(digits(value).replace(",", "")) == pytest.approx(value, rel=5.001e-3) and digits(value) != "0"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("4", ["4"]), ("1,2, 4", ["1", "2", "4"]),
        ("band(-3, 2) & causal(), sink(4)", ["band(-3, 2) & causal()", "sink(4)"]),
        ("documents([3, 5]),causal", ["documents([3, 5])", "causal"]),
    ],
)  # fmt: skip
def test_commas_separate_but_in_brackets(text, parts):
    assert separated(text) == parts


@pytest.mark.parametrize("text", ["", ",", "1,,2", "1,", ",1"])
def test_nothing_beside_a_comma_is_refused(text):
    with pytest.raises(ValueError, match="a comma has nothing on one side"):
        separated(text)


def test_a_bar_in_a_cell_is_no_column():
    text = markdown(["mask", "ms"], [["sink(4) | causal()", 1.5]])
    assert text == "| mask | ms |\n| --- | --- |\n| sink(4) \\| causal() | 1.5 |"


def written() -> Iterator[tuple[str, str]]:
    """What a person reads: the pages, and each text in the lab's code."""
    for page in (*ROOT.glob("*.md"), *(ROOT / "data").glob("*.md"), *(ROOT / "notebooks").glob("*.py")):
        yield page.name, page.read_text(encoding="utf-8")
    for path in (ROOT / "lab" / "skiplab").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "1" for part in node.values]
                yield path.name, "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.name, node.value


def test_microseconds_are_spelled_alike_wherever_a_person_reads_them():
    wrong = [
        (name, found[0]) for name, text in written() for found in re.finditer(r".{0,20}\d,? ?us\b|\bin us\b", text)
    ]
    assert not wrong


def test_a_contender_has_its_name_and_what_to_type_for_it():
    assert called("FlexAttention", "flex") == "FlexAttention (flex)" and called("blockskip", "blockskip") == "blockskip"
    assert called("64x64x4x3", "blockskip 64x64x4x3") == "blockskip 64x64x4x3"  # of one config: it says both


def test_shares_have_a_hard_space_before_their_mark():
    assert (percent(0.974), percent(0.0204, 1), percent(1.05)) == ("97\u00a0%", "2.0\u00a0%", "105\u00a0%")


def test_an_error_of_a_file_does_not_name_it_again(tmp_path):
    with pytest.raises(OSError) as raised:
        (tmp_path / "none").read_text()
    assert why(raised.value) == "no such file or directory" and why(ValueError("line 1: no JSON")) == "line 1: no JSON"
