"""The command that compares two runs."""

from __future__ import annotations

import json

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
        lines = [first, *(a_row(*one) for one in factors)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def a_row(workload, contender, factor):
        samples = tuple(round(factor * 1e6) + noise for noise in range(10))
        point = Point(workload, contender)
        row = Measurement(point, "ok", samples_ns=samples, method="cpu", device_name="A CPU").row()
        return {"record": "point", **row}

    narrow, wide = Workload(64, mask=bs.sliding_window(16)), Workload(64)
    old = [(narrow, "blockskip", 1), (wide, "blockskip", 1), (wide, "flex", 1)]
    write("old", old, git={"commit": "c1", "dirty": False})
    write("new", [(narrow, "blockskip", 0.5), (wide, "blockskip", 3), (wide, "sdpa", 1)],
          git={"commit": "c2", "dirty": False})  # fmt: skip
    write("better", [(narrow, "blockskip", 0.5), (wide, "blockskip", 1)])
    write("decode", [(DecodeWorkload(64), "blockskip", 1)])
    write("longer", [(Workload(128), "blockskip", 1)])


def test_compare_says_what_differs_and_which_points_changed(skiplab, two_runs):
    code, out, err = skiplab("compare", "old.jsonl", "new.jsonl")
    assert (code, err) == (1, "")
    assert "git commit: c1 -> c2" in out and "torch" not in out
    assert line_of(out, "blockskip", "causal", "slower").split()[3:8] == ["1.00", "ms", "3.00", "ms", "3.000"]
    assert "0.500 to 0.500" in line_of(out, "blockskip", "16", "faster")
    assert "2 points ok in both: 1 faster, 1 slower (up to 1 % counts as noise)." in out
    assert "only in old: flex: 1 point, window causal" in out
    assert "only in new: sdpa: 1 point, window causal" in out
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
    assert "No point is ok in both runs." in out and "only in new: blockskip: 1 point, q_len 128" in out
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
