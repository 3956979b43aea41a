"""The commands that measure: sweep, decode, linear, rerun."""

from __future__ import annotations

import json
import signal

import pytest
from commands import SWEEP
from skiplab import paths
from skiplab.cli import linear as cli_linear
from skiplab.cli import run as cli_run
from skiplab.cli import sweep as cli_sweep
from skiplab.contenders import contender, kernel
from skiplab.store import read_run
from skiplab.sweep import Progress
from skiplab.sweep.progress import OnDevice
from skiplab.workload import model_of


def test_sweep_prints_writes_and_goes_on(skiplab, tmp_path):
    code, out, _ = skiplab(*SWEEP, "--out", "run.jsonl", "--report", "page.html")
    assert code == 0
    assert "measured on" in out
    assert "blockskip" in out
    assert "run: run.jsonl" in out
    assert "report: page.html" in out
    assert (tmp_path / "page.html").stat().st_size > 1e6
    assert len(read_run(tmp_path / "run.jsonl").rows) == 4
    _, out, _ = skiplab(*SWEEP, "--run", "run.jsonl", "--again", "busy", "--report", "page.html")
    assert "finished" not in out and len(read_run(tmp_path / "run.jsonl").frame()) == 4
    _, out, _ = skiplab(*SWEEP, "--run", "run.jsonl")
    assert "run.jsonl is finished: measured again, into run-2.jsonl" in out and "run: run-2.jsonl" in out
    assert "report: out/run-2.html" in out and len(read_run(tmp_path / "run-2.jsonl").rows) == 4


def test_a_run_without_a_name_lies_beside_the_notebooks_not_among_the_recorded(skiplab, tmp_path, monkeypatch):
    shipped = {path.name for path in paths.data_path("runs").iterdir()}
    monkeypatch.setattr(paths, "notebooks_path", lambda: tmp_path / "notebooks")
    code, out, err = skiplab(*SWEEP)
    assert code == 0, err
    (made,) = (tmp_path / "notebooks" / "runs").glob("*.jsonl")
    assert f"run: notebooks/runs/{made.name}" in out and "measured on" in out
    assert {path.name for path in paths.data_path("runs").iterdir()} == shipped


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
        *words, "--budget", "0.03", "--device", "cpu", "--run", "run.jsonl", "--report", "page.html"
    )
    assert code == 0, err
    assert head in out and f"{points} ok" in out
    run = read_run(tmp_path / "run.jsonl")
    assert run.operation == words[0] == run.frame()["operation"].unique().item()
    assert (tmp_path / "page.html").stat().st_size > 1e6
    code, out, err = skiplab("rerun", "run.jsonl", "--out", "new.jsonl")
    assert code == 0, err
    assert "ratio" in out


def test_contenders_are_timed_in_turn_where_that_is_asked_for(skiplab, tmp_path):
    for words, together in ((["--interleave"], ["sdpa"]), (["--no-interleave"], None), ([], None)):
        name = f"{len(words)}{together}.jsonl"
        code, out, err = skiplab(*SWEEP, *words, "--run", name, "--report", "page.html")
        assert code == 0 and "4 ok" in out, err
        run = read_run(tmp_path / name)
        assert run.header["parameters"]["interleave"] is (True if together else None)
        assert [row.get("together") for row in run.rows if row["contender"] == "blockskip"] == [together] * 2
        assert ("--interleave" in run.header["command"]) is bool(together) and "by themselves" not in out


def test_it_says_whose_points_were_timed_by_themselves(skiplab, tmp_path):
    assert skiplab(*SWEEP, "--interleave", "--run", "run.jsonl")[0] == 0
    lines = (tmp_path / "run.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "run.jsonl").write_text("".join(lines[:2]))
    code, out, err = skiplab(*SWEEP, "--interleave", "--run", "run.jsonl")
    assert code == 0, err
    assert "workloads with rows from before: 1; their other contenders are timed in turn without those" in out
    assert "sdpa, 1 points timed by themselves, not in turn with others'" in out


@pytest.fixture
def swept_layers(monkeypatch):
    """The shapes and rows of the sweeps that `skiplab linear` would measure, which nobody does here."""
    seen = []
    monkeypatch.setattr(cli_linear, "measure", lambda wanted, *rest: seen.append((wanted.shape, wanted.rows)))
    return seen


def test_a_models_layers_are_swept_fused_or_not(skiplab, swept_layers):
    rows = ["--rows", "1", "--rows", "2048"]
    apart = ((8192, 5376), (4096, 5376), (5376, 8192), (16384, 5376), (2048, 5376), (5376, 16384), (21504, 5376),
             (5376, 21504), (262144, 5376))  # fmt: skip
    for words, shapes in (
        (["--layer", "qkv", "--layer", "gate+up"], ((16384, 5376), (43008, 5376))),
        (["--fused"], model_of("gemma4-31b").chosen(fused=True)),
        (["--no-fused"], apart),
        ([], model_of("gemma4-31b").chosen()),
    ):
        code, _, err = skiplab("linear", "--model", "gemma4-31b", *words, *rows)
        assert code == 0, err
        assert swept_layers.pop() == (shapes, (1, 2048))
    assert set(apart) < set(shapes) and (18432, 5376) in shapes


def test_a_model_may_be_a_file_of_its_own(skiplab, tmp_path):
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 2, "vocab_size": 32}
    (tmp_path / "config.json").write_text(json.dumps(sizes))
    words = ["--model", "config.json", "--layer", "qkv", "--layer", "down", "--contender", "bf16", "--rows", "2"]
    code, out, err = skiplab("linear", *words, "--budget", "0.03", "--device", "cpu", "--run", "run.jsonl")
    assert code == 0 and "2 ok" in out, err
    axes = [row["axes"] for row in read_run(tmp_path / "run.jsonl").rows]
    assert [(one["out_features"], one["in_features"], one["rows"]) for one in axes] == [(192, 64, 2), (64, 96, 2)]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--shape", "64by96"],
            "--shape: got '64by96'; allowed are outputs x inputs as 8192x2048, and laptop, gate, up",
        ),
        (["--model", "gpt"], "model: no 'gpt'; there are gemma3-27b"),
        (["--model", "llama3-8b", "--layer", "qk"], "layer: llama3-8b has no 'qk' here; there are qkv, q, k, v, o"),
        (["--model", "llama3-8b", "--layer", "q", "--fused"], "layer: llama3-8b has no 'q' here; there are qkv, o"),
        (["--model", "llama3-8b", "--shape", "8x32"], "--shape: got 8x32 beside --model llama3-8b, which has its own"),
        (["--layer", "qkv"], "--layer: chooses among a model's layers; name one, as --model gemma4-31b"),
        (["--no-fused"], "--fused/--no-fused: chooses among a model's layers"),
    ],
)
def test_layers_that_cannot_be_meant_are_one_line(skiplab, words, message):
    code, _, err = skiplab("linear", *words)
    assert code == 2 and message in err and err.count("\n") == 1


def test_rerun_says_what_differs(skiplab, tmp_path):
    skiplab(*SWEEP, "--run", "run.jsonl")
    text = (tmp_path / "run.jsonl").read_text()
    (tmp_path / "old.jsonl").write_text(text.replace('"torch": "2', '"torch": "1'))
    code, out, err = skiplab("rerun", "old.jsonl", "--out", "new.jsonl")
    assert code == 0, err
    assert "torch: 1" in out
    assert "Time new / time old" in out and "4 points ok in both" in out


def test_a_rerun_on_another_device_compares_no_times(skiplab, tmp_path):
    skiplab(*SWEEP, "--run", "run.jsonl")
    header, *rows = map(json.loads, (tmp_path / "run.jsonl").read_text().splitlines())
    here = header["device"]["name"]
    lines = [
        header | {"device": {**header["device"], "name": "A GPU"}},
        *(row | {"device": "A GPU"} for row in rows[:-1]),
    ]
    (tmp_path / "old.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    code, out, err = skiplab("rerun", "old.jsonl", "--out", "new.jsonl")
    assert code == 0, err
    assert f"device name: A GPU -> {here}" in out and "ratio" not in out
    assert f"Times of different devices are not compared: A GPU, then {here}." in out


def test_a_broken_run_names_file_and_line(skiplab, tmp_path):
    (tmp_path / "bad.jsonl").write_text("{}\n")
    code, _, err = skiplab("rerun", "bad.jsonl")
    assert code == 2
    assert "bad.jsonl, line 1" in err


def test_the_first_of_several_devices_is_the_sweeps(skiplab, monkeypatch):
    asked = []

    def run_sweep(wanted, path, *, devices, **named):
        asked.append((wanted.device, devices))
        raise ValueError("enough")

    monkeypatch.setattr(cli_run, "run_sweep", run_sweep)
    for command in ("sweep", "decode", "linear", "model laptop"):
        code, _, err = skiplab(*command.split(), "--devices", "cpu,cpu")
        assert (code, err) == (2, "skiplab: enough\n")
        code, _, err = skiplab(*command.split(), "--devices", "cpu,cpu", "--device", "cpu")
        assert (code, err) == (2, "skiplab: --devices: got cpu,cpu beside --device cpu; give one of them\n")
        code, _, err = skiplab(*command.split(), "--devices", "cpu,cuda:98")
        assert code == 2 and "torch sees no cuda:98 here" in err
    assert asked == [("cpu", ("cpu", "cpu"))] * 4


def test_it_says_how_many_points_each_of_several_devices_measured(skiplab, monkeypatch):
    run_sweep = cli_run.run_sweep

    def on_two(wanted, path, *, on_progress, **named):
        on_progress(Progress(4, 4, (), {"cuda:0": OnDevice(3), "cuda:1": OnDevice(1)}))
        return run_sweep(wanted, path, **named)

    monkeypatch.setattr(cli_run, "run_sweep", on_two)
    assert "points by device: cuda:0 3, cuda:1 1\nrun: " in skiplab(*SWEEP, "--run", "run.jsonl")[1]
    monkeypatch.setattr(cli_run, "run_sweep", run_sweep)
    assert "points by device" not in skiplab(*SWEEP, "--run", "run.jsonl")[1]
