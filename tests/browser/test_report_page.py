"""Reports in a browser: the table of points is sorted, filtered, opened and saved, and nothing of it is cut off."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import hostile
import pytest
from skiplab import report
from skiplab.compare import compare, together
from skiplab.figures import theme
from skiplab.measure import Measurement, Point
from skiplab.paths import data_path
from skiplab.store import Run, read_run, read_runs
from skiplab.templates import render, trusted
from skiplab.workload import DecodeWorkload

pytestmark = pytest.mark.browser
RAN = "window.ran"
FOUND = "document.querySelectorAll('.hostile, [onerror], a[href^=\"javascript\"]').length"
CUT = """() => [...document.querySelectorAll('.rows, body')].map(node => node.scrollWidth - node.clientWidth)"""


@pytest.fixture
def opened(browser) -> Iterator[Callable[..., Any]]:
    """opened(file) -> the page, without a network. Afterwards: no error was raised in it."""
    problems: list[str] = []
    with browser.new_context(offline=True, viewport={"width": 1280, "height": 900}) as context:

        def start(path: Path) -> Any:
            page = context.new_page()
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.goto(path.as_uri())
            return page

        yield start
    assert not problems


@pytest.fixture
def history() -> list[Run]:
    """Three runs of four points: one grows slower by half, one is flagged in the last run, one fails there."""
    return [_run(0, 1.0), _run(1, 1.25), _run(2, 1.5, flags=["throttled"], failed=True)]


def _run(number: int, factor: float, flags: list[str] | None = None, failed: bool = False) -> Run:
    def row(kv_len: int, contender: str, factor: float, **fields: Any) -> dict[str, Any]:
        samples = tuple(int(factor * kv_len * 1e3) + noise for noise in range(20))
        made = Measurement(
            Point(DecodeWorkload(kv_len), contender), "ok", method="graph", samples_ns=samples, device_name="GPU"
        ).row()
        return {**made, "source_hash": f"k{number > 0}", **fields}

    rows = [row(16384, "blockskip", factor), row(256, "blockskip", 1), row(1024, "sdpa", 1, flags=flags or [])]
    crashed = {"status": "crashed", "samples_ns": [], "error_text": "illegal <address>"}
    rows.append(row(256, "sdpa", 1, **(crashed if failed else {})))
    header = {"run_id": f"run {number}", "device": {"name": "GPU"}, "start": f"2026-11-0{number + 1}T08:00:00+00:00"}
    return Run({**header, "operation": "decode"}, tuple(rows))


def column(page: Any, head: str) -> list[str]:
    """The visible cells under a head."""
    heads = [
        re.sub("[▲▼\\xa0]", "", text).strip() for text in page.locator(".rows > table > thead th").all_inner_texts()
    ]
    rows = page.locator(".rows > table > tbody > tr:not(.detail)")
    return [row.locator("td").nth(heads.index(head)).inner_text() for row in rows.all()]


def choose(page: Any, name: str, *words: str) -> None:
    page.locator("summary", has_text=f"{name}: all").click()
    for word in words:
        page.get_by_label(re.compile(f"^ *{word}")).check()


def test_points_are_sorted_filtered_opened_and_saved(opened, tmp_path, history):
    page = opened(report.write_report(history, tmp_path / "page.html"))
    assert "3 runs, 4 points: 1 slower, 1 same, 1 unclear, 1 fails now." in page.inner_text("body")
    assert column(page, "verdict") == ["slower", "fails now", "unclear", "same"]  # the worst first
    assert column(page, "keys") == ["16,384", "256", "1,024", "256"]
    assert column(page, "new / old")[0] == "1.500" and column(page, "old → new")[0] == "16.4 → 24.6 ms"
    assert column(page, "old → new")[1] == "256 µs → –"
    page.get_by_role("button", name="keys", exact=True).click()
    assert column(page, "keys") == ["256", "256", "1,024", "16,384"]  # by value, not by the alphabet
    page.get_by_role("button", name="keys").click()
    assert column(page, "keys")[0] == "16,384"
    page.get_by_role("button", name="new / old").click()
    page.get_by_role("button", name="new / old").click()
    assert column(page, "new / old") == ["1.500", "1.000", "1.000", ""]  # what has none comes last
    choose(page, "contender", "SDPA")
    assert set(column(page, "contender")) == {"SDPA (sdpa)"}
    assert page.locator("[role=status]").inner_text() == "2 of 4 points"
    page.get_by_label("Search the points").fill("throttled")
    assert column(page, "flags and doubts") == ["throttled in one of the two"]
    with page.expect_download() as download:
        page.get_by_role("button", name="Save these as CSV").click()
    (saved,) = csv.DictReader(Path(download.value.path()).read_text(encoding="utf-8").splitlines())
    told = tuple(saved[name] for name in ("contender", "verdict", "old → new (ms)"))
    assert told == ("SDPA (sdpa)", "unclear", "1.02401 1.02401")
    page.get_by_role("button", name="Clear filters").click()
    assert page.locator("[role=status]").inner_text() == "4 points"


def test_a_point_opens_to_its_times_by_date(opened, tmp_path, history):
    page = opened(report.write_report(history, tmp_path / "page.html"))
    rows = page.locator(".rows > table > tbody > tr")
    lines = rows.first.locator(".spark circle")
    heights = [float(one.get_attribute("cy")) for one in lines.all()]
    assert heights == sorted(heights, reverse=True) and len(heights) == 3  # it takes longer from run to run
    assert page.locator(".spark circle.doubtful").count() == 1  # the one throttled timing
    rows.first.locator("button.open").click()
    detail = page.locator("tr.detail")
    assert detail.locator("svg.chart circle").count() == 3 and detail.locator("svg.chart .changed").count() == 1
    assert detail.locator("tbody tr").count() == 3 and "k0 → k1" not in detail.inner_text()
    assert [row.split("\t")[2] for row in detail.locator("tbody").inner_text().splitlines()] == [
        "16.4 ms",
        "20.5 ms",
        "24.6 ms",
    ]
    rows.first.locator("button.open").click()
    assert page.locator("tr.detail").count() == 0
    page.get_by_label("Search the points").fill("fails")
    rows.first.locator("button.open").click()
    assert "illegal <address>" in page.locator("tr.detail").inner_text()


def test_nothing_is_cut_off(opened, tmp_path, monkeypatch):
    """Of all recorded runs on one page, and of the widest single ones."""
    monkeypatch.setattr(report.page, "report_figures", lambda table: [])  # figures have tests of their own
    runs = sorted(read_runs(), key=lambda run: run.header["start"])
    wide = [next(run for run in runs if run.path.stem.endswith(name)) for name in ("windows-d128", "model-ladder")]
    for shown in (runs, *wide):
        page = opened(report.write_report(shown, tmp_path / "page.html"))
        for width in (1280, 1600):
            page.set_viewport_size({"width": width, "height": 900})
            assert max(page.evaluate(CUT)) <= 0, width
        assert page.locator(".point-table").count() == (len(together(runs)) if shown is runs else 1)


def test_times_and_digits_are_written_as_in_python(opened, tmp_path):
    """The same words on the page as in a table that Python prints: from nanoseconds to seconds."""
    times = [3.2, 47, 999.4, 999.6, 1234, 56_789, 999_499, 999_600, 1_500_000, 7.77e7, 2.5e9, 4e11]
    rows = [
        Measurement(
            Point(DecodeWorkload(number), "sdpa"), "ok", samples_ns=(max(1, round(ns)),), device_name="GPU"
        ).row()
        for number, ns in enumerate(times, start=1)
    ]
    run = Run({"run_id": "times", "device": {"name": "GPU"}}, tuple(rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.page, "report_figures", lambda table: [])
        page = opened(report.write_report(run, tmp_path / "page.html"))
    medians = run.frame()["median_ms"]
    assert column(page, "time") == [theme.seconds(ms / 1e3) for ms in medians]


def test_a_page_of_100_000_points_opens_with_all_of_them(opened, tmp_path):
    """A part is in the page at a time; a filter looks at all."""
    count = 100_000
    data = {
        "rows": count, "sort": "", "runs": [], "words": [],
        "columns": [
            {"name": "contender", "head": "contender", "kind": "text", "filter": True, "title": "",
             "words": ["blockskip", "sdpa"], "values": [number % 2 for number in range(count)]},
            {"name": "median_ms", "head": "time", "kind": "time", "title": "", "values": [*range(count, 0, -1)]},
        ],
    }  # fmt: skip
    body = render("points.table", id="points", name="many", data=data) + render("points.script")
    (tmp_path / "many.html").write_text(f"<!doctype html><meta charset=utf-8>{trusted(body)}", encoding="utf-8")
    page = opened(tmp_path / "many.html")
    assert page.locator("[role=status]").inner_text() == "100,000 points"
    assert page.locator("tbody tr").count() == 200
    page.get_by_role("button", name="Show 200 more of 99,800").click()
    assert page.locator("tbody tr").count() == 400
    page.get_by_role("button", name="time").click()
    assert column(page, "time")[0] == "1.00 ms"
    choose(page, "contender", "sdpa")
    assert page.locator("[role=status]").inner_text() == "50,000 of 100,000 points"


def test_hostile_runs_are_text(opened, tmp_path):
    one = hostile.run("decode")
    later = replace(one, header={**one.header, "start": "2026-02-01"})
    assert compare(one, later).pairs
    page = opened(report.write_report([one, later], tmp_path / "page.html"))
    for button in page.locator("button.open").all():
        button.click()
    page.wait_for_timeout(300)  # an attack that loads a picture would take a moment
    assert page.evaluate(RAN) is None and page.evaluate(FOUND) == 0
    assert "<script>window.ran=1</script>" in page.inner_text("body")
    assert json.loads(page.locator("script[type='application/json']").inner_text())["rows"] == 7


APART = """() => [...document.querySelectorAll('.js-plotly-plot')].map(figure => {
  const box = (name) => figure.querySelector(name)?.getBoundingClientRect();
  const [title, menu, plot] = [box('.gtitle'), box('.updatemenu-header'), box('.xgrid, .gridlayer')];
  return menu ? [menu.top - title.bottom, plot.top - menu.bottom] : [plot.top - title.bottom];
})"""


def test_no_blank_and_no_menu_lies_under_or_over_a_figures_title(opened, tmp_path):
    """The legend stands beside the figures of a report: what it took over the plot is given back, menus come down."""
    run = read_run(data_path("runs") / "2026-11-30-nvidia-h200-model-gemma4-31b-prompts.jsonl")
    page = opened(report.write_report(run, tmp_path / "page.html"))
    page.locator(".updatemenu-header").wait_for()
    for size in ({"width": 1280, "height": 900}, {"width": 1600, "height": 900}):
        page.set_viewport_size(size)
        page.wait_for_timeout(400)
        for gaps in page.evaluate(APART):
            assert all(0 <= gap < 40 for gap in gaps), (size, gaps)
    page.locator(".updatemenu-header").click()
    page.locator(".updatemenu-dropdown-button").last.click()
    page.wait_for_timeout(400)
    assert all(0 <= gap < 40 for gaps in page.evaluate(APART) for gap in gaps)
