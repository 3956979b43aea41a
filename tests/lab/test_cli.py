import importlib
import json
import signal
import sys
from pathlib import Path

import blockskip as bs
import pytest
from blockskip.tuned import read_tuned
from skiplab import bench as benchmarks
from skiplab import cli
from skiplab.bench import BENCHMARKS
from skiplab.cli import run as cli_run
from skiplab.cli import sweep as cli_sweep
from skiplab.cli import tune as cli_tune
from skiplab.contenders import contender, kernel
from skiplab.machine import Machine
from skiplab.measure import Measurement, Point
from skiplab.measure.timing import Cancelled
from skiplab.results import pages
from skiplab.store import read_run
from skiplab.tuning.tune import Tuning
from skiplab.workload import DecodeWorkload, Workload

SWEEP = [
    "sweep", "--contender", "blockskip", "--contender", "sdpa", "--q-len", "64", "--window", "16", "--window", "causal",
    "--q-heads", "2", "--kv-heads", "1", "--head-dim", "16", "--budget", "0.1", "--device", "cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Roofs that nothing beats, no child process (tests/lab/test_measure.py has them), and a folder to write in."""
    module = importlib.import_module("skiplab.sweep.running")
    high = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
    monkeypatch.setattr(module, "this_machine", lambda device, dtype: high)
    run_sweep = module.run_sweep
    here = {"isolate": False, "progress": False}
    monkeypatch.setattr(cli_run, "run_sweep", lambda *args, **named: run_sweep(*args, **named, **here))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def skiplab(monkeypatch, capsys):
    """Calls the console script: (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["skiplab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call


def test_sweep_prints_writes_and_goes_on(skiplab, tmp_path):
    code, out, _ = skiplab(*SWEEP, "--run", "run.jsonl", "--report", "page.html")
    assert code == 0
    assert "measured on" in out
    assert "blockskip" in out
    assert "run: run.jsonl" in out
    assert "report: page.html" in out
    assert (tmp_path / "page.html").stat().st_size > 1e6
    assert len(read_run(tmp_path / "run.jsonl").rows) == 4
    _, out, _ = skiplab(*SWEEP, "--run", "run.jsonl", "--report", "page.html")
    assert "holds 4 points already" in out


@pytest.mark.usefixtures("own_registry")
@pytest.mark.parametrize("presses", [1, 2])
def test_ctrl_c_says_what_is_kept_and_the_same_command_goes_on(skiplab, tmp_path, monkeypatch, presses):
    """One Ctrl-C while `interrupts` runs, or two."""
    monkeypatch.setattr(cli_sweep, "write_report", lambda run, path: None)
    left = [presses]

    @kernel(name="interrupts")
    def build(workload, inputs):
        for _ in range(left.pop() if left else 0):
            signal.raise_signal(signal.SIGINT)
        return contender("sdpa").build(workload, inputs)

    words = [*SWEEP, "--contender", "interrupts", "--run", "run.jsonl"]
    code, out, err = skiplab(*words)
    assert code == 130 and "Traceback" not in err
    assert "Stopped: 2 of 6 points are kept; the same command goes on." in out
    assert read_run(tmp_path / "run.jsonl").header["interrupted"] is True
    code, out, err = skiplab(*words)
    assert code == 0 and "Stopped" not in out, err
    run = read_run(tmp_path / "run.jsonl")
    assert len(run.rows) == 6 and "interrupted" not in run.header


@pytest.mark.parametrize(
    ("words", "head", "points"),
    [
        (["decode", "--kv-len", "64", "--kv-len", "96", "--window", "16", "--buffer", "128", "--q-heads", "2",
          "--kv-heads", "1", "--head-dim", "16", "--contender", "blockskip", "--contender", "sdpa"], "keys", 4),
        (["linear", "--shape", "64x96", "--rows", "1", "--rows", "9", "--contender", "blockskip",
          "--contender", "bf16"], "outputs", 4),
    ],
)  # fmt: skip
def test_decode_and_linear_are_swept_reported_and_run_again(skiplab, tmp_path, words, head, points):
    code, out, err = skiplab(
        *words, "--budget", "0.1", "--device", "cpu", "--run", "run.jsonl", "--report", "page.html"
    )
    assert code == 0, err
    assert head in out and f"{points} ok" in out
    run = read_run(tmp_path / "run.jsonl")
    assert run.operation == words[0] == run.frame()["operation"].unique().item()
    assert (tmp_path / "page.html").stat().st_size > 1e6
    code, out, err = skiplab("rerun", "run.jsonl", "--out", "new.jsonl")
    assert code == 0, err
    assert "ratio" in out


def test_a_layer_is_named_or_two_numbers(skiplab):
    code, _, err = skiplab("linear", "--shape", "64by96")
    assert code == 2
    assert "--shape: got '64by96'" in err and "gate, up" in err


def test_rerun_says_what_differs(skiplab, tmp_path):
    skiplab(*SWEEP, "--run", "run.jsonl")
    text = (tmp_path / "run.jsonl").read_text()
    (tmp_path / "old.jsonl").write_text(text.replace('"torch": "2', '"torch": "1'))
    code, out, err = skiplab("rerun", "old.jsonl", "--out", "new.jsonl")
    assert code == 0, err
    assert "torch: 1" in out
    assert "Time new / time old" in out and "4 points ok in both" in out


def line_of(out, *words):
    """The one line of a text that has all the words."""
    (found,) = [line for line in out.splitlines() if all(word in line for word in words)]
    return found


@pytest.fixture
def two_runs(tmp_path):
    """old.jsonl and new.jsonl, made by hand: faster with window 16, slower without; a point of its own on each side."""

    def write(name, factors, **header):
        first = {
            "record": "header",
            "schema": 1,
            "run_id": name,
            "device": {"name": "A CPU"},
            "torch": "2.11",
            **header,
        }
        lines = [first, *(a_row(*one) for one in factors)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    def a_row(workload, contender, factor):
        samples = tuple(round(factor * 1e6) + noise for noise in range(10))
        point = Point(workload, contender)
        row = Measurement(point, "ok", samples_ns=samples, method="cpu", device_name="A CPU").row()
        return {"record": "point", **row}

    narrow, wide = Workload(64, mask=bs.sliding_window(16)), Workload(64)
    old = [(narrow, "blockskip", 1), (wide, "blockskip", 1), (wide, "flex", 1)]
    write("old", old, git={"commit": "c1", "dirty": False})
    write("new", [(narrow, "blockskip", 0.5), (wide, "blockskip", 3), (wide, "sdpa", 1)],
          git={"commit": "c2", "dirty": False})  # fmt: skip
    write("better", [(narrow, "blockskip", 0.5), (wide, "blockskip", 1)])
    write("decode", [(DecodeWorkload(64), "blockskip", 1)])
    write("longer", [(Workload(128), "blockskip", 1)])


def test_compare_says_what_differs_and_which_points_changed(skiplab, two_runs):
    code, out, err = skiplab("compare", "old.jsonl", "new.jsonl")
    assert (code, err) == (1, "")
    assert "git commit: c1 -> c2" in out and "torch" not in out
    assert line_of(out, "blockskip", "causal", "slower").split()[3:6] == ["1", "3", "3.000"]
    assert "0.500 to 0.500" in line_of(out, "blockskip", "16", "faster")
    assert "2 points ok in both: 1 faster, 1 slower (up to 1 % counts as noise)." in out
    assert "only in old: flex: 1 point, window causal" in out
    assert "only in new: sdpa: 1 point, window causal" in out
    assert skiplab("compare", "old.jsonl", "better.jsonl")[0] == 0
    code, out, _ = skiplab("compare", "old.jsonl", "old.jsonl")
    assert code == 0 and "nothing in device, versions, git and kernels" in out and "3 same" in out
    code, out, _ = skiplab("compare", "old.jsonl", "new.jsonl", "--margin", "0.6")
    assert code == 1 and "1 slower, 1 same (up to 60 % counts as noise)" in out


def test_compare_prints_json_for_scripts(skiplab, two_runs):
    code, out, _ = skiplab("compare", "old.jsonl", "new.jsonl", "--json")
    found = json.loads(out)
    assert code == 1
    assert found["counts"] == {"faster": 1, "slower": 1, "same": 0, "unclear": 0}
    assert found["differences"] == {"git commit": ["c1", "c2"]}
    assert [(one["contender"], one["old"], one["new"]) for one in found["unpaired"]] == [
        ("sdpa", None, "ok"), ("flex", "ok", None)
    ]  # fmt: skip


def test_runs_that_share_no_point_say_in_what_they_differ(skiplab, two_runs):
    code, out, err = skiplab("compare", "old.jsonl", "longer.jsonl")
    assert code == 2
    assert "No point is ok in both runs." in out and "only in new: blockskip: 1 point, q_len 128" in out
    assert "no point is ok in both; they differ in q_len (64, then 128), kv_len (64, then 128)" in err


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ("decode.jsonl", "decode.jsonl is a run of decode, old.jsonl one of attention"),
        ("gone.jsonl", "gone.jsonl: cannot be read"),
        ("later.jsonl", "later.jsonl, line 1: schema 2; this version of skiplab reads 1 to 1"),
        ("lacking.jsonl", "lacking.jsonl: a point of blockskip lacks the axis window"),
    ],
)
def test_runs_that_cannot_be_compared_are_one_line(skiplab, two_runs, tmp_path, new, message):
    text = (tmp_path / "old.jsonl").read_text()
    (tmp_path / "later.jsonl").write_text(text.replace('"schema": 1', '"schema": 2'))
    (tmp_path / "lacking.jsonl").write_text(text.replace('"window": ', '"windows": '))
    code, out, err = skiplab("compare", "old.jsonl", new)
    assert (code, out) == (2, "")
    assert message in err and err.count("\n") == 1


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
        (["tune", "--device", "cpu"], "device: tuning times kernels on a GPU, and torch sees no cpu here"),
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
    assert "recorded on NVIDIA H100 80GB HBM3" in out
    assert "128x32x8x2" in out and "40.50" in out and "43.00" in out
    assert "configs: configs/h100-80gb-hbm3.json" in out
    (entry,) = read_tuned(Path("configs/h100-80gb-hbm3.json")).entries
    assert tuple(entry.config) == (128, 32, 8, 2)


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
    assert "--run: names one file, and each of 2 shapes of heads has its own" in err


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


def test_a_broken_run_names_file_and_line(skiplab, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    code, _, err = skiplab("rerun", "bad.jsonl")
    assert code == 2
    assert "bad.jsonl, line 1" in err


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


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_reads_its_own_options(skiplab, capsys, name):
    with pytest.raises(SystemExit) as end:
        benchmarks.run(name, ["--help"])
    said = capsys.readouterr().out
    assert end.value.code == 0 and said.startswith(f"usage: skiplab bench {name} ")


def test_an_unknown_benchmark_is_refused_and_options_are_passed_on(skiplab):
    code, _, err = skiplab("bench", "speed")
    assert code == 2 and "NAME: got 'speed'; allowed are tilemap, prefill_cpu, host, store, decode" in err
    code, _, err = skiplab("bench", "store", "--rows", "many")
    assert code == 2 and "argument --rows: invalid int value: 'many'" in err


def test_figures_are_of_a_checkout(skiplab, monkeypatch):
    monkeypatch.setattr(pages, "installed", lambda: True)
    code, _, err = skiplab("figures")
    assert code == 2 and "this is an installed package" in err
