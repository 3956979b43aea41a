"""Two runs compared: points are paired by what they are, and a change is claimed only beyond noise."""

from __future__ import annotations

import json
from dataclasses import replace

import blockskip as bs
import numpy as np
import pytest
from skiplab.compare import FAILURES, compare, differences, ratio_interval, together, words
from skiplab.measure import Measurement, Point
from skiplab.store import Run
from skiplab.workload import DecodeWorkload, LinearWorkload, Problem, Workload

PROBLEM = Workload(64)


def a_row(workload: Problem = PROBLEM, contender="blockskip", factor=1.0, status="ok", name="A", config=None, **fields):
    samples = tuple(int(1e6 * factor) + noise for noise in range(20)) if status == "ok" else ()
    row = Measurement(Point(workload, contender, config), status, samples_ns=samples, method="cpu", device_name=name)
    return row.row() | fields


def a_run(*rows, name="A", **header):
    return Run({"run_id": f"run {name}", "device": {"name": name}, **header}, rows or (a_row(name=name),))


def only(comparison):
    (pair,) = comparison.pairs
    return pair


def test_differences_name_what_changed():
    found = differences(a_run(torch="1", threads=2), a_run(name="B", torch="2", threads=2))
    assert found == {"device name": ("A", "B"), "torch": ("1", "2")}
    assert differences(a_run(), a_run()) == {}


def test_differences_name_git_and_the_kernels_of_the_rows():
    old = a_run(a_row(source_hash="k1"), git={"commit": "c1", "dirty": False}, source_hash="k1")
    new = a_run(a_row(source_hash="k2"), a_row(source_hash="k1"), git={"commit": "c2", "dirty": True}, source_hash="k1")
    expected = {"git commit": ("c1", "c2"), "git dirty": (False, True), "source_hash": ("k1", "k1, k2")}
    assert differences(old, new) == expected
    assert differences(old, replace(old, header={**old.header, "git": {}}))["git commit"] == ("c1", None)


def test_two_versions_of_ones_own_kernel_are_told_apart_by_their_sources():
    """The package's sources are the same in both runs; the kernel's own are not."""
    old, new = (a_run(a_row(contender="mine", source_hash="k", kernel_hash=name)) for name in ("m1", "m2"))
    found = compare(old, new)
    assert found.differences == {"kernel mine": ("m1", "m2")}
    assert [one.source_hash for one in only(found).timings] == ["m1", "m2"]


@pytest.mark.parametrize(
    ("factor", "verdict"), [(0.5, "faster"), (2, "slower"), (1.005, "same"), (0.995, "same"), (1.01, "unclear")]
)
def test_a_change_is_claimed_beyond_the_margin(factor, verdict):
    found = compare(a_run(), a_run(a_row(factor=factor)))
    pair = only(found)
    assert pair.ratio == pytest.approx(factor, rel=1e-3) and pair.low <= pair.ratio <= pair.high
    assert (pair.old_ms, pair.new_ms) == (pytest.approx(1, rel=1e-3), pytest.approx(factor, rel=1e-3))
    assert pair.verdict == verdict and found.counts[verdict] == sum(found.counts.values()) == 1
    assert found.is_worse == (verdict == "slower")


def test_the_margin_moves_the_verdict():
    slow = a_run(a_row(factor=1.03))
    assert only(compare(a_run(), slow, margin=0.05)).verdict == "same"
    assert only(compare(a_run(), slow, margin=0)).verdict == "slower"
    with pytest.raises(ValueError, match=r"margin: got 1; allowed is 0 up to but not including 1"):
        compare(a_run(), slow, margin=1)


def test_scattered_samples_give_no_verdict():
    rng = np.random.default_rng(0)
    noisy = [a_row(samples_ns=rng.normal(mean, 3e5, 20).astype(int).tolist()) for mean in (1e6, 1.05e6)]
    assert only(compare(a_run(noisy[0]), a_run(noisy[1]))).verdict == "unclear"


@pytest.mark.parametrize(
    ("change", "doubt"),
    [
        ({"flags": ["busy", "launch-bound"]}, "busy"),
        ({"flags": ["unchecked"]}, "unchecked"),
        ({"method": "graph"}, "timed by cpu, then graph"),
        ({"samples_ns": [2_000_000] * 4}, "fewer than 5 samples"),
    ],
)
def test_doubtful_points_give_no_verdict_and_say_why(change, doubt):
    pair = only(compare(a_run(), a_run(a_row(factor=2) | change)))
    assert (pair.verdict, pair.doubts) == ("unclear", (doubt,))


def test_points_are_paired_by_contender_config_and_axes():
    longer, tiles = Workload(128), (64, 32, 4, 2)
    old = a_run(a_row(), a_row(longer), a_row(config=tiles))
    new = a_run(a_row(longer, factor=3), a_row(factor=2), a_row(longer, "sdpa"))
    found = compare(old, new)
    assert [(pair.axes["q_len"], round(pair.ratio)) for pair in found.pairs] == [(128, 3), (64, 2)]
    assert [(one.contender, one.config, one.old, one.new) for one in found.unpaired] == [
        ("sdpa", None, None, "ok"), ("blockskip", tiles, "ok", None)
    ]  # fmt: skip
    assert [one.outcome for one in found.unpaired] == ["new", "missing"]


def test_different_devices_are_never_in_one_comparison():
    here, there = a_run(), a_run(name="B")
    with pytest.raises(ValueError, match="run B was measured on B, run A on A; only runs on the same device"):
        compare(here, there)
    longer = a_run(a_row(DecodeWorkload(64)))
    assert together([here, there, longer, here]) == [[here, here], [there], [longer]]
    with pytest.raises(ValueError, match="compare: got 1 run; two are needed at least"):
        compare(here)


def test_a_point_is_followed_over_all_runs_that_hold_it():
    wide, new = Workload(128), Workload(256)
    runs = [
        a_run(a_row(), a_row(wide, status="crashed"), source_hash="k"),
        a_run(a_row(factor=3, source_hash="k1"), a_row(wide)),
        a_run(a_row(factor=2, source_hash="k2"), a_row(wide, factor=0.5), a_row(new)),
    ]
    found = compare(*runs)
    first, second = found.pairs
    assert [one.run for one in first.timings] == [0, 1, 2] and [one.run for one in second.timings] == [0, 1, 2]
    assert [round(one.median_ms) for one in first.timings] == [1, 3, 2]
    assert [one.source_hash for one in first.timings] == ["", "k1", "k2"]
    assert (first.verdict, round(first.ratio)) == ("slower", 2)
    assert (second.first.run, second.verdict) == (1, "faster")  # the first in which it is ok
    assert [one.outcome for one in found.unpaired] == ["new"] and found.failures["missing"] == 0
    assert compare(runs[2], runs[1], runs[0]).failures == {"slower": 0, "failing": 1, "unclear": 0, "missing": 1}
    assert found.differences["source_hash"] == ("k", "k1", "k2")


@pytest.mark.parametrize(
    ("new", "failing"),
    [([a_row(factor=2)], "slower"), ([a_row(status="wrong")], "failing"), ([a_row(flags=["busy"])], "unclear"),
     ([a_row(Workload(128))], "missing")],
)  # fmt: skip
def test_each_failure_is_counted_and_asked_for_by_name(new, failing):
    found = compare(a_run(), a_run(*new))
    assert found.failures == {name: int(name == failing) for name in FAILURES}
    assert all(found.fails([name]) == (name == failing) for name in FAILURES)
    assert found.is_worse == (failing in ("slower", "failing"))


def test_throttling_on_one_side_alone_allows_no_verdict_and_is_said_on_both():
    slow = a_row(factor=2, flags=["throttled", "allocates"])
    one_side, both = compare(a_run(), a_run(slow)), compare(a_run(a_row(flags=["throttled"])), a_run(slow))
    assert only(one_side).verdict == "unclear" and only(one_side).doubts == ("throttled in one of the two",)
    assert only(both).verdict == "slower" and only(both).flags == ("allocates", "throttled")
    moved = compare(a_run(), a_run(a_row(factor=2, flags=["other-device"])))
    assert only(moved).doubts == ("other-device in one of the two",)
    assert one_side.frame()["flags"].tolist() == ["allocates, throttled"]
    assert words.notes(one_side)[1:] == [
        "Flags of these points: allocates (1), throttled (1).",
        "1 point without a verdict, whatever the ratio: throttled in one of the two (1).",
    ]


def test_an_axis_that_is_none_is_the_same_as_none():
    """Rows of older versions lack optional axes."""
    old = a_row()
    old["axes"] = {name: value for name, value in old["axes"].items() if name != "q_start"}
    assert len(compare(a_run(old), a_run()).pairs) == 1


def test_of_a_point_measured_twice_the_later_row_counts():
    twice = a_run(a_row(factor=5), a_row(factor=2))
    assert only(compare(a_run(), twice)).ratio == pytest.approx(2, rel=1e-3)
    assert only(compare(twice, twice)).verdict == "same"


def test_a_point_that_fails_now_is_worse_and_one_that_never_ran_is_not():
    found = compare(a_run(), a_run(a_row(status="wrong")))
    assert not found.pairs and found.is_worse
    assert [(one.old, one.new) for one in found.unpaired] == [("ok", "wrong")]
    mended = compare(a_run(a_row(status="crashed")), a_run())
    assert not mended.is_worse and mended.unpaired[0].outcome == "ok now"
    assert not compare(a_run(), Run(a_run().header)).is_worse


def test_the_table_has_the_axes_in_which_points_differ():
    wide = replace(PROBLEM, mask=bs.sliding_window(16), head_dim=64)
    found = compare(a_run(a_row(), a_row(wide)), a_run(a_row(), a_row(wide)))
    table = found.frame()
    assert found.axes == ("q_len", "window", "head_dim")
    assert table["head_dim"].tolist() == [128, 64] and table["verdict"].tolist() == ["same", "same"]
    masks = [replace(PROBLEM, mask=mask) for mask in (bs.causal(), bs.causal() | bs.sink(4))]
    rows = [a_row(one) for one in masks]
    assert compare(a_run(*rows), a_run(*rows)).axes == ("q_len", "window", "mask")
    assert list(compare(a_run(), Run(a_run().header)).frame().columns)[:3] == ["contender", "config", "q_len"]


@pytest.mark.parametrize(
    ("workload", "axes"),
    [(DecodeWorkload(64), ("kv_len", "window", "buffer", "q_len")),
     (LinearWorkload(64, 64), ("out_features", "in_features", "rows", "bits", "group_size"))],
)  # fmt: skip
def test_decode_and_linear_are_compared_too(workload, axes):
    run = a_run(a_row(workload))
    found = compare(run, run)
    assert only(found).verdict == "same" and found.axes == axes
    with pytest.raises(ValueError, match=f"run A is a run of {workload.operation}, run A one of attention"):
        compare(a_run(), run)


def test_rows_that_cannot_be_compared_are_named():
    for name in ("window", "q_len"):
        row = a_row()
        row["axes"] = {axis: value for axis, value in row["axes"].items() if axis != name}
        with pytest.raises(ValueError, match=f"run A: a point of blockskip lacks the axis {name}"):
            compare(a_run(), a_run(row))
    strange = a_row() | {"axes": {"operation": "conv"}}
    with pytest.raises(ValueError, match="operation of a point: got 'conv'; allowed is attention, decode, linear"):
        compare(a_run(strange), a_run())
    with pytest.raises(ValueError, match="got 'decode'; allowed is 'attention', as of the first point"):
        compare(a_run(), a_run(a_row(), a_row(DecodeWorkload(64))))
    with pytest.raises(ValueError, match="operation of a point: got None"):
        compare(a_run(), a_run(a_row() | {"axes": {"q_len": 1}}))


def test_the_record_is_plain_json():
    found = compare(a_run(torch="1"), a_run(a_row(factor=2), a_row(Workload(128)), torch="2"))
    record = json.loads(json.dumps(found.record(), allow_nan=False))
    assert record["differences"] == {"torch": ["1", "2"]}
    assert record["counts"] == {"faster": 0, "slower": 1, "same": 0, "unclear": 0}
    assert (record["points"][0]["verdict"], record["points"][0]["axes"]["q_len"]) == ("slower", 64)
    assert (record["unpaired"][0]["old"], record["unpaired"][0]["new"]) == (None, "ok")


def test_the_interval_is_wider_for_samples_that_scatter():
    rng = np.random.default_rng(0)
    quiet, noisy = (rng.normal(1e6, scale, 50).astype(int).tolist() for scale in (1e3, 1e5))
    spans = [ratio_interval(samples, samples) for samples in (quiet, noisy)]
    assert spans[0][2] - spans[0][1] < spans[1][2] - spans[1][1]
    assert all(low <= 1 <= high for _, low, high in spans)


@pytest.mark.parametrize("sizes", [(5, 5), (9, 11), (10, 12), (20, 25), (45, 60)])
def test_the_interval_is_that_of_resamples_that_are_drawn(sizes):
    """Of resamples drawn, each share below an end is off by at most its own scatter, and by half of a sample's mass."""
    rng = np.random.default_rng(sum(sizes))
    old, new = (rng.lognormal(15, 0.05, size).astype(int) for size in sizes)
    _, low, high = ratio_interval(old, new)
    ratios = drawn_medians(new, rng) / drawn_medians(old, rng)
    scatter = 4 * np.sqrt(0.025 / len(ratios))
    assert (ratios < low).mean() <= 0.025 + scatter and (ratios > high).mean() <= 0.025 + scatter
    inside = (ratios >= low) & (ratios <= high)
    assert inside.mean() <= 0.98 if sum(sizes) > 40 else inside.mean() >= 0.95 - scatter


def drawn_medians(samples, rng, count=4000, block=5):
    """The obvious way: the median of each of so many resamples, made of blocks that go round."""
    size = len(samples)
    starts = rng.integers(0, size, (count, -(-size // block)))
    indices = (starts[..., None] + np.arange(block)) % size
    return np.median(samples[indices].reshape(count, -1)[:, :size], axis=1)


def test_a_ratio_of_samples_that_drift_lies_inside_its_interval():
    """Blocks go round: the first and the last samples count as much as those between."""
    late = [118, 117, 101, 100, 100, 101, 117, 118]
    rising = [100, 100, 101, 103, 104, 110, 114, 115, 115, 116, 117, 118]
    for samples in (late, rising):
        for old, new in (([100] * 12, samples), (samples, [100] * 12)):
            ratio, low, high = ratio_interval(old, new)
            assert low < ratio < high
    assert ratio_interval([100] * 12, [100, *[150] * 9])[1] == pytest.approx(1.5)
