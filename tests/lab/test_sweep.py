import importlib
import json
import re
import signal
from dataclasses import asdict, replace

import blockskip as bs
import pytest
import skiplab
import torch
from skiplab.machine import Machine
from skiplab.provenance import git_state, source_hash
from skiplab.report import time_table
from skiplab.store import read_run
from skiplab.sweep import DecodeSweep, LinearSweep, Sweep, default_path, mask_text, run_sweep, sweep_of

TINY = Sweep(
    ("blockskip", "sdpa", "blockskip-map"), (64, 96), (16, None), q_heads=2, kv_heads=1, head_dim=16, budget_s=0.03
)  # fmt: skip


@pytest.fixture(autouse=True)
def roofs(monkeypatch):
    """Roofs that nothing beats, instead of measured ones: that takes seconds."""
    module = importlib.import_module("skiplab.sweep.running")  # the package's own `sweep` is the function
    high = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
    monkeypatch.setattr(module, "this_machine", lambda device, dtype: high)


def test_points_are_the_product_and_a_workload_stays_together():
    points = TINY.points()
    assert len(points) == 12
    assert len({point.key for point in points}) == 12
    workloads = [point.workload for point in points]
    assert all(workloads[i] == workloads[i + 1] == workloads[i + 2] for i in range(0, 12, 3))


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"q_len": ()}, "q_len"), ({"contenders": ("nobody",)}, "contender"), ({"dtype": "int8"}, "dtype"),
     ({"budget_s": 0}, "budget_s"), ({"q_len": (64, 512), "buffer": 256}, "buffer")],
)  # fmt: skip
def test_errors_name_the_field(fields, named):
    with pytest.raises(ValueError, match=rf"^{named}: "):
        Sweep(**fields)


def test_a_sweep_writes_a_run_and_goes_on_where_it_stopped(tmp_path):
    path = tmp_path / "run.jsonl"
    seen = []
    stopped = run_sweep(
        TINY, path, isolate=False, progress=False, on_measurement=seen.append, cancelled=lambda: len(seen) >= 4
    )
    assert len(seen) == len(stopped.rows) == 4
    run = run_sweep(TINY, path, isolate=False, progress=False, on_measurement=seen.append)
    assert len(run.rows) == len(seen) == 12
    assert run.source == "measured"
    table = run.frame()
    assert table["status"].value_counts().to_dict() == {"ok": 8, "unsupported": 4}
    assert set(table["source"]) == {"measured"}
    assert set(read_run(path).frame()["source"]) == {"measured"}  # recorded is what skiplab ships
    again = run_sweep(TINY, path, isolate=False, progress=False, on_measurement=seen.append)
    assert len(seen) == 12
    assert len(again.rows) == 12
    more = run_sweep(TINY, path, isolate=False, progress=False, again=["unsupported"])
    assert len(more.rows) == 16
    assert len(more.frame()) == 12


def test_a_finished_run_is_measured_again_beside_it_and_an_interrupted_one_goes_on(tmp_path, capsys):
    shape = {"q_heads": 1, "kv_heads": 1, "head_dim": 16, "budget_s": 0.05, "device": "cpu", "isolate": False}
    call = {"q_len": [32, 48], "window": [16], "path": tmp_path / "run.jsonl", "progress": False, **shape}
    first = skiplab.sweep(["blockskip"], **call)
    kept = (tmp_path / "run.jsonl").read_bytes()
    assert capsys.readouterr().out == ""
    second = skiplab.sweep(["blockskip"], **call)
    assert second.path == tmp_path / "run-2.jsonl" and len(second.rows) == 2 and second.run_id != first.run_id
    assert capsys.readouterr().out == "run.jsonl is finished: measured again, into run-2.jsonl\n"
    lines = second.path.read_text().splitlines(keepends=True)
    second.path.write_text("".join(lines[:2]))  # as a process that was killed leaves it
    third = skiplab.sweep(["blockskip"], **call)
    assert third.path == second.path and third.rows[0] == second.rows[0] and len(third.rows) == 2
    assert capsys.readouterr().out == "run-2.jsonl was interrupted with 1 points measured: it goes on\n"
    assert (tmp_path / "run.jsonl").read_bytes() == kept
    with pytest.raises(ValueError, match=r"run\.jsonl: was made with the parameter q_len"):
        skiplab.sweep(["blockskip"], **{**call, "q_len": [64]})


def interrupt_after(points):
    """A callback that presses Ctrl-C when so many points are measured."""
    seen = []

    def heard(measurement):
        seen.append(measurement)
        if len(seen) == points:
            signal.raise_signal(signal.SIGINT)

    return heard


def test_ctrl_c_ends_a_run_as_interrupted_and_the_same_call_goes_on(tmp_path):
    path, here = tmp_path / "run.jsonl", {"isolate": False, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        run_sweep(TINY, path, **here, on_measurement=interrupt_after(3))
    stopped = read_run(path)
    assert len(stopped.rows) == 3 and stopped.header["interrupted"] is True and stopped.header["end"]
    done = run_sweep(TINY, path, **here)
    assert len(done.rows) == 12
    assert "interrupted" not in done.header and "interrupted" not in read_run(path).header
    assert read_run(path).header["end"] == done.header["end"]


def test_what_is_cancelled_is_marked_as_interrupted(tmp_path):
    run = run_sweep(TINY, tmp_path / "run.jsonl", isolate=False, progress=False, cancelled=lambda: True)
    assert run.header["interrupted"] is True and read_run(run.path).header["interrupted"] is True


def test_a_sweep_over_masks_is_repeated_from_its_header(tmp_path):
    masks = [bs.chunked(16) & bs.causal(), "sliding_window(8) | (sink(2) & causal())"]
    named = {"q_heads": 2, "kv_heads": 1, "head_dim": 16, "budget_s": 0.05, "device": "cpu"}
    run = skiplab.sweep(["blockskip"], q_len=[64], mask=masks, path=tmp_path / "run.jsonl", isolate=False, **named)
    assert [row["axes"]["mask"] for row in run.rows] == ["chunked(16) & causal()", masks[1]]
    assert all(row["status"] == "ok" for row in run.rows)
    assert masks[1] in run._repr_html_().replace("&amp;", "&")
    again = sweep_of("attention", read_run(tmp_path / "run.jsonl").header["parameters"])
    assert again.mask == ("chunked(16) & causal()", masks[1]) and again.window is None
    assert "--mask 'chunked(16) & causal()'" in again.command() and "--window" not in again.command()
    assert list(time_table(run.frame())["window"]) == ["chunked(16) & causal()", masks[1]]


def test_masks_and_windows_are_not_both_taken():
    with pytest.raises(ValueError, match=r"^window: got .* with the mask"):
        replace(TINY, mask=("causal()",))
    with pytest.raises(ValueError, match=r"^window: "):
        replace(TINY, window=None)
    with pytest.raises(ValueError, match=r"^buffer: got 128 with the mask"):
        replace(TINY, window=None, mask=("chunked(16)",), buffer=128)
    with pytest.raises(ValueError, match=r"^mask: got 'foo'"):
        mask_text("foo")
    with pytest.raises(ValueError, match="holds tensors"):
        mask_text(bs.dense(torch.ones(4, 4, dtype=torch.bool)))


def test_a_sweep_that_cannot_be_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match="q_len"):
        run_sweep(replace(TINY, q_len=(0,)), tmp_path / "run.jsonl")
    assert not list(tmp_path.iterdir())


def test_a_sweep_of_prompts_in_a_buffer(tmp_path):
    wanted = replace(TINY, contenders=("blockskip", "sdpa", "sdpa-causal"), q_len=(48, 64), buffer=64)
    assert [workload.buffer for workload in wanted.workloads()] == [64] * 4
    assert " --buffer 64 " in wanted.command()
    run = run_sweep(wanted, tmp_path / "run.jsonl", isolate=False, progress=False)
    assert Sweep.from_parameters(run.header["parameters"]) == wanted
    table = read_run(tmp_path / "run.jsonl").frame()
    assert set(table["buffer"]) == set(table["kv_len"]) == {64}
    assert set(table.loc[table["status"] != "ok", "contender"]) == {"sdpa-causal"}  # not for windows
    dense = table[table["contender"] == "sdpa"].set_index(["q_len", "window"])["executed_flops"]
    assert dense.loc[48].tolist() == [4 * 2 * 16 * 48 * 64] * 2


def test_a_header_says_how_to_run_it_again_and_nothing_private(tmp_path):
    import socket

    run = run_sweep(TINY, tmp_path / "run.jsonl", isolate=False, progress=False, cancelled=lambda: True)
    text = json.dumps(run.header)
    for name in ("run_id", "argv", "parameters", "seed", "git", "source_hash", "python", "torch", "threads", "start"):
        assert name in run.header
    assert run.header["roof"]["source"] == "measured"
    assert str(tmp_path) not in text
    assert socket.gethostname() not in text
    assert Sweep.from_parameters(read_run(run.path).header["parameters"]) == TINY


def test_other_kernel_sources_are_other_points(tmp_path, monkeypatch):
    from skiplab.sweep import row_key

    point = TINY.points()[0]
    assert row_key(point).endswith(source_hash())
    assert row_key(point).startswith(point.key)


def test_the_same_sweep_has_the_same_file():
    assert default_path(TINY, "x") == default_path(Sweep.from_parameters(json.loads(json.dumps(TINY.__dict__))), "x")
    assert default_path(TINY, "x") != default_path(Sweep(), "x")


@pytest.mark.usefixtures("warm_children")
def test_the_function_of_the_package(tmp_path):
    assert callable(skiplab.sweep)
    run = skiplab.sweep(
        ["blockskip", "sdpa"], q_len=[64], window=[16], q_heads=1, kv_heads=1, head_dim=16, budget_s=0.1,
        device="cpu", path=tmp_path / "run.jsonl", progress=False,
    )  # fmt: skip
    assert run.frame()["status"].tolist() == ["ok", "ok"]
    assert "2 points, measured on" in run._repr_html_()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_here_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="device: torch sees no cuda"):
        run_sweep(replace(TINY, device="cuda"), tmp_path / "run.jsonl")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_sweep_on_cuda(tmp_path):
    wanted = Sweep(
        ("blockskip", "blockskip-none", "blockskip-map", "sdpa", "flex"), (1024,), (256,), device="cuda", budget_s=1.0
    )
    table = run_sweep(wanted, tmp_path / "run.jsonl", isolate=False, progress=False).frame()
    assert set(table["status"]) == {"ok"}, table["error_text"].tolist()
    assert set(table["method"]) <= {"graph", "eager"}


def test_every_sweep_comes_back_from_its_parameters_and_tells_its_command():
    for sweep in (Sweep(), DecodeSweep(buffer=65536), LinearSweep(symmetric=True, bits=(4, 8))):
        parameters = json.loads(json.dumps(asdict(sweep)))
        assert sweep_of(sweep.operation, parameters) == sweep
        assert sweep.command().startswith(f"skiplab {sweep.verb} --contender blockskip")
    assert "--window causal --window 1024" in DecodeSweep().command() and "--buffer" not in DecodeSweep().command()
    assert "--shape 2048x2048 --shape 8192x2048" in LinearSweep().command()
    assert LinearSweep(symmetric=True).command().count("--symmetric") == 1 and "symm" not in LinearSweep().command()


def test_points_of_one_workload_follow_each_other():
    points = DecodeSweep(("blockskip", "sdpa"), kv_len=(64, 128), window=(None, 8)).points()
    assert [point.contender for point in points] == ["blockskip", "sdpa"] * 4
    assert [point.workload.kv_len for point in points] == [64] * 4 + [128] * 4


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: DecodeSweep(kv_len=()), "kv_len: got nothing"),
        (lambda: LinearSweep(rows=()), "rows: got nothing"),
        (lambda: LinearSweep(("sdpa",)), "contender: no 'sdpa'"),
        (lambda: DecodeSweep(dtype="int8"), "dtype: given 'int8'"),
        (lambda: LinearSweep(budget_s=0), "budget_s: got 0"),
        (lambda: sweep_of("sort", {}), "operation: got 'sort'"),
    ],
)
def test_errors_of_the_sweeps_name_the_field(make, named):
    with pytest.raises(ValueError, match=named):
        make()


def test_a_checkout_says_its_commit_whatever_git_is_told(monkeypatch, tmp_path):
    commit = git_state()["commit"]
    assert re.fullmatch("[0-9a-f]{40}", commit)
    monkeypatch.setenv("GIT_DIR", str(tmp_path))  # as in a hook of another repository
    assert git_state()["commit"] == commit
