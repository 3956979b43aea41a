"""Tables of runs: which row a cell takes, what marks it, what is missed, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from skiplab import rated as rated_module
from skiplab.machine.roofs import Rate, Roofs
from skiplab.rated import rated, rows_of
from skiplab.results import marks
from skiplab.results.asked import TargetsTable
from skiplab.results.marks import APART, REFUSED, close
from skiplab.results.tables import (
    Item,
    MissingRun,
    Table,
    axis_name,
    entries,
    fill,
    gather,
    grid,
    markdown,
    number,
    styled,
)
from skiplab.store import Run, RunWriter, read_runs

ROOF = {"bandwidth_gbps": 1000.0, "tflops": 100.0}
OURS, PEER = {"contender": "blockskip"}, {"contender": "flex"}
TIMES = Table(
    "A layer.", ("q_len",), (Item("ours", OURS), Item("peer", PEER), Item("ratio", OURS, "faster", ("flex",))),
    {"operation": "attention", "window": 256}, across=True,
)  # fmt: skip


def point(contender: str, microseconds: float, q_len: int = 512, **fields) -> dict:
    """A row of a run file; its useful work takes 10 us at the roof of 100 TFLOP/s, its bytes 10 us at 1,000 GB/s."""
    axes = {"operation": "attention", "q_len": q_len, "kv_len": q_len, "mask": "sliding_window(256)", "window": 256,
            "batch": 1, "q_heads": 8, "kv_heads": 4, "head_dim": 64, "dtype": "bfloat16", "q_start": None}  # fmt: skip
    work = {"useful_flops": 1e9, "executed_flops": 2e9, "dense_flops": 4e9, "bytes": 2e7, "minimal_bytes": 1e7}
    name = f"{contender} {q_len} {fields.get('config')}"
    return {
        "key": name, "point": name, "axes": axes, "contender": contender, "status": "ok", "device": "a GPU",
        "samples_ns": [int(microseconds * 1e3)] * 3, "method": "graph", "error": 1e-3, "work": work, "flags": [],
        **fields,
    }  # fmt: skip


def run(folder: Path, name: str, *rows: dict, start: str = "2026-01-01") -> Run:
    """Those rows, written and read as every run is."""
    header = {"run_id": name, "device": {"name": "a GPU"}, "torch": "2.x", "roof": ROOF, "start": start}
    writer = RunWriter(folder / f"{name}.jsonl", header)
    for row in rows:
        writer.append(row)
    return writer.finish("later")


def shown(table: Table, *runs: Run) -> list[list[str]]:
    return grid(entries("t", table, gather(table, runs)), table).to_numpy().tolist()


def test_lines_are_items_and_columns_the_axis(tmp_path):
    one = run(tmp_path, "a", point("blockskip", 50), point("flex", 75), point("blockskip", 100, 1024))
    cells = grid(entries("t", TIMES, rated([one])), TIMES)
    assert list(cells.columns) == ["prompt length", "512", "1,024"]
    assert cells.to_numpy().tolist() == [["ours", "0.0500", "0.100"], ["peer", "0.0750", ""], ["ratio", "1.50×", ""]]


def test_rows_as_dicts_are_those_of_pandas():
    """Numbers of Python's own types too, of a frame that has every column and kind of value."""
    table = rated(read_runs())
    found, wanted = rows_of(table), table.to_dict("records")
    assert repr(found) == repr(wanted) and rows_of(table.iloc[:0]) == []


def test_shares_are_of_the_runs_own_roofs(tmp_path):
    items = (Item("reads", OURS, "reads"), Item("products", OURS, "products"), Item("us", OURS, "us"))
    table = Table("x", ("q_len",), items)
    assert shown(table, run(tmp_path, "a", point("blockskip", 40))) == [["512", "25\u00a0%", "25\u00a0%", "40.0"]]


def test_a_plain_read_of_as_many_bytes_comes_from_the_devices_file(tmp_path, monkeypatch):
    one = run(tmp_path, "a", point("blockskip", 40), point("blockskip", 40, 1024))
    table = Table("x", ("q_len",), (Item("us", OURS, "us"), Item("plain", OURS, "plain")))
    assert shown(table, one) == [["512", "40.0"], ["1,024", "40.0"]]  # nobody measured that device: no column
    reads = tuple(Rate("a sum", size, "graph", (20_000 * size // 8_000_000,)) for size in (8_000_000, 16_000_000))
    known = {"a GPU": Roofs({"name": "a GPU"}, "measured", "", reads=reads)}
    monkeypatch.setattr(rated_module, "recorded_roofs", lambda: known)
    assert shown(table, one)[0] == ["512", "40.0", "62\u00a0%"]  # 10 MB in 25 us
    assert "*plain*: the time of a kernel that only reads" in markdown("t", table, rated([one]), tmp_path / "page.md")


def test_the_newest_run_counts_and_the_first_pattern_before_it(tmp_path):
    old = run(tmp_path, "old", point("blockskip", 80), point("flex", 80))
    new = run(tmp_path, "new", point("blockskip", 40), start="2026-02-01")
    assert shown(TIMES, old, new) == [["ours", "0.0400"], ["peer", "0.0800"], ["ratio", f"2.00×{APART}"]]
    assert shown(TIMES, new, old) == shown(TIMES, old, new)
    first = Table("x", ("q_len",), (Item("ours", OURS),), runs=("ol*", "*"))
    assert shown(first, old, new) == [["512", "0.0800"]]


def test_a_config_that_was_asked_for_is_no_contenders_own_time(tmp_path):
    tuned = run(tmp_path, "tune", point("blockskip", 10, config=[64, 64, 4, 2]), point("blockskip", 50))
    assert shown(TIMES, tuned)[0] == ["ours", "0.0500"]


def test_other_devices_of_the_same_point_are_no_copies(tmp_path):
    here = run(tmp_path, "a", point("blockskip", 50))
    there = Run({**here.header, "device": {"name": "b"}}, here.rows, path=here.path)
    assert sorted(rated([here, there])["device"]) == ["a GPU", "b"]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"flags": ["throttled", "launch-bound"]}, "0.0500†"),
        ({"flags": ["launch-bound", "allocates"]}, "0.0500"),
        ({"flags": ["unconverged", "bimodal"], "samples_ns": [40_000, 50_000, 60_000]}, "0.0500‡"),
        ({"status": "unsupported", "samples_ns": []}, REFUSED),
        ({"status": "out-of-memory", "samples_ns": []}, "out of memory"),
        ({"status": "wrong", "samples_ns": []}, "wrong"),
    ],
)
def test_cells_say_what_is_doubtful_or_failed(tmp_path, fields, text):
    """Beside two cells without a mark, so that none is usual."""
    others = [point("blockskip", 50, length) for length in (1024, 2048)]
    assert shown(TIMES, run(tmp_path, "a", point("blockskip", 50, **fields), *others))[0][:2] == ["ours", text]


@pytest.mark.parametrize(("slowed", "mark", "said"), [(3, "○", True), (2, "†", False)])
def test_a_mark_of_most_cells_is_said_once_above_and_the_others_are_marked(tmp_path, slowed, mark, said):
    """Of four cells: three alike are most, two are not."""
    lengths = (512, 1024, 2048, 4096)
    rows = [point("blockskip", 50, length, flags=["throttled"] * (i < slowed)) for i, length in enumerate(lengths)]
    table = Table("x", ("q_len",), (Item("ours", OURS),))
    one = run(tmp_path, "a", *rows)
    texts = [text for _, text in shown(table, one)]
    assert [mark in text for text in texts] == [(i < slowed) is not said for i in range(4)]
    assert all(text.rstrip("○†") == "0.0500" for text in texts)
    above, _, below = markdown("t", table, rated([one]), tmp_path / "page.md").partition("| --- |")
    assert ("In most cells (not ○) the GPU ran slower" in above) is said and ("† the GPU" in below) is not said
    assert "○" not in below.replace("0.0500○", "")


def test_exceptions_lack_each_usual_mark():
    assert marks.above("†", "1.2").startswith("In all cells the GPU") and "○" not in marks.above("†", "1.2")
    assert marks.usual(["†‡", "†‡", "†", ""]) == "†" and marks.usual(["†", ""]) == ""
    assert [marks.shown(own, "†‡") for own in ("†‡", "†", "", "‡◊")] == ["", "□", "○□", "◊○"]
    assert len(set(marks.EXCEPT.values())) == len(marks.NOTES) == len(marks.EXCEPT)


def test_scatter_is_marked_where_a_reader_of_three_digits_sees_it(tmp_path):
    """Quartiles 4 % apart leave a median's third digit alone, mostly; the flag of those is counted below."""
    near, far = ([int(50e3 * (1 + share)) for share in (-width, 0, width)] for width in (0.04, 0.06))
    flags = ["unconverged"]
    one = run(tmp_path, "a", point("blockskip", 50, flags=flags, samples_ns=near),
              point("flex", 50, flags=flags, samples_ns=far), point("blockskip", 50, 1024, samples_ns=far))  # fmt: skip
    assert shown(TIMES, one) == [["ours", "0.0500", "0.0500"], ["peer", "0.0500‡", ""], ["ratio", "1.00×‡", ""]]
    text = markdown("t", TIMES, rated([one]), tmp_path / "page.md")
    assert "‡ the quartiles lie over 5\u00a0% apart" in text and "1 cell without ‡ is flagged as not settled" in text


def asked(table: Table, one: Run, folder: Path) -> list[str]:
    return TargetsTable({"t": table}).markdown([one], folder / "page.md").splitlines()


def test_what_is_missed_stands_on_the_page_of_targets_with_its_reason(tmp_path):
    one = run(tmp_path, "a", point("blockskip", 50), point("flex", 40),
              point("blockskip", 60, 1024), point("flex", 40, 1024))  # fmt: skip
    ratio = Item("ratio", OURS, "faster", ("flex",), lambda row: 1.0 if row["q_len"] > 600 else float("nan"))
    table = Table("**Speed**, x", ("q_len",), (ratio,), target="1 beyond 600", reasons={(1024,): "it is slow"})
    head, _, line, _, below = asked(table, one, tmp_path)
    assert head == "| figures | asked for | met | recorded on |"
    assert line == "| Speed | 1 beyond 600 | 0 of 1 points | a GPU |"
    assert below == "- **Speed** (a GPU): *ratio* at prompt length 1,024 (0.67×): it is slow."
    unknown = replace(table, reasons={(512,): "not that point's"})
    assert asked(unknown, one, tmp_path)[-1].endswith("1,024 (0.67×): the reason has not been found yet.")
    met = replace(table, items=(replace(ratio, least=lambda row: 0.01),), reasons={(512,): "unused"})
    assert asked(met, one, tmp_path)[2:] == [
        "| Speed | 1 beyond 600 | all 2 points | a GPU |",
        "",
        "Nothing is missed.",
    ]
    unrecorded = replace(table, where={"head_dim": 512})
    assert "Speed" not in " ".join(asked(unrecorded, one, tmp_path))


def test_a_readers_table_tells_nothing_of_targets(tmp_path):
    one = run(tmp_path, "a", point("blockskip", 50), point("flex", 40))
    ratio = Item("ratio", OURS, "faster", ("flex",), lambda row: 1.0)
    table = Table("x", ("q_len",), (ratio,), target="speed", reasons={(512,): "it is slow"})
    text = markdown("t", table, rated([one]), tmp_path / "page.md")
    assert "0.80× |" in text and not any(word in text for word in ("speed", "slow", "sked", "✗"))


def test_what_is_missed_for_one_reason_names_each_item_and_axis_once(tmp_path):
    points = [
        {**row, "point": f"{length} {window}", "axes": {**row["axes"], "window": window}}
        for length in (512, 1024)
        for window in (64, 128)
        for row in [point("blockskip", 50, length)]
    ]
    item = Item("a", OURS, least=lambda row: 1.0 if row["window"] < 100 else 0.0)
    reasons = {(64.0, length): "it is slow" for length in (512, 1024)}
    table = Table("**Speed**", ("window", "q_len"), (item,), target="speed", reasons=reasons)
    below = asked(table, run(tmp_path, "a", *points), tmp_path)[-1]
    assert below == "- **Speed** (a GPU): *a* at window 64, prompt length 512 (0.0500) and 1,024 (0.0500): it is slow."


def test_who_does_not_support_a_point_says_why_below_the_table(tmp_path):
    refused = {"status": "unsupported", "samples_ns": []}
    rows = [point("flex", 0, length, error_text="it takes none", **refused) for length in (512, 1024)]
    text = markdown("t", TIMES, rated([run(tmp_path, "a", point("blockskip", 50), *rows)]), tmp_path / "page.md")
    assert f"| peer | {REFUSED} | {REFUSED} |" in text
    assert text.endswith(f"{REFUSED} not supported. *peer*: it takes none.")


def test_a_ratio_is_as_doubtful_as_its_parts(tmp_path):
    one = run(
        tmp_path, "a", point("blockskip", 50), point("flex", 75, flags=["throttled"]), point("blockskip", 50, 1024)
    )
    assert shown(TIMES, one) == [["ours", "0.0500", "0.0500"], ["peer", "0.0750†", ""], ["ratio", "1.50×†", ""]]


def test_a_failed_partner_gives_no_ratio(tmp_path):
    one = run(tmp_path, "a", point("blockskip", 50), point("flex", 40, status="wrong", samples_ns=[]))
    assert shown(TIMES, one) == [["ours", "0.0500"], ["peer", "wrong"]]


def test_the_caption_says_device_versions_method_and_links_the_runs_that_gave_a_cell(tmp_path):
    used = run(tmp_path / "runs", "used", point("blockskip", 50))
    unused = run(tmp_path / "runs", "other", point("sdpa", 50))
    text = markdown("t", TIMES, rated([used, unused]), tmp_path / "data" / "page.md")
    lines = text.splitlines()
    assert lines[0] == "A layer. Recorded on a GPU, median ms of a CUDA graph's replay."
    assert lines[-1] == "With torch 2.x ([run](../runs/used.jsonl))."


def test_what_no_run_has_is_an_error_that_names_the_files():
    table = Table("x", ("q_len",), (Item("ours", OURS),), {"head_dim": 512}, ("*-h100-*",))
    with pytest.raises(MissingRun, match=r"causal-d512: no run .*head_dim.*data/runs/\*-h100-\*\.jsonl"):
        entries("causal-d512", table, gather(table, []))


def test_two_rows_for_one_cell_are_refused(tmp_path):
    one = run(tmp_path, "a", point("blockskip", 50), point("flex", 50))
    table = Table("x", ("q_len",), (Item("anybody", {}),))
    with pytest.raises(ValueError, match="several rows claim the cell"):
        entries("t", table, rated([one]))


def test_a_page_is_filled_between_its_comments_alone(tmp_path):
    one = run(tmp_path, "a", point("blockskip", 50))
    page = tmp_path / "page.md"
    text = "before\n<!-- table: t -->\nstale\n<!-- end -->\nafter <!-- end -->\n"
    filled = fill(text, page, {"t": TIMES}, [one])
    assert filled.startswith("before\n<!-- table: t -->\nA layer.")
    assert filled.endswith("<!-- end -->\nafter <!-- end -->\n")
    assert "stale" not in filled and "| ours | 0.0500 |" in filled
    assert fill(filled, page, {"t": TIMES}, [one]) == filled
    with pytest.raises(ValueError, match=r"page\.md: no table 't'; there are other"):
        fill(text, page, {"other": TIMES}, [one])


def test_a_notebook_shows_the_same_cells_and_where_they_are_from(tmp_path):
    html = styled("t", TIMES, rated([run(tmp_path, "a", point("blockskip", 50))]))._repr_html_()
    assert "Recorded on a GPU" in html and "a.jsonl" in html and ">0.0500<" in html


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (0.07, "ms", "0.0700"), (1.286, "ms", "1.29"), (99.94, "us", "99.9"), (4678.2, "us", "4,678"),
        (0.955, "reads", "96\u00a0%"), (1.618, "faster", "1.62×"), (17.04, "faster", "17.0×"),
        (0.0152, "error", "1.5e-02"),
    ],
)  # fmt: skip
def test_numbers(value, kind, text):
    assert number(value, kind) == text


def test_an_unknown_kind_of_value_is_refused(tmp_path):
    table = Table("x", ("q_len",), (Item("ours", OURS, "hours"),))
    with pytest.raises(ValueError, match="value: got 'hours'; allowed are ms, us"):
        entries("t", table, rated([run(tmp_path, "a", point("blockskip", 50))]))


def test_what_is_flagged_and_lies_close_is_counted_in_words_of_the_table():
    assert close(["busy", "busy, throttled", ""], ["‡", "†", ""]).startswith("1 cell without ‡ is flagged as not set")
    assert close(["bimodal", "busy", ""], ["", "", ""]).startswith("2 cells are flagged")  # a table without a ‡
    assert close(["throttled"], ["†"]) == ""


def test_few_queries_over_keys_are_no_prompt():
    assert axis_name("q_len", ("heads", "kv_len", "q_len")) == "queries"
    assert axis_name("q_len", ("window", "q_len")) == "prompt length"
