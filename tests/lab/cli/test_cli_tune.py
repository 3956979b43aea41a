"""The command that tunes."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import blockskip as bs
import pytest
from blockskip.tuned.files import read_tuned
from skiplab.cli import tune as cli_tune
from skiplab.measure.timing import Cancelled
from skiplab.store import read_run
from skiplab.tuning.attention import Tuning
from skiplab.tuning.decode import DecodeTuning
from skiplab.tuning.linear import LinearTuning
from skiplab.workload import Workload


@pytest.fixture
def tuning_run(tmp_path):
    """A run file of two configurations, made by hand."""
    device = {"name": "NVIDIA H100 80GB HBM3", "kind": "cuda", "compute_capability": "9.0", "sms": 132}
    header = {
        "record": "header", "schema": 1, "run_id": "tune-1", "device": device, "torch": "2.11.0", "triton": "3.6.0",
        "operation": "attention", "command": "skiplab tune --heads 32/16x256", "parameters": {"heads": "32/16x256"},
    }  # fmt: skip
    workload = Workload(4096, mask=bs.sliding_window(1024), q_heads=32, kv_heads=16, head_dim=256)
    rows = [
        {
            "record": "point", "key": f"{config}", "point": f"blockskip {config} | {workload.key()} | cuda",
            "axes": workload.axes(), "contender": "blockskip", "config": list(config), "status": "ok",
            "device": device["name"], "samples_ns": [ns] * 3, "flags": [], "source_hash": "a",
        }
        for config, ns in (((128, 64, 8, 2), 43000), ((128, 32, 8, 2), 40500))
    ]  # fmt: skip
    path = tmp_path / "tune.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in (header, *rows)))
    return path


def test_configs_of_a_tuning_run_need_no_gpu(skiplab, tuning_run):
    code, out, err = skiplab("tune", "--from-run", tuning_run, "--out", "configs")
    assert code == 0, err
    assert "measured on NVIDIA H100 80GB HBM3" in out
    assert "µs untuned µs" in out and "128x32x8x2                  40.5       43.0" in out
    assert "configs: configs/h100-80gb-hbm3.json" in out
    (entry,) = read_tuned(Path("configs/h100-80gb-hbm3.json")).entries("attention")
    assert tuple(entry.config) == (128, 32, 8, 2)


def test_linear_and_decode_are_tuned_by_commands_of_their_own(skiplab, monkeypatch, tuning_run):
    asked = []

    def run_tuning(wanted, path, **named):
        asked.append(wanted)
        return read_run(tuning_run)

    monkeypatch.setattr(cli_tune, "run_tuning", run_tuning)
    rest = ["--out", "configs"]
    words = ["--shape", "4096x4096", "--rows", "1", "--rows", "64", "--bits", "4", "--symmetric", *rest]
    code, _, err = skiplab("tune", "linear", *words)
    assert code == 0, err
    fields = {"rows": (1, 64), "symmetric": True}
    assert asked == [LinearTuning(((4096, 4096),), packing=packing, **fields) for packing in ("rows", "tiles")]
    asked.clear()
    code, _, err = skiplab("tune", "decode", "--heads", "32/8x128", "--window", "causal", "--window", "64", *rest)
    assert code == 0, err
    assert asked == [DecodeTuning("32/8x128", window=(None, 64))]
    asked.clear()
    code, _, err = skiplab("tune", "attention", "--heads", "32/8x128", *rest)  # the same as without a command
    assert (code, asked) == (0, [Tuning("32/8x128")])


def test_a_tuning_run_is_repeated_by_its_own_command(skiplab, tuning_run):
    code, _, err = skiplab("rerun", tuning_run)
    assert code == 2
    assert "its own command repeats it: skiplab tune --heads 32/16x256" in err


def test_each_shape_of_heads_is_tuned_into_its_own_run(skiplab, monkeypatch, tuning_run):
    asked = []

    def run_tuning(wanted, path, *, jobs, limit_s, **named):
        asked.append((wanted, path, jobs, round(limit_s)))
        return read_run(tuning_run)

    monkeypatch.setattr(cli_tune, "run_tuning", run_tuning)
    masks = ["--mask", "causal", "--mask", "128", "--mask", "sink(4) & causal()"]
    heads = ["--heads", "32/16x256", "--heads", "32/8x128"]
    words = ["--config", "64x32x4x2", "--q-len", "512", "--jobs", "3", "--limit", "60", "--out", "configs"]
    code, out, err = skiplab("tune", *masks, *heads, *words)
    assert code == 0, err
    spec = ("causal()", "sliding_window(128)", "sink(4) & causal()")
    wanted = [Tuning(one, spec, (512,), ((64, 32, 4, 2),)) for one in ("32/16x256", "32/8x128")]
    assert asked == [(one, None, 3, 60) for one in wanted]
    assert out.count("run: tune.jsonl") == 2
    code, _, err = skiplab("tune", *heads, "--run", "one.jsonl")
    assert code == 2
    assert "--run: names one file, and each of these 2 has its own; name one: 32/16x256; 32/8x128" in err


def test_a_limit_ends_tuning_and_keeps_what_was_timed(skiplab, monkeypatch, tuning_run):
    def run_tuning(wanted, path, **named):
        if wanted.heads in late:
            raise Cancelled
        return read_run(tuning_run)

    monkeypatch.setattr(cli_tune, "run_tuning", run_tuning)
    late = {"32/16x256"}
    code, out, _ = skiplab("tune", "--out", "configs")
    assert code == 0
    assert out.count("Stopped before anything was timed") == out.count("run: ") == out.count("configs: ") == 1
    late = {"32/8x128"}
    code, _, err = skiplab("tune", "--out", "configs")
    assert code == 2
    assert "--limit: nothing was timed" in err


def test_ctrl_c_while_tuning_keeps_what_was_timed(skiplab, monkeypatch, tuning_run):
    def run_tuning(wanted, path, *, cancelled, **named):
        signal.raise_signal(signal.SIGINT)
        if not timed or not cancelled():
            raise Cancelled
        return read_run(timed.pop())

    monkeypatch.setattr(cli_tune, "run_tuning", run_tuning)
    timed = [tuning_run]
    code, out, _ = skiplab("tune", "--heads", "32/16x256", "--out", "configs")
    assert code == 130 and out.count("run: ") == out.count("configs: ") == 1
    code, out, err = skiplab("tune", "--heads", "32/16x256", "--out", "configs")
    assert code == 130 and "Stopped before anything was timed; the same command goes on." in out and err == ""
