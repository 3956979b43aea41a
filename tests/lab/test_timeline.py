"""Timelines: from a record that Proton wrote to values, a picture and a Perfetto file; and what costs nothing."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import blockskip
import pytest
import torch
from skiplab.figures import nibbles
from skiplab.figures.timeline import timeline
from skiplab.replay import contender_timelines, read_timeline, record_timeline
from skiplab.replay.scoped import SCOPED as MODULES
from skiplab.replay.timeline import Timeline, WarpSpan
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
    assert made.clock == "cycles, counted as if at 1000 MHz"
    assert str(made) == (
        "prefill: 3 blocks on 2 multiprocessors, which have one for 85\u00a0% of the time; "
        "the longest block takes 100\u00a0% of it"
    )


def test_a_trace_that_proton_wrote_on_a_gpu():
    """Of Triton 3.6.0 on an NVIDIA H200, our prefill kernel with tiles of 128 x 64: two warps of each block of SM 0."""
    made = read_timeline(RECORD.with_name("h200.chrome_trace"))["prefill"]
    assert made.sms == (0,) and {one.name for one in made.spans} == {"program"}
    assert {one.warp for one in made.spans} == {0, 7} and len(made.spans) == 2 * len(made.blocks) == 8


def test_its_perfetto_file_is_read_again(made, tmp_path):
    found = read_timeline(replace(made, lost=3).perfetto(tmp_path / "trace.json"))["prefill"]
    assert (found.clock, found.lost) == (made.clock, 3)
    assert [(one.sm, one.block, one.warp, one.name) for one in found.spans] == [
        (one.sm, one.block, one.warp, one.name) for one in made.spans
    ]
    assert [one.end - one.start for one in found.spans] == pytest.approx([one.end - one.start for one in made.spans])


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


def test_blocks_that_a_multiprocessor_has_at_once_lie_below_each_other():
    spans = [WarpSpan(0, block, 0, "program", start, start + 2e-6) for block, start in enumerate((0, 1e-6, 2e-6, 3e-6))]
    cells = [cell for cell in timeline(Timeline("mine", tuple(spans))).cells if cell.lanes]
    assert [cell.lanes for cell in cells] == [(0,), (1,), (2,), (3,)]
    assert cells[0].y == cells[2].y < cells[1].y == cells[3].y
    assert cells[0].y + cells[0].height == pytest.approx(cells[1].y)


def trace(**other):
    """The text of a trace with one record, as Proton writes it but for what is named."""
    event = {"ph": "X", "pid": "mine Core0 CTA0", "tid": "warp 0", "name": "tile", "ts": 1.0, "dur": 2, "args": {}}
    return json.dumps({"traceEvents": [{**event, **other}]})


def test_a_record_without_arguments_is_one(tmp_path):
    (tmp_path / "trace.json").write_text(trace(args=None))
    (one,) = read_timeline(tmp_path / "trace.json")["mine"].spans
    assert (one.start, one.end) == pytest.approx((1e-6, 3e-6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "has no traceEvents"),
        ('{"traceEvents": []}', "holds no record from inside a kernel"),
        ('{"traceEvents": [7]}', r"trace.json: traceEvents\[0\]: got 7; allowed are objects"),
        ('{"traceEvents": [{}, null]}', r"traceEvents\[1\]: got None"),
        (trace(args=[1]), "args: got .1.; allowed is an object"),
        (trace(ts=None), "ts: got None; allowed are numbers"),
        (trace(dur="long"), "dur: got 'long'"),
        (trace(ts=float("nan")), "ts: got nan"),
        (trace(args={"Frequency (MHz)": "fast"}), "Frequency .MHz.: got 'fast'"),
        (trace(pid=3, args={"block": None, "warp": 0}), "block: got None; allowed are whole numbers"),
        (trace()[:-1] + ', "otherData": [1]}', "otherData: got .1."),
    ],
)
def test_other_files_are_refused(text, message, tmp_path):
    (tmp_path / "trace.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_timeline(tmp_path / "trace.json")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so():
    for ask in (lambda: record_timeline(lambda: None), lambda: contender_timelines("blockskip", Workload(64))):
        with pytest.raises(
            ValueError, match="timeline: Proton records it from inside a kernel that runs on a CUDA GPU"
        ):
            ask()


SCOPED = """
import contextlib, json, tempfile
import skiplab, torch, triton
import triton.language as tl
from blockskip.config import TileConfig
from skiplab.anatomy import attention_anatomy, contender_anatomies, decode_anatomy, kernel_anatomy, launches
from skiplab.anatomy.target import compiling_for
from skiplab.replay import proton, scoped, whole
from skiplab.workload import DecodeWorkload, LinearWorkload
from triton.profiler import language
from triton.profiler.hooks.instrumentation import InstrumentationHook
from triton.profiler.mode import Default


@triton.jit
def helper(x):
    return x * 2


@triton.jit
def plain(x, y, n, BLOCK: tl.constexpr):
    'It returns early.'
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if n == 0:
        return
    tl.store(y + at, helper(tl.load(x + at, mask=at < n)), mask=at < n)


@triton.jit
def named(x, y, n):
    language.enter_scope("all")
    tl.store(y, tl.load(x))
    language.exit_scope("all")


def layer(name, rows):
    (one,) = contender_anatomies(name, LinearWorkload(256, 1024, rows), "sm_90").values()
    return one


def kernels():
    return {
        "prefill": attention_anatomy("sm_90", skip="map"),
        "hopper": attention_anatomy("sm_90", config=(128, 128, 12, 2)),
        "decode": decode_anatomy("sm_90", DecodeWorkload(512), TileConfig(16, 64, 4, 2)),
        "tiles": layer("blockskip-tiles", 16),
        "fused": layer("blockskip-fused", 16),
        "matvec": layer("blockskip-matvec", 1),
    }


def scopes_of(one):
    with tempfile.NamedTemporaryFile("w", suffix=".ttgir") as file:
        file.write(one.ttgir)
        file.flush()
        return sorted(proton._scopes(file.name).values())


def users():
    given = "*fp32", "*fp32", "i32"
    return {
        "user's": kernel_anatomy(plain, *given, arch="sm_90", BLOCK=128),
        "user's with parts": kernel_anatomy(named, *given, arch="sm_90"),
    }


before = kernels() | users()
scoped.put_scopes_in()
for one in (plain, named):
    whole.put_program_scope(one)
language.enable_semantic("triton")
off = kernels() | users()  # Proton is in their place, and not started
with compiling_for("sm_90"):
    hook = InstrumentationHook(Default(granularity="warp", buffer_type="global", optimizations="clock32"))
    launches.compiling_for = lambda arch: contextlib.nullcontext()
    hook.activate()
    on = kernels() | users()
    hook.deactivate()
print(json.dumps({
    "scopes": {name: scopes_of(one) for name, one in on.items()},
    "same": {name: one.sass == off[name].sass for name, one in before.items()},
    "before": sum(one.ptx.count("%clock") for one in before.values()),
    "clocks": {name: one.ptx.count("%clock") for name, one in on.items()},
}))
"""


def test_every_module_with_scopes_gets_protons():
    root = Path(blockskip.__file__).parent
    pattern = re.compile(r"^from \.+launching\.scopes import", re.MULTILINE)
    users = [path for path in root.rglob("*.py") if pattern.search(path.read_text(encoding="utf-8"))]
    assert sorted(".".join(path.relative_to(root).with_suffix("").parts) for path in users) == sorted(MODULES)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")
def test_scopes_are_records_where_proton_is_started_and_nothing_elsewhere(tmp_path, fresh_process):
    """From the compiled form: the same machine code until Proton is started, clocks read after that."""
    script = tmp_path / "kernels.py"
    script.write_text(SCOPED)
    done = fresh_process(str(script))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["scopes"] == {
        "prefill": ["program"], "hopper": ["copies", "item", "item"], "decode": ["share"],
        "tiles": ["copies", "tile", "tile"], "fused": ["program"], "matvec": ["program"],
        "user's": ["whole program"], "user's with parts": ["all", "whole program"],
    }  # fmt: skip
    assert all(found["same"].values()), found["same"]
    assert found["before"] == 0
    assert all(count >= 2 for count in found["clocks"].values()), found["clocks"]  # a beginning and an end
    assert found["clocks"]["hopper"] >= 2 * 3 and found["clocks"]["tiles"] >= 2 * 2  # of each kind of warps
    assert found["clocks"]["user's"] == 2  # in whatever place it returns
    assert "scope name" not in done.stderr  # what Proton says of scopes that are not closed


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="pretends a GPU, on Linux")
def test_a_recording_goes_from_the_compiler_to_seconds_twice_and_leaves_nothing_on(fresh_process):
    done = fresh_process(str(Path(__file__).with_name("recorded_launches.py")))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    one = ["cycles at 1,980 MHz, by the GPU's timer", 16 * 4, pytest.approx(15 * 3e-6 + 2e-6)]
    assert found["timelines"] == [{"copied": one}] * 2
    assert found["names"] == ["whole program"] and found["sms"] == [0, 1, 2, 3]
    assert found["twice"] == ["copied", "copied 2"]
    assert found["loaded"] == 2 and not found["left on"]  # as it is, and with records
