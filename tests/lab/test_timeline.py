"""Timelines: from a record that Proton wrote to values, a picture and a Perfetto file; and what costs nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from skiplab.figures import nibbles
from skiplab.figures.timeline import timeline
from skiplab.replay import attention_timeline, read_timeline, record_timeline
from skiplab.replay.scoped import KERNELS
from skiplab.workload import Workload

RECORD = Path(__file__).with_name("records") / "proton.chrome_trace"


@pytest.fixture
def made():
    return read_timeline(RECORD)["prefill"]


def test_blocks_stand_on_their_multiprocessors(made):
    """Three blocks: one for 10 µs on SM 0, two for 4 and 3 µs on SM 4, with 1 µs between."""
    assert [(one.sm, one.block) for one in made.blocks] == [(0, 0), (4, 1), (4, 2)]
    assert [one.end - one.start for one in made.blocks] == pytest.approx([10e-6, 4e-6, 3e-6])
    assert made.sms == (0, 4) and made.seconds == pytest.approx(10e-6)
    assert made.busy == pytest.approx(17 / 20)
    assert made.clock == "cycles at 1000 MHz"
    assert str(made) == (
        "prefill: 3 blocks on 2 multiprocessors, which have one for 85% of the time; the longest block takes 100% of it"
    )


def test_its_perfetto_file_has_a_track_a_multiprocessor(made, tmp_path):
    events = json.loads(made.perfetto(tmp_path / "trace.json").read_text())["traceEvents"]
    names = {one["pid"]: one["args"]["name"] for one in events if one["name"] == "process_name"}
    assert names == {0: "SM 0", 4: "SM 4"}
    threads = {(one["pid"], one["tid"]): one["args"]["name"] for one in events if one["name"] == "thread_name"}
    spans = [one for one in events if one["ph"] == "X"]
    assert len(spans) == 9 and min(one["ts"] for one in spans) == 0
    (late,) = [one for one in spans if one["args"]["block"] == 2 and one["name"] == "tile"]
    assert (late["ts"], late["dur"]) == pytest.approx((6.0, 1.5))
    assert threads[late["pid"], late["tid"]] == "block 2, warp 0"


def test_its_picture_has_a_row_a_multiprocessor(made):
    picture = timeline(made)
    blocks = [cell for cell in picture.cells if cell.lanes]
    assert [cell.width for cell in blocks] == pytest.approx([620, 248, 186])
    assert len({cell.y for cell in blocks}) == 2
    assert "Block 2 on SM 4" in nibbles.svg(picture, "a timeline")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "has no traceEvents"),
        ('{"traceEvents": []}', "holds no record from inside a kernel"),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_timeline(tmp_path / "trace.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    for ask in (lambda: record_timeline(lambda: None), lambda: attention_timeline(Workload(64))):
        with pytest.raises(
            ValueError, match="timeline: Proton records it from inside a kernel that runs on a CUDA GPU"
        ):
            ask()


SCOPED = """
import importlib, sys, types
from skiplab.anatomy import attention_anatomy
from skiplab.anatomy.target import compiling_for
from skiplab.replay.scoped import put_scopes_in

def kernels():
    return [attention_anatomy("sm_90", skip="map"), attention_anatomy("sm_90", config=(128, 128, 12, 2))]


import blockskip.attention.prefill.launch
plain = kernels()
import contextlib
from skiplab.anatomy import launches
from triton.profiler import language
from triton.profiler.hooks.instrumentation import InstrumentationHook
from triton.profiler.mode import Default
from triton.runtime import driver
put_scopes_in()
language.enable_semantic("triton")
off = kernels()  # Proton is in their place, and not started
with compiling_for("sm_90"):
    driver.active.utils = types.SimpleNamespace(get_device_properties=lambda device: {"max_shared_mem": 227 << 10})
    hook = InstrumentationHook(Default(granularity="warp", optimizations="clock32"))
    launches.compiling_for = lambda arch: contextlib.nullcontext()
    hook.activate()
    on = kernels()
    hook.deactivate()
print([one.sass == other.sass for one, other in zip(plain, off)], [one.ptx.count("%clock") for one in (*plain, *on)])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")
def test_scopes_are_records_where_proton_is_started_and_nothing_elsewhere(fresh_process):
    """From the compiled form: the same machine code until Proton is started, clocks read after that."""
    done = fresh_process("-c", SCOPED)
    assert done.returncode == 0, done.stderr[-3000:]
    same, clocks = done.stdout.splitlines()[-1].split("] [")
    assert same == "[True, True"
    plain, specialized, recorded, recorded_specialized = map(int, clocks.rstrip("]").split(", "))
    assert plain == specialized == 0
    assert recorded >= 2 and recorded_specialized >= 2 * 3  # a beginning and an end, of each kind of warps
    assert len(KERNELS) == 3
