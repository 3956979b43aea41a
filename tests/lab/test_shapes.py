"""Tables of attention at other shapes: what they take from small runs, what they miss, and that none stands empty."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from skiplab.results.asked import TargetsTable
from skiplab.results.marks import APART
from skiplab.results.shapes import SHAPES, RecordedTables
from skiplab.results.tables import entries, fill, gather, grid
from skiplab.results.topics import TOPICS
from skiplab.store import Run, RunWriter

SMALL = [name for name in TOPICS if name.startswith(("prefill-causal-d64", "prefill-windows-d64", "prefill-sinks",
                                                     "prefill-heads", "prefill-batch", "prefill-flash", "prefill-ffpa",
                                                     "prefill-float8", "decode-ragged", "decode-float8"))]  # fmt: skip
FLOPS, BYTES = 1e9, 1e8


def recorded(folder: Path, topics: list[str], milliseconds) -> list[Run]:
    """Runs of these topics as an H200 would write them; milliseconds(contender, workload)."""
    return [_written(folder / f"2126-01-01-nvidia-h200-{topic}.jsonl", topic, milliseconds) for topic in topics]


def _written(path: Path, topic: str, milliseconds) -> Run:
    header = {"run_id": topic, "device": {"name": "NVIDIA H200"}, "torch": "2.x", "start": "2126-01-01",
              "roof": {"bandwidth_gbps": 4000.0, "tflops": 800.0}}  # fmt: skip
    writer = RunWriter(path, header)
    for point in TOPICS[topic].points():
        work = {"useful_flops": FLOPS, "minimal_bytes": BYTES}
        taken = round(1e6 * milliseconds(point.contender, point.workload))
        writer.append({
            "key": point.key, "point": point.key, "axes": point.workload.axes(), "contender": point.contender,
            "status": "ok", "device": "NVIDIA H200", "samples_ns": [taken] * 3, "method": "graph", "flags": [],
            "work": work, **({} if point.workload.kv_dtype is None else {"snr_db": 28.25}),
        })  # fmt: skip
    return writer.finish("later")


def cells(name: str, runs: list[Run]):
    table = SHAPES[name]
    return entries(name, table, gather(table, runs))


@pytest.mark.parametrize("topic", SMALL)
def test_a_topic_is_small_enough_for_a_minute(topic):
    workloads = TOPICS[topic].workloads()
    assert len(workloads) <= 12 and len(TOPICS[topic].contenders) <= 4
    assert all(one.batch * one.keys * one.kv_heads * one.head_dim < 2**32 for one in workloads)


def test_each_class_has_its_topic_and_its_table(tmp_path):
    """Every topic of these fills a table's cells, and every table is filled by topics."""
    runs = recorded(tmp_path, SMALL, lambda *_: 1.0)
    used = {path.stem.removeprefix("2126-01-01-nvidia-h200-")
            for name in SHAPES if name != "decode-queries" for path in cells(name, runs)["file"]}  # fmt: skip
    assert used == set(SMALL) - {"prefill-heads-d128"}  # which the others are a share of


def test_float8_stands_beside_the_same_point_in_bfloat16(tmp_path):
    runs = recorded(tmp_path, ["decode-float8-d128"], lambda _, workload: 0.05 if workload.kv_dtype else 0.08)
    found = cells("decode-float8", runs)
    assert grid(found, SHAPES["decode-float8"]).to_numpy().tolist() == [
        ["32/8\u00a0of\u00a0128", "1", keys, "80.0", "50.0", "1.60×", "50\u00a0%", "28.2"]
        for keys in ("16,384", "65,536", "131,072")
    ]
    missed = found[found["missed"]]
    assert list(missed["kv_len"]) == [65536, 131072] and set(missed["head"]) == {"times as fast"}


@pytest.mark.parametrize(("slower", "missed"), [(1.1, []), (1.17, [8]), (1.3, [2, 4, 8, 16])])
def test_several_queries_stand_beside_one(tmp_path, slower, missed):
    topics = [f"decode-queries-d512-q{count}" for count in (1, 2, 4, 8, 16, 32)]

    def time(contender: str, workload) -> float:
        wide = {2: 1.0, 4: 1.0, 8: slower} if slower < 1.2 else {}
        return (1.0 if contender == "blockskip" else 2.0) * (
            wide.get(workload.q_len, slower) if workload.q_len > 1 else 1
        )

    runs = recorded(tmp_path, topics, time)
    found = cells("decode-queries", runs)
    ratio = found[found["head"] == "of one query's time"]
    assert set(ratio[(ratio["q_len"] == 8)]["text"]) == {f"{slower:.2f}×{APART}"}
    assert sorted(set(ratio[ratio["missed"]]["q_len"])) == missed
    assert not ratio[(ratio["kv_len"] == 2048) & ratio["missed"]].size  # there memory does not decide
    assert not ratio[(ratio["q_len"] == 32) & ratio["missed"]].size


def test_small_heads_are_a_share_of_128s_useful_flops(tmp_path):
    topics = ["prefill-heads-d80", "prefill-heads-d96", "prefill-heads-d128"]
    times = {80: 1.0, 96: 1.25, 128: 1.0}
    found = cells("heads-80-96", recorded(tmp_path, topics, lambda _, workload: times[workload.head_dim]))
    assert set(found["head_dim"]) == {80, 96}
    share = found[found["head"] == "of head size 128's"].set_index(["head_dim", "q_len"])
    assert share["text"][80, 4096] == "100\u00a0%=" or share["number"][80, 4096] == 1
    assert share["number"][96, 4096] == 0.8 and bool(share["missed"][96, 4096]) and not share["missed"][80, 4096]


def test_ragged_batches_are_judged_by_bytes_a_second(tmp_path):
    runs = recorded(tmp_path, ["decode-ragged-d128-b16"], lambda _, workload: 0.02 if workload.kv_len > 8192 else 0.04)
    rate = cells("decode-ragged", runs).query("head == 'TB/s'").set_index("kv_len")
    assert rate["text"].to_dict() == {8192: "2.50", 32768: "5.00"}
    assert rate["missed"].to_dict() == {8192: True, 32768: False}


def test_a_table_without_a_run_is_left_out(tmp_path):
    runs = recorded(tmp_path, ["prefill-causal-d64"], lambda contender, _: 1.0 if contender == "blockskip" else 2.0)
    group, page = RecordedTables("## Other shapes", SHAPES), tmp_path / "PAGE.md"
    page.write_text("before\n<!-- table: shapes -->\n<!-- end -->\nafter\n")
    text = fill(page.read_text(), page, {"shapes": group}, runs)
    assert text.count("## Other shapes") == 1 and text.count("Recorded on NVIDIA H200") == 1
    assert "**Causal prompts at head size 64**" in text and "2.00×" in text and "after" in text
    assert fill(text, page, {"shapes": group}, runs) == text
    assert "Other shapes" not in fill(text, page, {"shapes": group}, [])
    targets = TargetsTable(SHAPES).markdown(runs, page)
    assert "all 3 points" in targets and targets.count("\n| ") == 2 and "recorded yet" not in targets
    missed = TargetsTable({"causal-d64": replace(SHAPES["causal-d64"], reasons={(1024,): "few rows"})})
    slow = recorded(tmp_path / "slow", ["prefill-causal-d64"], lambda contender, _: 2.0 - (contender == "fa4"))
    assert "prompt length 1,024 (0.50×): few rows" in missed.markdown(slow, page)
