"""The console script: what it refuses, says and starts."""

from __future__ import annotations

import subprocess
import sys

import blockskip
import pytest
from commands import SWEEP
from skiplab import bench as benchmarks
from skiplab import cli
from skiplab.bench import BENCHMARKS
from skiplab.results import pages


def test_python_runs_the_command_line_as_a_module(warm_python):
    ran = subprocess.run([sys.executable, "-m", "skiplab", "--version"], capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, f"skiplab {blockskip.__version__}"), ran.stderr


def test_report_of_a_run(skiplab):
    skiplab(*SWEEP, "--run", "run.jsonl")
    code, out, _ = skiplab("report", "run.jsonl", "--out", "again.html")
    assert (code, out.strip()) == (0, "report: again.html")


def test_check_of_your_own_file(skiplab, tmp_path, monkeypatch):
    from skiplab.measure import attention as measured

    monkeypatch.setattr(measured, "AWKWARD", measured.AWKWARD[:2])
    (tmp_path / "mine.py").write_text(
        "import skiplab\nfrom skiplab.contenders import contender\n\n"
        "@skiplab.kernel(name='mine of a test')\ndef build(workload, inputs):\n"
        "    call = contender('sdpa').build(workload, inputs)\n    return lambda q, k, v: call(q, k, v) * 2\n"
    )
    code, out, _ = skiplab("check", "mine of a test", "--from", "mine.py", "--device", "cpu")
    assert code == 1
    assert "wrong" in out
    assert skiplab("check", "sdpa", "--device", "cpu")[0] == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["sweep", "--contender", "nobody"], "no 'nobody'; there are blockskip"),
        (["sweep", "--window", "wide"], "--window: got 'wide'"),
        (["sweep", "--model", "gpt"], "--model: no 'gpt'"),
        (["sweep", "--mask", "chunked(8)", "--window", "8"], "window: got (8,) with the mask ('chunked(8)',)"),
        (["sweep", "--model", "llama3-8b", "--q-heads", "7"], "--q-heads: got 7 beside --model llama3-8b"),
        (["sweep", "--device", "tpu9"], "device: got 'tpu9'"),
        (["sweep", "--dtype", "int3"], "dtype: given 'int3'"),
        (["sweep", "--q-len", "many"], "--q-len"),
        (["report", "gone.jsonl"], "gone.jsonl: cannot be read"),
        (["share", "gone.ipynb"], "no file gone.ipynb"),
        (["check", "mine", "--from", "gone.py"], "no file gone.py"),
        (["check", "nobody"], "no 'nobody'"),
        (
            ["tune", "--devices", "cuda:0,cuda:1"],
            "--devices: got cuda:0,cuda:1; candidates are timed in a race on one GPU",
        ),
        (["runs", "--device", "cpu"], "--device: got cpu; these runs are of a GPU"),
        (["runs", "--devices", "cuda:8,cuda:9"], "--devices: torch sees no cuda:8 here"),
        (["tune", "--device", "cpu"], "device: got cpu, where there is nothing to tune: PyTorch does attention there"),
        (["tune", "linear", "--device", "cpu"], "got cpu, where there is nothing to tune: PyTorch does linear there"),
        (["tune", "decode", "--device", "cpu"], "got cpu, where there is nothing to tune: PyTorch does decode there"),
        (["tune", "linear", "--shape", "100x100"], "shape: got 100x100: inputs must be a multiple of group_size 32"),
        (["tune", "linear", "--shape", "96x256", "--packing", "tiles"], "N must be a multiple of 64"),
        (
            ["tune", "linear", "--bits", "8", "--packing", "tiles"],
            "or no shape that can be int8 in tiles, groups of 32",
        ),
        (["tune", "linear", "--bits", "3"], "bits: given 3"),
        (["tune", "linear", "--packing", "heaps"], "packing: given 'heaps'; allowed are rows, tiles"),
        (["tune", "linear", "--dtype", "float32"], "dtype: got float32"),
        (["tune", "decode", "--window", "wide"], "--window: got 'wide'"),
        (["tune", "--device", "cuda:99"], "torch sees no cuda:99 here"),
        (["tune", "--heads", "32x256"], "heads: got '32x256'"),
        (["tune", "--mask", "wide"], "cannot read 'wide'"),
        (["tune", "--config", "64x64"], "--config: got '64x64'; allowed is block_m x block_n x warps x stages"),
        (["tune", "--from-run", "gone.jsonl"], "gone.jsonl: cannot be read"),
        (["dance"], "dance"),
    ],
)
def test_wrong_input_is_one_line_without_a_traceback(skiplab, words, message):
    code, _, err = skiplab(*words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_help_teaches(skiplab):
    code, out, _ = skiplab("--help")
    assert code == 0
    for command in (
        "lab",
        "sweep",
        "decode",
        "linear",
        "compare",
        "tune",
        "report",
        "share",
        "doctor",
        "rerun",
        "check",
    ):
        assert command in out
    _, out, _ = skiplab("sweep", "--help")
    assert "causal" in out
    assert "Example" in out


def test_runs_lists_its_topics_and_refuses_others(skiplab):
    code, out, _ = skiplab("runs", "--list")
    assert not code and "decode-qwen" in out and all(line.endswith(" points") for line in out.splitlines())
    code, out, _ = skiplab("runs", "decode-qwen", "--list")
    assert not code and len(out.splitlines()) == 1
    code, _, err = skiplab("runs", "decode-queen")
    assert code == 2 and "TOPIC: got 'decode-queen'; allowed are prefill-windows-d128" in err


def test_runs_of_some_contenders_leave_topics_out_that_have_none(skiplab):
    code, out, _ = skiplab("runs", "linear-int4-fused,decode-qwen", "--contender", "humming,tinygemm", "--list")
    assert not code and out.split() == ["linear-int4-fused", "88", "points"]
    code, _, err = skiplab("runs", "decode-qwen", "--contender", "blockskip,humming", "--list")
    assert code == 2 and "--contender: got 'humming'; these topics have blockskip, blockskip-one" in err


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_reads_its_own_options(skiplab, capsys, name):
    with pytest.raises(SystemExit) as end:
        benchmarks.run(name, ["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith(f"usage: skiplab bench {name} ")


def test_an_unknown_benchmark_is_refused_and_options_are_passed_on(skiplab):
    code, _, err = skiplab("bench", "speed")
    assert (
        code == 2
        and "NAME: got 'speed'; allowed are tilemap, prefill_cpu, linear_cpu, model_cpu, host, store, decode" in err
    )
    code, _, err = skiplab("bench", "store", "--rows", "many")
    assert code == 2 and "argument --rows: invalid int value: 'many'" in err


def test_figures_are_of_a_checkout(skiplab, monkeypatch):
    monkeypatch.setattr(pages, "installed", lambda: True)
    code, _, err = skiplab("figures")
    assert code == 2 and "this is an installed package" in err


def test_it_says_which_version_it_is(skiplab):
    assert skiplab("--version") == (0, f"skiplab {blockskip.__version__}\n", "")


@pytest.mark.parametrize("port", ["99999", "65536", "0", "-1"])
def test_a_port_that_cannot_be_is_refused_before_a_server_starts(skiplab, monkeypatch, port):
    monkeypatch.setattr(cli.subprocess, "call", lambda command: pytest.fail("started"))
    assert skiplab("lab", "--port", port) == (2, "", f"skiplab: --port: got {port}; allowed are 1 to 65535\n")


def test_every_port_that_can_be_is_handed_on(skiplab, monkeypatch):
    started = []
    monkeypatch.setattr(cli.subprocess, "call", lambda command: started.append(command) or 0)
    assert [skiplab("lab", "--port", port)[0] for port in (1, 65535)] == [0, 0]
    assert ["--port=1" in started[0], "--port=65535" in started[1]] == [True, True]


def test_commands_start_without_torchs_compiler(fresh_process):
    """Which takes as long to import as all the rest."""
    code = "import sys, skiplab.cli; print([name for name in ('sympy', 'torch._dynamo') if name in sys.modules])"
    assert fresh_process("-c", code).stdout == "[]\n"
