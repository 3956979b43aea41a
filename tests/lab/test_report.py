import base64
import json
import re

import blockskip as bs
import pytest
from skiplab.measure import Measurement, Point, WorkDone
from skiplab.report import marks_note, notes_above, report_html, summary, time_table, write_report
from skiplab.report.attention import with_window_slider
from skiplab.report.page import header_table
from skiplab.report.points import data_of, of_frame
from skiplab.store import Run
from skiplab.workload import Workload

HEADER = {
    "record": "header", "schema": 1, "run_id": "id", "device": {"name": "<A & B>"}, "start": "2026-01-01",
    "command": "skiplab sweep --q-len 512", "roof": {"tflops": 1.0, "bandwidth_gbps": 100.0}, "end": "2026-01-02",
}  # fmt: skip


def a_row(contender, milliseconds, window, q_len=512, status="ok", flags=()):
    mask = bs.causal() if window is None else bs.sliding_window(window)
    workload = Workload(q_len, mask=mask)
    least = workload.work("bounds")
    work = WorkDone(least.useful_flops, least.executed_flops, least.dense_flops, least.bytes, least.bytes)
    samples = tuple(int(milliseconds * 1e6) + noise for noise in range(10)) if status == "ok" else ()
    row = Measurement(
        Point(workload, contender), status, "" if status == "ok" else "too <old>", 1e-3, 2e-3, "cpu", samples,
        work=work, flags=flags, device_name="<A & B>",
    ).row()  # fmt: skip
    return {"record": "point", **row}


def column(table, name):
    """A column of the page's table of points, its texts as texts."""
    (found,) = [one for one in data_of(of_frame(table))["columns"] if one["name"] == name]
    return [found["words"][code] for code in found["values"]] if "words" in found else found["values"]


@pytest.fixture
def run():
    return Run(
        HEADER,
        (
            a_row("sdpa", 8, 128), a_row("blockskip", 2, 128, flags=("allocates",)), a_row("sdpa", 8, None),
            a_row("blockskip", 4, None), a_row("flex", 0, None, status="crashed"),
        ),
    )  # fmt: skip


def test_times_are_one_line_a_length_and_window(run):
    table = time_table(run.frame())
    assert table["window"].tolist() == ["128", "causal"]
    assert table["dense + mask"].tolist() == ["8.00 ms", "8.00 ms"]
    assert table["blockskip"].tolist() == ["2.00 ms* (4.00×)", "4.00 ms (2.00×)"]
    assert table["FlexAttention"].tolist() == ["", "crashed"]
    short = Run(HEADER, (a_row("sdpa", 0.01234, 128), a_row("blockskip", 0.9876, 128)))
    assert time_table(short.frame()).iloc[0, -2:].tolist() == ["12.3 µs", "988 µs (0.01×)"]


def test_a_flag_of_most_times_is_said_once_above_them(run):
    def flagged(*flags):
        rows = (a_row("sdpa", 8, 128), a_row("blockskip", 2, 128), a_row("flex", 4, 128))
        return Run(HEADER, tuple({**row, "flags": own} for row, own in zip(rows, flags, strict=True))).frame()

    def times(table):
        return time_table(table).iloc[0, -3:].tolist()

    alike = flagged(["busy"], ["busy"], ["busy"])
    assert times(alike) == ["8.00 ms", "2.00 ms (4.00×)", "4.00 ms (2.00×)"]
    assert marks_note(alike) == "flagged busy: all times"
    mixed = flagged(["busy"], ["busy", "bimodal"], [])
    assert times(mixed) == ["8.00 ms", "2.00 ms* (4.00×)", "4.00 ms○ (2.00×)"]
    assert marks_note(mixed) == "flagged busy: all but those marked ○; * for other flags"
    assert marks_note(run.frame()) == "* for flags" and marks_note(flagged([], [], [])) == ""
    page = re.sub(r"\s+", " ", report_html(Run(HEADER, tuple({**row, "flags": ["busy"]} for row in run.rows))))
    assert "in brackets times faster than dense + mask (sdpa); flagged busy: all times." in page


def test_a_table_without_the_base_promises_no_brackets_and_a_title_says_the_batch():
    from skiplab import figures

    row = a_row("blockskip", 2, 128)
    alone = Run(HEADER, ({**row, "axes": {**row["axes"], "batch": 8}, "flags": ["busy"]},))
    assert notes_above(alone.frame()) == "flagged busy: all times" and notes_above(alone.frame().iloc[:0]) == ""
    page = re.sub(r"\s+", " ", report_html(alone))
    assert "Median of each point; flagged busy: all times." in page and "in brackets" not in page
    assert ", batch 8</h1>" in page
    assert "slider to change" not in page
    assert not with_window_slider(figures.attention_ratio, alone.frame()).layout.sliders


def test_rates_below_one_are_no_zeros(run):
    slow = Run(HEADER, (a_row("sdpa", 4e5, 128),))
    (rate,) = column(slow.frame(), "gbps")
    assert 0 < rate < 0.01 and f"<td>{rate:.3g}</td>" in slow._repr_html_().replace(' style="text-align:left"', "")


def test_the_summary_counts_and_claims_only_checked_points(run):
    text = summary(run.frame())
    assert "5 points: 4 ok, 1 crashed" in text
    assert "up to 4.0 times" in text
    assert "512 tokens, window 128" in text
    assert "times" not in summary(Run(HEADER, run.rows[:1]).frame())


@pytest.mark.parametrize(
    ("ours", "words"),
    [
        (40, "blockskip is slower than dense + mask at every point compared, and takes at least 5.0 times as long"),
        (8.1, "blockskip is at best about as fast as dense + mask"),
        (4, "blockskip is up to 2.0 times as fast as dense + mask"),
    ],
)
def test_a_slow_down_is_no_speed_up(ours, words):
    rows = (a_row("sdpa", 8, 128), a_row("blockskip", ours, 128), a_row("sdpa", 8, None), a_row("blockskip", 80, None))
    assert f"{words} (512 tokens, window 128;" in summary(Run(HEADER, rows).frame())


def test_a_report_of_an_interrupted_run_says_so(run):
    text = report_html(Run({**HEADER, "interrupted": True}, run.rows))
    data = base64.b64decode(re.search(r"ndjson;base64,([A-Za-z0-9+/=]+)[\"']", text)[1]).decode().splitlines()
    assert json.loads(data[-1]) == {"record": "end", "end": "2026-01-02", "interrupted": True}
    assert "interrupted" not in json.loads(data[0])
    assert "<td>interrupted</td>" in text


def test_nothing_is_claimed_on_a_busy_machine(run):
    busy = Run(HEADER, tuple({**row, "flags": ["busy"]} for row in run.rows))
    assert "No speed-up is claimed" in summary(busy.frame())


BASE = "dense + mask (sdpa)"


def test_every_point_is_listed_with_its_error(run):
    table = run.frame()
    assert column(table, "contender") == [BASE, "blockskip", BASE, "blockskip", "FlexAttention (flex)"]
    assert column(table, "window") == ["128", "128", "causal", "causal", "causal"]
    assert column(table, "error")[:4] == [1e-3] * 4 and column(table, "tolerance")[:4] == [2e-3] * 4
    assert column(table, "status") == ["ok"] * 4 + ["crashed"] and column(table, "why")[-1] == "too <old>"
    assert column(table, "median_ms")[-1] is None
    assert [value and round(value, 3) for value in column(table, "faster")] == [None, 4.0, None, 2.0, None]
    assert "run_id" in header_table(run)["what"].tolist()


def test_the_slider_shows_one_window_at_a_time(run):
    from skiplab import figures

    figure = with_window_slider(figures.attention_ratio, run.frame())
    steps = figure.layout.sliders[0].steps
    assert [step.label for step in steps] == ["all", "128", "causal"]
    shown = [sum(step.args[0]["visible"]) for step in steps]
    assert shown[0] == shown[1] + shown[2] == 4
    assert all(len(step.args[0]["visible"]) == len(figure.data) for step in steps)
    (sources,) = (note for note in figure.layout.annotations if note.name == "sources")
    lines = 1 + sources.text.count("<br>")
    assert figure.layout.sliders[0].pad.t >= -sources.yshift + 15 * lines  # under the lines that say where it is from
    assert figure.layout.margin.b >= figure.layout.sliders[0].pad.t + 80


def test_the_page_needs_no_network_and_holds_everything(run, tmp_path):
    path = write_report(run, tmp_path / "deep" / "report.html")
    text = path.read_text(encoding="utf-8")
    outside = re.findall(r'<(?:script|link|img)[^>]*(?:src|href)=["\']?(?:https?:)?//', text)
    assert not outside
    assert "recorded on &lt;A &amp; B&gt;" in text
    assert "too \\u003cold\\u003e" in text and "<old>" not in text  # in the data of the table of points
    assert "skiplab sweep --q-len 512" in text
    assert "beyond its result" in text  # the flag is explained
    data = base64.b64decode(re.search(r"ndjson;base64,([A-Za-z0-9+/=]+)[\"']", text)[1]).decode().splitlines()
    assert [json.loads(line)["record"] for line in data] == ["header", *["point"] * 5, "end"]


def test_the_columns_of_a_page_hold_what_differs_and_no_more(run):
    names = {one["name"] for one in data_of(of_frame(run.frame()))["columns"]}
    assert "q_len" not in names and "window" in names  # one prompt length, two windows
    assert "beside" not in names
    ok = run.frame().iloc[:2]
    assert "status" not in {one["name"] for one in data_of(of_frame(ok))["columns"]}
    other = [a_row("sdpa", 8, 128), a_row("sdpa", 8, 128) | {"point": "wider"}]
    other[1]["axes"] = {**other[1]["axes"], "head_dim": 64}
    assert column(Run(HEADER, tuple(other)).frame(), "beside") == ["head_dim 128", "head_dim 64"]


def test_a_figure_without_points_is_a_sentence_not_a_blank(run):
    text = report_html(Run(HEADER, tuple(row for row in run.rows if row["contender"] == "blockskip")))
    assert "Not drawn, for no checked point has a partner of dense + mask at the same s" in text
    assert text.count("<figure>") == 3 and report_html(run).count("<figure>") == 5


def test_a_headline_names_the_flags_of_the_point_that_it_claims():
    rows = a_row("sdpa", 8, 128), a_row("blockskip", 2, 128, flags=("throttled",))
    assert "results checked against float64; flags: throttled)" in summary(Run(HEADER, rows).frame())
    text = report_html(Run(HEADER, rows))
    assert "<code>throttled</code>, 1 point: the GPU had slowed its clocks" in text


def test_a_run_without_points_is_a_page(run):
    assert "no point yet" in report_html(Run(HEADER))


def test_a_headline_says_what_it_leaves_out():
    rows = (a_row("sdpa", 8, 128), a_row("blockskip", 4, 128), a_row("sdpa", 90, None),
            a_row("blockskip", 1, None, flags=("busy",)))  # fmt: skip
    text = summary(Run(HEADER, rows).frame())
    assert "up to 2.0 times as fast" in text
    assert (
        "1 flagged point (busy) is left out of this; counted with them blockskip is up to 90.0 times as fast as" in text
    )
    assert "left out" not in summary(Run(HEADER, rows[:2]).frame())


def test_a_headline_says_why_nothing_is_claimed():
    """Not doubt, where there is nothing to compare with: the page has no figure of it, either."""
    text = summary(Run(HEADER, (a_row("blockskip", 4, 128, flags=("busy",)), a_row("flex", 4, 128))).frame())
    assert text.endswith("No speed-up is claimed: no checked point of blockskip has one of dense + mask beside it.")
