"""Which rows of a long run a report shows: few, those that matter, and it says so."""

from __future__ import annotations

import json
import re

import blockskip as bs
import numpy as np
import pandas as pd
import pytest
from skiplab import report, thin
from skiplab.figures import speedups
from skiplab.store import COLUMNS, Run

AXES = ["q_len", "window", "mask"]


def a_frame(lengths, windows, contenders=("blockskip", "sdpa"), seed=0):
    """A frame of prefill rows with random times, as `frame` gives it."""
    random = np.random.default_rng(seed)
    places = [(q_len, window, name) for q_len in lengths for window in windows for name in contenders]
    table = pd.DataFrame(places, columns=["q_len", "window", "contender"]).reindex(columns=list(COLUMNS))
    times = random.lognormal(0, 1, len(table)) + 0.01
    masks = [str(bs.sliding_window(int(window)).spec()) for window in table["window"]]
    given = {
        "run_id": "r", "source": "recorded", "device": "GPU", "label": table["contender"], "operation": "attention",
        "kv_len": table["q_len"], "window": table["window"].astype(float), "mask": masks, "batch": 1, "q_heads": 1,
        "kv_heads": 1, "head_dim": 64, "dtype": "bfloat16", "status": "ok", "method": "graph", "samples": 10,
        "median_ms": times, "low_ms": times, "high_ms": times, "useful_flops": 1e9, "executed_flops": 2e9,
        "dense_flops": 4e9, "tokens_per_s": table["q_len"] / times * 1e3, "bound_ms": times / 2, "error": 1e-3,
        "tolerance": 2e-3, "flags": "", "error_text": "",
    }  # fmt: skip
    return table.assign(**given)


@pytest.mark.parametrize(("count", "most"), [(0, 5), (1, 5), (5, 5), (100, 7), (8, 7)])
def test_even_choices_hold_both_ends(count, most):
    chosen = thin.evenly(count, most).tolist()
    assert len(chosen) == min(count, most) == len(set(chosen))
    assert not count or (chosen[0], chosen[-1]) == (0, count - 1)


def test_a_run_of_ordinary_size_is_whole():
    table = a_frame([256, 512], [16, 64, 128])
    parts = [thin.lines(table, "q_len", AXES, "sdpa"), thin.scatter(table, "bound_ms", "median_ms"),
             thin.grid(table, "q_len", ["window", "mask"]), thin.groups(table, AXES),
             thin.by_setting(table, AXES)]  # fmt: skip
    assert all(part.table.equals(table) and not part.left_out for part in parts)


def test_lines_keep_their_ends_and_extremes_and_speedups_their_partners():
    table = a_frame(range(100, 6100), [16, 64])
    plain, ratios = thin.lines(table, "q_len", AXES), thin.lines(table, "q_len", AXES, "sdpa")
    assert len(plain.table) <= thin.POINTS and len(ratios.table) <= 2 * thin.POINTS
    assert f"{len(plain.table):,} of 24,000 points are drawn" in plain.left_out
    for keys, line in table.groupby(["contender", "window"]):
        kept = plain.table[(plain.table[["contender", "window"]] == list(keys)).all(axis=1)]
        for column in ("q_len", "median_ms"):
            assert kept[column].agg(["min", "max"]).equals(line[column].agg(["min", "max"]))
    whole, part = speedups(table), speedups(ratios.table)
    assert part["speedup"].max() == whole["speedup"].max() and part["speedup"].min() == whole["speedup"].min()
    assert len(part) == len(ratios.table) // 2  # no point without its partner


def test_many_settings_are_chosen_evenly():
    table = a_frame([256], range(1, 3001))
    part = thin.lines(table, "q_len", AXES)
    windows = part.table["window"].unique()
    assert len(windows) == thin.SETTINGS and {1.0, 3000.0} <= set(windows)
    assert "24 of 3,000 settings" in part.left_out
    for make in (thin.groups, thin.by_setting):
        assert "of 3,000 settings are" in make(table, AXES).left_out
    assert "24 of 3,000 settings" in thin.grid(table, "q_len", ["window", "mask"]).left_out


def test_a_marker_stands_for_those_under_it():
    table = pd.concat([a_frame(range(100, 3100), [16])] * 3, ignore_index=True)
    table["median_ms"] = table["bound_ms"] = np.tile([1.0, 2.0, 100.0], len(table) // 3)
    part = thin.scatter(table, "bound_ms", "median_ms")
    assert sorted(part.table["median_ms"].unique()) == [1.0, 2.0, 100.0] and len(part.table) == 6


def test_the_report_of_a_long_run_is_small_and_says_what_it_leaves_out(monkeypatch, tmp_path):
    table = a_frame(range(100, 3100), [16, 64])
    rows = tuple({"record": "point", "samples_ns": list(range(10**6, 10**6 + 200))} for _ in range(5000))
    path = tmp_path / "long.jsonl"
    path.write_text("a file\n")
    run = Run({"run_id": "long", "device": {"name": "GPU"}, "operation": "attention"}, path=path)
    monkeypatch.setattr(Run, "frame", lambda self: table)
    monkeypatch.setattr(Run, "operation", "attention")
    monkeypatch.setattr(report.page, "title", lambda run: "long")
    text = report.report_html(Run(run.header, rows, path=path))
    assert len(text) < 20e6 and "base64" not in text.split("<h2>Raw data</h2>")[1]
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", text.split("<h2>Raw data</h2>")[1]))
    assert "Not in this page" in words and "long.jsonl (0 MB, SHA-256 " in words and "has all 5,000 points" in words
    assert re.search(r"[\d,]+ of 12,000 points[^.]* are drawn", text)
    assert "1,000 of 6,000 settings are listed. The run file has all." in re.sub(r"\s+", " ", text)
    (points,) = re.findall(r'<script type="application/json">(.*?)</script>', text)
    assert json.loads(points)["rows"] == 12_000  # the table of points holds all of them
