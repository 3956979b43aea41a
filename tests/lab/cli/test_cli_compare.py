"""The commands that read several runs: compare, report, query."""

from __future__ import annotations

import csv
import html
import json
import re
from pathlib import Path

import blockskip as bs
import pytest
from skiplab.measure import Measurement, Point
from skiplab.workload import DecodeWorkload, Workload


def line_of(out, *words):
    """The one line of a text that has all the words."""
    (found,) = [line for line in out.splitlines() if all(word in line for word in words)]
    return found


@pytest.fixture
def two_runs(tmp_path):
    """old.jsonl and new.jsonl, made by hand: faster with window 16, slower without; a point of its own on each side."""

    def write(name, factors, **header):
        first = {
            "record": "header",
            "schema": 1,
            "run_id": name,
            "device": {"name": "A CPU"},
            "torch": "2.11",
            **header,
        }
        lines = [first, *(a_row(first["device"]["name"], *one) for one in factors)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def a_row(device, workload, contender, factor):
        samples = tuple(round(factor * 1e6) + noise for noise in range(10))
        point = Point(workload, contender)
        row = Measurement(point, "ok", samples_ns=samples, method="cpu", device_name=device).row()
        return {"record": "point", **row}

    narrow, wide = Workload(64, mask=bs.sliding_window(16)), Workload(64)
    old = [(narrow, "blockskip", 1), (wide, "blockskip", 1), (wide, "flex", 1)]
    write("old", old, git={"commit": "c1", "dirty": False})
    write("new", [(narrow, "blockskip", 0.5), (wide, "blockskip", 3), (wide, "sdpa", 1)],
          git={"commit": "c2", "dirty": False})  # fmt: skip
    write("better", [(narrow, "blockskip", 0.5), (wide, "blockskip", 1)])
    write("decode", [(DecodeWorkload(64), "blockskip", 1)])
    write("longer", [(Workload(128), "blockskip", 1)])
    write("elsewhere", old, device={"name": "A GPU"})


def test_compare_says_what_differs_and_which_points_changed(skiplab, two_runs):
    code, out, err = skiplab("compare", "old.jsonl", "new.jsonl")
    assert (code, err) == (1, "")
    assert "git commit: c1 -> c2" in out and "torch" not in out
    assert line_of(out, "blockskip", "causal", "slower").split()[3:8] == ["1.00", "ms", "3.00", "ms", "3.000"]
    assert "0.500 to 0.500" in line_of(out, "blockskip", "16", "faster")
    assert "2 points ok in both: 1 faster, 1 slower (up to 1 % counts as noise)." in out
    assert "only in old: FlexAttention (flex), 1 point: window causal" in out
    assert "only in new: dense + mask (sdpa), 1 point: window causal" in out
    assert skiplab("compare", "old.jsonl", "better.jsonl")[0] == 0
    code, out, _ = skiplab("compare", "old.jsonl", "old.jsonl")
    assert code == 0 and "nothing in device, versions, git and kernels" in out and "3 same" in out
    code, out, _ = skiplab("compare", "old.jsonl", "new.jsonl", "--margin", "0.6")
    assert code == 1 and "1 slower, 1 same (up to 60 % counts as noise)" in out


def test_compare_prints_json_for_scripts(skiplab, two_runs):
    code, out, _ = skiplab("compare", "old.jsonl", "new.jsonl", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["counts"] == {"faster": 1, "slower": 1, "same": 0, "unclear": 0}
    assert found["differences"] == {"git commit": ["c1", "c2"]}
    assert [(one["contender"], one["old"], one["new"]) for one in found["unpaired"]] == [
        ("sdpa", None, "ok"), ("flex", "ok", None)
    ]  # fmt: skip


def test_runs_that_share_no_point_say_in_what_they_differ(skiplab, two_runs):
    code, out, err = skiplab("compare", "old.jsonl", "longer.jsonl")
    assert code == 2
    assert "No point is ok in both runs." in out and "only in new: blockskip, 1 point: prompt length 128" in out
    assert "no point is ok in both; they differ in q_len (64, then 128), kv_len (64, then 128)" in err


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("decode.jsonl", "decode.jsonl is a run of decode, old.jsonl one of attention"),
        ("gone.jsonl", "gone.jsonl: cannot be read"),
        ("later.jsonl", "later.jsonl, line 1: schema 2; this version of skiplab reads 1 to 1"),
        ("lacking.jsonl", "lacking.jsonl: a point of blockskip lacks the axis window"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_line(skiplab, two_runs, tmp_path, new, message):
    text = (tmp_path / "old.jsonl").read_text()
    (tmp_path / "later.jsonl").write_text(text.replace('"schema": 1', '"schema": 2'))
    (tmp_path / "lacking.jsonl").write_text(text.replace('"window": ', '"windows": '))
    code, out, err = skiplab("compare", "old.jsonl", new)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


def test_three_runs_are_followed_point_by_point(skiplab, two_runs):
    code, out, _ = skiplab("compare", "old.jsonl", "new.jsonl", "better.jsonl")
    assert code == 0
    assert "run 1: old, on A CPU" in out and "run 3: better, on A CPU" in out
    assert "git commit: c1 -> c2 -> None" in out
    assert "0.500 to 0.500" in line_of(out, "blockskip", "16", "faster")
    assert line_of(out, "blockskip", "causal", "same").split()[3:8] == ["1.00", "ms", "1.00", "ms", "1.000"]
    assert (
        "only in run 1: FlexAttention (flex), 1 point" in out and "only in run 2: dense + mask (sdpa), 1 point" in out
    )
    assert "2 points of earlier runs missing in the last." in out


@pytest.mark.parametrize(
    ("new", "words", "code"),
    [("new", [], 1), ("new", ["--fail-on", "missing"], 1), ("new", ["--fail-on", "failing,unclear"], 0),
     ("new", ["--contender", "blockskip", "--fail-on", "missing"], 0), ("new", ["--contender", "blockskip"], 1),
     ("better", [], 0), ("better", ["--fail-on", "slower,missing"], 1)],
)  # fmt: skip
def test_what_fails_a_comparison_is_chosen(skiplab, two_runs, new, words, code):
    assert skiplab("compare", "old.jsonl", f"{new}.jsonl", *words)[0] == code


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["old"], "OLD... NEW: got 1 run; two are needed at least"),
        (["old", "new", "--fail-on", "worse"], "--fail-on: got 'worse'; allowed are slower, failing, unclear, missing"),
        (["old", "new", "--contender", "fa3"], "--contender: old.jsonl has no point of 'fa3'; it has blockskip, flex"),
        (
            ["old", "elsewhere"],
            "elsewhere.jsonl was measured on A GPU, old.jsonl on A CPU; only runs on the same device",
        ),
    ],
)
def test_what_compare_cannot_do_is_one_line(skiplab, two_runs, words, message):
    code, out, err = skiplab("compare", *(f"{run}.jsonl" for run in words[:2]), *words[2:])
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1


def page_data(path):
    """What the tables of points of a page hold, and its words without tags."""
    text = Path(path).read_text(encoding="utf-8")
    data = [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', text, re.DOTALL)]
    plain = re.sub(r"<(script|style).*?</\1>|<[^>]+>", " ", text, flags=re.DOTALL)
    return data, re.sub(r"\s+", " ", html.unescape(plain))


def test_a_comparison_is_a_page_too_whose_headline_counts_every_point(skiplab, two_runs):
    code, out, _ = skiplab("compare", "old.jsonl", "new.jsonl", "--report", "made/page.html", "--table", "c.csv")
    assert code == 1 and "report: made/page.html" in out
    (data,), words = page_data("made/page.html")
    assert data["rows"] == 4 and "2 runs, 4 points: 1 faster, 1 slower, 1 new, 1 missing." in words
    columns = {one["name"]: one for one in data["columns"]}
    verdicts = [columns["verdict"]["words"][code] for code in columns["verdict"]["values"]]
    assert sorted(verdicts) == ["faster", "missing", "new", "slower"]
    assert columns["ratio"]["values"][:2] == [pytest.approx(0.5, rel=1e-5), pytest.approx(3, rel=1e-5)]
    assert [len(timings) for timings in columns["trend"]["values"]] == [2, 2, 1, 1]
    assert "git commit: c1 -> c2" in words
    with open("c.csv", encoding="utf-8") as file:
        assert [row["verdict"] for row in csv.DictReader(file)] == verdicts


def test_a_report_of_many_runs_has_a_part_for_each_operation_and_device(skiplab, two_runs):
    files = [f"{name}.jsonl" for name in ("old", "new", "better", "elsewhere", "decode")]
    code, out, _ = skiplab("report", *files, "--table", "all.csv,all.md")
    assert code == 0 and "report: out/runs.html" in out
    data, words = page_data("out/runs.html")
    assert [one["rows"] for one in data] == [4, 3, 1]
    assert "Times of different operations or devices are never compared" in words
    assert words.count("One run, with nothing to compare it with.") == 2
    assert "a prompt's attention, A CPU : 3 runs" in words and "a prompt's attention, A GPU : 1 run" in words
    with open("all.csv", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == 3 + 3 + 2 + 3 + 1
    text = Path("all.md").read_text(encoding="utf-8")
    assert sum(line.startswith("| ---") for line in text.splitlines()) == 3
    assert "better on A CPU, compared with old, new" in text
    assert "recorded" not in words and "measured on A GPU" in text


def test_flagged_points_are_counted_and_shown(skiplab, two_runs):
    lines = Path("new.jsonl").read_text().splitlines()
    row = json.loads(lines[1]) | {"flags": ["throttled", "allocates"]}
    Path("new.jsonl").write_text("\n".join([lines[0], json.dumps(row), *lines[2:]]) + "\n")
    _, out, _ = skiplab("compare", "old.jsonl", "new.jsonl", "--report", "page.html")
    (data,), words = page_data("page.html")
    for said in (out, words):
        assert "Flags of these points: allocates (1), throttled (1)." in said
        assert "1 point without a verdict, whatever the ratio: throttled in one of the two (1)." in said
    assert "2 runs, 4 points: 1 slower, 1 unclear, 1 new, 1 missing." in words
    flags = next(one for one in data["columns"] if one["name"] == "flags")
    assert "throttled in one of the two, allocates" in flags["words"]
    assert "throttled , 1 point: the GPU had slowed its clocks" in words


def test_questions_in_sql(skiplab, two_runs):
    ask = "SELECT run_id, count(*) AS n FROM points WHERE contender = 'blockskip' GROUP BY run_id ORDER BY run_id"
    code, out, _ = skiplab("query", ask, "old.jsonl", "n*.jsonl", "--table", "q.csv,q.md")
    assert code == 0 and [line.split() for line in out.splitlines()[:3]] == [
        ["run_id", "n"],
        ["new", "2"],
        ["old", "2"],
    ]
    assert Path("q.csv").read_text().splitlines() == ["run_id,n", "new,2", "old,2"]
    assert Path("q.md").read_text().splitlines()[2:] == ["| new | 2 |", "| old | 2 |"]
    code, out, _ = skiplab("query", "SELECT 1 WHERE false", "old.jsonl")
    assert (code, out.strip()) == (0, "no row")
    code, out, _ = skiplab("query", "SELECT count(*) AS files FROM runs WHERE device LIKE 'NVIDIA%'")
    assert code == 0 and int(out.split()[1]) > 20
    code, _, err = skiplab("query", "SELECT speed FROM points", "old.jsonl")
    assert code == 2 and "SQL: Binder Error" in err and err.count("\n") == 1
