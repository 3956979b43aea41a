"""From rows to winners: a run made by hand, no GPU."""

from pathlib import Path

import blockskip as bs
import pytest
from blockskip.config import TileConfig
from blockskip.tuned.attention import find
from blockskip.tuned.files import read_tuned
from skiplab.store import Run
from skiplab.tuning import attention
from skiplab.tuning.attention import DEFAULT, TuningClass
from skiplab.tuning.base import Candidate
from skiplab.tuning.files import write_configs
from skiplab.tuning.winners import entries, gpu_of, rankings, summary
from skiplab.workload import Workload

DEVICE = {"name": "NVIDIA H100 80GB HBM3", "kind": "cuda", "compute_capability": "9.0", "sms": 132}
TABLE, FAST, SLOW = (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 8, 2)  # the table's own for D 256
LONG = TuningClass(256, 2, "window", 1024, "long")


def row(config, us, q_len=4096, mask=None, status="ok", flags=(), source_hash="a", **shape):
    shape = {"head_dim": 256, "q_heads": 32, "kv_heads": 16, **shape}
    workload = Workload(q_len, mask=mask or bs.sliding_window(1024), **shape)
    point = f"blockskip {config} | {workload.key()} | cuda"
    samples = [int(1e3 * us)] * 3 if status == "ok" else []
    return {
        "point": point, "axes": workload.axes(), "config": list(config), "status": status, "flags": list(flags),
        "samples_ns": samples, "contender": "blockskip", "device": DEVICE["name"], "source_hash": source_hash,
    }  # fmt: skip


def run(*rows, name="tune.jsonl", **header):
    header = {"run_id": name, "device": DEVICE, "torch": "2.11.0", "triton": "3.6.0", **header}
    return Run(header, rows, path=Path(name))


def sizes(candidates):
    return [one.config for one in candidates]


def winner(*rows):
    (found,) = entries([run(*rows)])
    return tuple(found.config)


def test_the_smallest_median_wins():
    (found,) = entries([run(row(TABLE, 43), row(FAST, 40.5), row(SLOW, 60))])
    assert tuple(found.config) == FAST
    assert (found.median_us, found.table_us, found.workloads) == (40.5, 43.0, 1)
    assert found.at == "attention sliding_window(1024) q4096 kv4096 b1 h32/16 d256 bfloat16"
    assert (found.head_dim, found.element_bytes, found.mask, found.window, found.length) == (
        256, 2, "window", 1024, "long",
    )  # fmt: skip


def test_over_several_lengths_the_mean_of_ratios_decides_not_the_longest_time():
    one = [row(TABLE, 10, 4096), row(FAST, 8, 4096), row(SLOW, 9.9, 4096)]
    other = [row(TABLE, 100, 8192), row(FAST, 101, 8192), row(SLOW, 98, 8192)]
    scores = rankings([run(*one, *other)])[LONG].scores
    assert sizes(scores) == [FAST, SLOW, TABLE]
    assert scores[Candidate("blockskip", FAST)] == pytest.approx((101 / 98) ** 0.5)
    (found,) = entries([run(*one, *other)])
    assert (found.workloads, found.median_us, found.table_us) == (2, 101.0, 100.0)


def test_workloads_stay_apart_when_a_masks_text_holds_the_separator_of_a_point():
    sinks = bs.sliding_window(1024) | (bs.sink(4) & bs.causal())
    one = [row(TABLE, 10, 4096, sinks), row(FAST, 8, 4096, sinks)]
    other = [row(TABLE, 100, 8192, sinks), row(FAST, 101, 8192, sinks)]
    (found,) = entries([run(*one, *other)])
    assert found.at == "attention sliding_window(1024) | (sink(4) & causal()) q8192 kv8192 b1 h32/16 d256 bfloat16"
    assert (found.workloads, tuple(found.config), found.median_us) == (2, FAST, 101.0)


def test_ties_go_to_the_table():
    assert winner(row(TABLE, 40.4), row(FAST, 40.0)) == TABLE
    assert winner(row(TABLE, 40.5), row(FAST, 40.0)) == FAST


@pytest.mark.parametrize("status", ["wrong", "crashed", "timeout", "out-of-memory"])
def test_what_fails_once_never_wins_with_that_kernel(status):
    rows = [row(TABLE, 43), row(FAST, 40), row(FAST, 0, q_len=1024, mask=bs.sliding_window(128), status=status)]
    assert winner(*rows) == TABLE
    causal = [row(TABLE, 43, mask=bs.causal()), row(FAST, 40, mask=bs.causal())]
    by_mask = {one.mask: tuple(one.config) for one in entries([run(*rows, *causal)])}
    assert by_mask == {"window": TABLE, "causal": FAST}


@pytest.mark.parametrize("flag", ["impossible", "unchecked"])
def test_what_cannot_be_trusted_never_wins(flag):
    assert winner(row(TABLE, 43), row(FAST, 1, flags=(flag,))) == TABLE
    assert winner(row(TABLE, 43), row(FAST, 40, flags=("throttled",))) == FAST


def test_a_winner_was_timed_on_every_workload():
    rows = [row(TABLE, 43), row(FAST, 40), row(SLOW, 60), row(TABLE, 86, 8192), row(SLOW, 80, 8192)]
    assert sizes(rankings([run(*rows)])[LONG].scores) == [TABLE, SLOW]
    times = rankings([run(*rows)])[LONG].times["attention sliding_window(1024) q4096 kv4096 b1 h32/16 d256 bfloat16"]
    assert FAST in sizes(times)
    assert entries([run(row(FAST, 40), row(SLOW, 80, 8192))]) == ()


def test_once_some_were_timed_again_only_they_can_win():
    scan = [row(TABLE, 43), row(FAST, 40), row(SLOW, 40.2)]
    again = [row(TABLE, 44), row(FAST, 41)]  # the GPU has grown warm: SLOW's first time would beat both
    assert sizes(rankings([run(*scan, *again)])[LONG].scores) == [FAST, TABLE]
    assert entries([run(*scan, *again)])[0].median_us == 41.0
    assert tuple(entries([run(*scan), run(*again)])[0].config) == FAST


def test_times_of_older_kernels_do_not_count():
    old = [row(TABLE, 43), row(FAST, 40), row(FAST, 40), row(SLOW, 30, source_hash="a", mask=bs.causal())]
    new = [row(config, us, source_hash="b") for config, us in ((TABLE, 42), (FAST, 45), (SLOW, 39))]
    assert winner(*old, *new) == SLOW
    assert {one.mask for one in entries([run(*old), run(*new)])} == {"window", "causal"}


def test_classes_keep_window_mask_length_and_dtype_apart():
    rows = [
        row(FAST, 40), row(SLOW, 30, mask=bs.sliding_window(128)), row(TABLE, 70, mask=bs.causal()),
        row(SLOW, 5, q_len=256), row(FAST, 9, q_len=1024), row((32, 16, 8, 1), 400, dtype="float32"),
        row(FAST, 50, mask=bs.sliding_window(1024) | (bs.sink(4) & bs.causal())),
    ]  # fmt: skip
    found = {(one.element_bytes, one.mask, one.window, one.length): tuple(one.config) for one in entries([run(*rows)])}
    assert found == {
        (2, "window", 1024, "long"): FAST, (2, "window", 128, "long"): SLOW, (2, "causal", None, "long"): TABLE,
        (2, "window", 1024, "short"): SLOW, (2, "window", 1024, "medium"): FAST,
        (4, "window", 1024, "long"): (32, 16, 8, 1), (2, "other", None, "long"): FAST,
    }  # fmt: skip


def test_rows_of_others_and_of_the_kernels_own_choice_do_not_count():
    own = {**row(FAST, 1), "config": None}
    peer = {**row(SLOW, 1), "point": "sdpa | attention", "config": None}
    none = {**row(SLOW, 1), "point": "blockskip-none (64, 64, 8, 2) | attention"}
    assert winner(row(TABLE, 43), row(FAST, 40), own, peer, none) == FAST


def test_the_table_of_a_class_is_what_calls_would_take():
    gpu = gpu_of(run())
    assert attention.default(LONG, gpu).config == TABLE
    assert attention.default(TuningClass(256, 2, "window", 1024, "short"), gpu).config == (64, 32, 4, 2)
    assert attention.default(TuningClass(256, 4, "causal", 0, "long"), gpu).config == (32, 16, 8, 1)
    workload = Workload(4096, mask=bs.sliding_window(1024), q_heads=32, kv_heads=16, head_dim=256)
    assert attention.class_of(workload.axes(), DEFAULT, 132) == LONG


def test_configs_are_written_as_the_kernels_read_them(tmp_path):
    runs = [run(row(TABLE, 43), row(FAST, 40.5)), run(row(TABLE, 9, mask=bs.causal()), name="more.jsonl")]
    path = write_configs(runs, tmp_path / "configs")
    assert path.name == "h100-80gb-hbm3.json"
    read = read_tuned(path)
    assert (read.device, read.capability) == (DEVICE["name"], (9, 0))
    section = read.sections["attention"]
    assert (section.torch, section.triton, section.runs) == ("2.11.0", "3.6.0", "tune.jsonl, more.jsonl")
    assert read.entries("attention") == entries(runs)
    found = find(entries(runs), 256, 2, "window", 1024, "long")
    assert found is not None and found.config == TileConfig(*FAST)
    assert sum("head_dim" in line for line in path.read_text().splitlines()) == len(section.entries) == 2
    assert "128x32x8x2" in summary(runs) and "40.5 " in summary(runs)


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ({"torch": "2.13.0"}, "torch is 2.13.0, and 2.11.0 in tune.jsonl"),
        ({"device": {**DEVICE, "name": "NVIDIA H200"}}, "device is NVIDIA H200"),
        ({"operation": "linear"}, "operation is linear, and attention in tune.jsonl"),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(tmp_path, second, message):
    with pytest.raises(ValueError, match=message):
        rows = [] if "operation" in second else [row(FAST, 40)]
        write_configs([run(row(FAST, 40)), run(*rows, name="b", **second)], tmp_path)


def test_a_run_without_winners_or_gpu_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="is it a tuning run"):
        write_configs([run()], tmp_path)
    with pytest.raises(ValueError, match="was made on a CPU"):
        write_configs([run(row(FAST, 40), device={"name": "a CPU", "kind": "cpu"})], tmp_path)
    assert not list(tmp_path.iterdir())
