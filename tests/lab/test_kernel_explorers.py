"""The explorers of a kernel as Python objects: what they show, refuse, keep in a saved notebook, and write as code."""

from __future__ import annotations

import threading
from collections import Counter

import blockskip as bs
import pytest
from skiplab.anatomy import Anatomy, sass
from skiplab.replay.steps import replay_of
from skiplab.widgets.anatomy import explorer as anatomy_module
from skiplab.widgets.anatomy.explorer import AnatomyExplorer
from skiplab.widgets.anatomy.subject import Subject, subject_of
from skiplab.widgets.replay.explorer import ReplayExplorer
from skiplab.widgets.replay.settings import ReplaySettings
from test_taken_apart import LOOPS


def recorded():
    """Two programs of 16 queries over a causal map of 16 x 16 tiles, as a recording process tells it."""

    def step(first, kind):
        loads = [["k", first, first + 15, 256], ["v", first, first + 15, 256]]
        numbers = [float(first + 1)] * 16
        return {"first": first, "last": first + 15, "kind": kind, "loads": loads, "max": numbers, "sum": numbers}

    programs = [
        {"index": [0, 0, 0], "first": 16, "last": 31, "steps": [step(0, "unmasked"), step(16, "masked")]},
        {"index": [1, 0, 0], "first": 0, "last": 15, "steps": [step(0, "masked")]},
    ]
    record = {"programs": programs, "label": "blockskip", "source": "recorded by hand"}
    return replay_of(record, bs.TileMap.build(bs.causal(), 32, 32, 16, 16))


def test_a_replay_is_stepped_through():
    explorer = ReplayExplorer(recorded())
    assert explorer.settings == ReplaySettings("causal()", 32, 16, 16)
    explorer.go(1)
    assert explorer.step == 1 and "Step 2 of 2: keys 16–31, masked" in explorer.view.told
    explorer._play.value = 2  # as the button does
    assert explorer.step == 2 and "Program 2 of 2" in explorer.view.told
    explorer._step.value = 0
    assert explorer.step == -1 and "2 tiles to come" in explorer.view.told
    assert explorer.view.starts == [0, 2]
    with pytest.raises(ValueError, match="step: got 3; allowed are -1, the beginning, to 2"):
        explorer.go(3)
    picture, words = explorer.still()
    assert picture.startswith(b"\x89PNG") and words.startswith("ReplayExplorer: blockskip. Program 1")
    assert ReplaySettings(**eval(explorer.code().split("ReplayExplorer(")[1].join(("dict(", "")).split("\n")[0])) == (
        explorer.settings
    )


def test_a_mask_that_cannot_be_read_leaves_what_is_shown():
    explorer = ReplayExplorer(recorded())
    explorer._controls["mask"].value = "nonsense"
    assert "mask: got &#39;nonsense&#39;" in explorer._problem.value
    assert explorer.settings.mask == "causal()"
    explorer._controls["mask"].value = "sliding_window(4)"
    assert "Press Record" in explorer._problem.value and explorer.settings.mask == "sliding_window(4)"
    for given, message in (({"q_len": 0}, "q_len"), ({"block_m": 7}, "block_m"), ({"kernel": "sdpa"}, "kernel")):
        with pytest.raises(ValueError, match=message):
            ReplayExplorer(recorded(), **given)
    with pytest.raises(TypeError, match="window: ReplayExplorer has no such setting; there are mask"):
        ReplayExplorer(window=4)


def test_what_is_recorded_in_the_background_is_shown(monkeypatch):
    explorer = ReplayExplorer(recorded())
    monkeypatch.setattr(ReplaySettings, "record", lambda self, cancelled=None: recorded())
    explorer.go(2)
    explorer.record()
    assert explorer.wait(10)
    assert explorer.step == -1 and not explorer._record.disabled and explorer._cancel.disabled


def made(arch, numbers):
    registers = numbers["BLOCK"]
    counts = Counter(one.opcode.split(".")[0] for one in sass.instructions_of(LOOPS))
    capability = (9, 0) if arch == "sm_90" else (8, 0)
    if registers == 256:
        raise ValueError("BLOCK: got 256, which does not fit")
    return {"total": Anatomy(capability, registers, 0, 1024, counts, "", "", LOOPS, "total")}


@pytest.fixture
def explorer(monkeypatch):
    """Of a kernel whose compiler is a function here: what a real one says is in test_taken_apart.py."""
    monkeypatch.setattr(sass, "with_lines", lambda cubin: "")
    subject = Subject("total", {"BLOCK": (64, 128, 256)}, {"BLOCK": 64}, made, "total")
    monkeypatch.setattr(anatomy_module, "subject_of", lambda *given: subject)
    return AnatomyExplorer()


def test_sliders_choose_what_is_compiled_and_the_table_has_all(explorer):
    explorer._controls["BLOCK"].value = 128  # as the slider does
    assert explorer.wait(10)
    explorer.set(arch="8.0")
    assert list(explorer.compiled) == ["64 sm_90", "128 sm_90", "128 sm_80"]
    assert explorer.settings.label == "128 sm_80" and explorer.anatomy.registers == 128
    assert explorer.frame()["arch"].tolist() == ["sm_90", "sm_90", "sm_80"]
    assert "128 sm_80" in explorer._table.value and "1 HMMA" in explorer._lines.value
    picture, words = explorer.still()
    assert picture.startswith(b"\x89PNG") and words.startswith("AnatomyExplorer: total 128 sm_80: 128 registers")
    assert "arch='sm_80', config={'BLOCK': 128}" in explorer.code()


def test_what_does_not_compile_is_said_and_the_slider_goes_back(explorer):
    explorer._controls["BLOCK"].value = 256
    assert explorer.wait(10)
    assert "BLOCK: got 256, which does not fit" in explorer._problem.value
    assert explorer._controls["BLOCK"].value == 64 and explorer.settings.label == "64 sm_90"


def test_wrong_settings_are_named(explorer):
    with pytest.raises(TypeError, match="WARPS: total has no such number; there are BLOCK"):
        explorer.set(WARPS=4)
    with pytest.raises(ValueError, match="arch: got 'hopper'"):
        explorer.set(arch="hopper")
    with pytest.raises(ValueError, match="kernel: got sdpa; allowed are blockskip"):
        subject_of("sdpa", (), "attention", {}, None)


def test_a_change_from_another_thread_is_not_lost(explorer):
    threads = [threading.Thread(target=explorer.set, kwargs={"BLOCK": size}) for size in (64, 128)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert explorer._controls["BLOCK"].value == dict(explorer.settings.config)["BLOCK"]
    assert set(explorer.compiled) >= {"64 sm_90", "128 sm_90"}


def test_a_slider_offers_what_lies_near_the_default():
    choices = subject_of("blockskip", (), "attention", {"q_len": 4096}, None).choices
    assert choices["block_m"] == (16, 32, 64, 128, 256) and 12 in choices["num_warps"]
    own = subject_of("blockskip-matvec", (), "linear", {}, {"block_n": (1, 2)})
    assert own.choices["block_n"] == (1, 2)
