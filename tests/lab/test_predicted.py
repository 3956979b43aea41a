"""Measured times beside the roofs: each operation's least time is that of `roofline`, from the run's own header."""

from __future__ import annotations

from typing import Any

import blockskip as bs
import pytest
from skiplab.contenders import contenders
from skiplab.figures import interactive, static
from skiplab.figures.predicted import measured_vs_predicted
from skiplab.machine import Machine
from skiplab.machine.roofline import bound, predict
from skiplab.measure import Measurement, Point
from skiplab.measure.point import WorkDone
from skiplab.store import Run, frame
from skiplab.workload import DecodeWorkload, LinearWorkload, Problem, Workload

GPU = Machine("GPU", "cuda", bandwidth_gbps=3000, tflops=800, source="measured")
PROMPTS = (Workload(512, mask=bs.sliding_window(128)), Workload(4096))
STEPS = (DecodeWorkload(1024), DecodeWorkload(65536, 1024, q_len=4, batch=2))
LAYERS = (LinearWorkload(4096, 2048), LinearWorkload(8192, 2048, rows=2048, bits=8))


def row(workload: Problem, factor: float, contender: str = "blockskip", status: str = "ok"):
    work = workload.work("bounds") if isinstance(workload, Workload) else workload.work()
    ns = round(factor * bound(work, GPU).seconds * 1e9)
    done = WorkDone(work.useful_flops, work.executed_flops, work.dense_flops, work.bytes, work.bytes)
    samples = (ns - 100, ns, ns + 100) if status == "ok" else ()
    return Measurement(Point(workload, contender), status, samples_ns=samples, work=done, device_name="GPU").row()


def table(*rows, roof: bool = True):
    return frame(Run({"run_id": "r", "device": {"name": "GPU"}, **({"roof": GPU.roof()} if roof else {})}, rows))


def contender_name(workload) -> str:
    """What is called `sdpa` here: a linear layer has no such contender."""
    known = contenders(workload.operation)
    return known["sdpa"].label if "sdpa" in known else "sdpa"


def check(workloads, least, title, words):
    """Both workloads at twice and four times their least time: on x the prediction, on y the time."""
    chart = measured_vs_predicted(table(row(workloads[0], 2), row(workloads[1], 4), row(workloads[1], 3, "sdpa")))
    ours, theirs = chart.lines
    least_times = [least(workload) for workload in workloads]
    assert ours.x == pytest.approx(least_times)
    assert ours.y == pytest.approx([factor * time for factor, time in zip((2, 4), least_times, strict=True)], rel=1e-3)
    assert theirs.y[0] / theirs.x[0] == pytest.approx(3, rel=1e-3)
    assert chart.title.endswith(title) and ours.name == "blockskip" and theirs.name == contender_name(workloads[1])
    assert [(hover.name, hover.rest) for hover in ours.hover] == [("blockskip", f", {one}") for one in words]
    assert "it reaches 50\u00a0%" in ours.hover[0].lines[1] and "it reaches 25\u00a0%" in ours.hover[1].lines[1]
    assert chart.sources == "recorded on GPU" and chart.diagonal and not ours.joined


def test_prompts_stand_beside_their_roofs():
    words = ["prompt 512, window 128, 8/8 heads of 128, bfloat16", "prompt 4,096, causal, 8/8 heads of 128, bfloat16"]
    check(PROMPTS, lambda one: bound(one.work("bounds"), GPU).seconds, "a prompt's attention", words)


def test_decode_steps_stand_beside_their_roofs():
    words = ["1,024 keys, all seen, 32/16 heads of 256, bfloat16",
             "65,536 keys, window 1k, 4 queries, batch 2, 32/16 heads of 256, bfloat16"]  # fmt: skip
    check(STEPS, lambda one: predict(one, GPU).seconds, "decode steps", words)


def test_linear_layers_stand_beside_their_roofs():
    words = ["4096×2048, 1 row, int4, groups of 32, bfloat16", "8192×2048, 2048 rows, int8, groups of 32, bfloat16"]
    check(LAYERS, lambda one: predict(one, GPU).seconds, "quantised linear layers", words)


def test_several_operations_are_told_apart():
    chart = measured_vs_predicted(table(row(PROMPTS[0], 2), row(STEPS[0], 2), row(LAYERS[0], 2)))
    names = ["blockskip, attention", "blockskip, decode", "blockskip, linear"]
    assert [line.name for line in chart.lines] == names
    assert chart.title == "Measured against predicted time"
    assert len({line.style.colour for line in chart.lines}) == 3


def test_what_is_not_shown_is_said():
    failed = measured_vs_predicted(table(row(STEPS[0], 2), row(STEPS[1], 2, status="wrong")))
    assert len(failed.lines[0].x) == 1 and failed.note == "not shown: 1 wrong"
    unknown = measured_vs_predicted(table(row(STEPS[0], 2), roof=False))
    assert not unknown.lines and unknown.note == "no measured row has a roof in its run's header"


@pytest.mark.parametrize("workloads", [PROMPTS, STEPS, LAYERS], ids=["attention", "decode", "linear"])
def test_it_is_drawn(workloads):
    chart = measured_vs_predicted(table(*(row(one, 2) for one in workloads)))
    layout: Any = interactive.draw(chart).layout
    assert "recorded on GPU" in " ".join(note.text for note in layout.annotations)
    assert static.png(chart).startswith(b"\x89PNG")
