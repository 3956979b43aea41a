"""The pages hold what the runs hold: tables in step, links that lead somewhere, and no timed claim without its file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from skiplab.results import TABLES, cpu_prefill, show
from skiplab.store import read_runs
from skiplab.tables import SECTION, MissingRun, entries, fill, gather, markdown

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "data" / "RESULTS.md"]
PROSE = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "notebooks").glob("*.py"))]
TIMED = re.compile(r"\d[\d.,]*\s?(?:us|µs|ms|tok/s|tokens/s|GB/s|TFLOP/s)\b")
SOURCED = re.compile(r"data/(?:runs|benchmarks|published)/|\]\((?:\.\./)?(?:data/)?(?:runs|benchmarks)/|published")


@pytest.fixture(scope="module")
def runs():
    return read_runs()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_are_in_step_with_the_runs(page, runs):
    text = page.read_text(encoding="utf-8")
    assert SECTION.search(text)
    assert fill(text, page, TABLES, runs) == text, f"{page.name}: run `make figures`"


@pytest.mark.parametrize("name", TABLES)
def test_every_table_is_made_or_says_which_run_is_missing(name, runs):
    table = TABLES[name]
    try:
        text = markdown(name, table, gather(table, runs), PAGES[0])
    except MissingRun as missing:
        assert name in str(missing) and "data/runs/" in str(missing)
        assert not any(f"<!-- table: {name} -->" in page.read_text(encoding="utf-8") for page in PAGES)
        return
    assert "Recorded on" in text and "](data/" in text


def test_ratios_are_the_quotients_of_the_times_beside_them(runs):
    table = TABLES["sliding-d256"]
    cells = entries("sliding-d256", table, gather(table, runs))
    times = {(row["head"], row["q_len"]): row["number"] for row in cells.to_dict("records")}
    for length in cells["q_len"].unique():
        ratio = times["FlexAttention, compiled", length] / times["block-skip", length]
        assert times["faster than FlexAttention", length] == pytest.approx(ratio)


def test_the_cpus_table_takes_the_least_of_its_samples():
    rows = cpu_prefill()
    assert len(rows) == 27 and rows["median_ms"].between(1, 2000).all() and rows["error"].notna().all()


def test_a_notebook_asks_for_a_table_by_name(runs):
    assert "Recorded on AMD EPYC" in show("cpu").to_html()
    with pytest.raises(ValueError, match="name: got 'gpu'; allowed are sliding-d256"):
        show("gpu", runs)


def links(path: Path) -> list[str]:
    """What the file links to or names in `data/`, fragments cut off."""
    text = path.read_text(encoding="utf-8")
    named = [f"/{name}" for name in re.findall(r"(?<![\w/])data/(?:runs|benchmarks|published)/[\w.\-]+\w", text)]
    linked = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    return [*named, *(linked if path.suffix == ".md" else [])]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_links_and_named_files_exist(path):
    found = [link for link in links(path) if link]
    missing = [link for link in found if not (ROOT / link[1:] if link[0] == "/" else path.parent / link).exists()]
    assert not missing


def paragraphs(path: Path) -> list[str]:
    """Prose outside tables: of a page its paragraphs and list items, of a notebook its Markdown cells."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return re.split(r"\n\s*\n|\n(?=- )", SECTION.sub("", text))
    cells = re.findall(r"^# %% \[markdown\]\n((?:#.*\n?)*)", text, re.MULTILINE)
    return [re.sub(r"^# ?", "", cell, flags=re.MULTILINE) for cell in cells]


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_a_time_in_prose_says_where_it_is_from(path):
    bare = [text for text in paragraphs(path) if TIMED.search(text) and not SOURCED.search(text)]
    assert not bare
