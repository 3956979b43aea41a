"""Commands with a kernel of one's own: every one that measures takes --from, and the run's command works as written."""

from __future__ import annotations

import shlex

import pytest
from skiplab import contenders, read_run
from skiplab.contenders import Registry, base
from skiplab.operations import OPERATIONS

FILE = """
import skiplab, torch
from torch.nn.functional import scaled_dot_product_attention as sdpa

@skiplab.kernel("attention", name="mine", configs={"ROWS": (16, 32)})
def prompt(workload, inputs, config):
    mask = workload.mask.dense(workload.q_len, workload.keys, q_start=workload.first_position)
    return lambda q, k, v: sdpa(q, k, v, attn_mask=mask, enable_gqa=True)

@skiplab.kernel("decode", name="mine")
def step(workload, inputs):
    live = slice(0, workload.kv_len)
    return lambda q, k, v: sdpa(q, k[:, :, live], v[:, :, live], enable_gqa=True)

@skiplab.kernel("linear", name="mine")
def product(workload, inputs):
    return lambda x, w: torch.nn.functional.linear(x, w)
"""
COMMANDS = {
    "sweep": ["--q-len", "32", "--window", "8", "--q-heads", "2", "--kv-heads", "1", "--head-dim", "16"],
    "decode": ["--kv-len", "64", "--q-heads", "2", "--kv-heads", "1", "--head-dim", "16", "--window", "causal"],
    "linear": ["--shape", "64x64", "--rows", "2"],
}
QUICK = ["--budget", "0.05", "--device", "cpu"]


@pytest.fixture(autouse=True)
def mine(monkeypatch, tmp_path):
    """A file of kernels, and forget(): a process that has not read it."""
    copy = Registry()
    for operation in OPERATIONS:
        for entry in contenders.contenders(operation).values():
            copy.add(entry)
    monkeypatch.setattr(base, "REGISTRY", copy)
    (tmp_path / "mine.py").write_text(FILE)

    def forget():
        copy._entries = {key: entry for key, entry in copy._entries.items() if entry.is_own}

    return forget


@pytest.mark.parametrize("verb", COMMANDS)
def test_every_command_that_measures_takes_it_and_its_run_is_repeatable(skiplab, mine, verb):
    code, out, err = skiplab(
        verb, "--contender", "mine", "--from", "mine.py", *COMMANDS[verb], *QUICK, "--run", "a.jsonl"
    )
    assert code == 0, err
    run = read_run("a.jsonl")
    assert {row["status"] for row in run.rows} == {"ok"}, out
    assert run.header["kernels"]["mine"] == {"hash": run.rows[0]["kernel_hash"], "from": "mine.py"}
    mine()
    words = shlex.split(run.header["command"])[1:]
    assert skiplab(*words, "--run", "b.jsonl")[0] == 0
    assert read_run("b.jsonl").rows[0]["kernel_hash"] == run.rows[0]["kernel_hash"]
    mine()
    code, _, err = skiplab("rerun", "a.jsonl")
    assert code == 2 and "a.jsonl: needs the kernel 'mine'" in err and "add --from mine.py" in err
    code, out, _ = skiplab("rerun", "a.jsonl", "--from", "mine.py", "--out", "c.jsonl")
    assert code == 0 and "What differs" in out
    assert skiplab("report", "a.jsonl", "--out", "a.html")[0] == 0


def test_a_mended_file_is_told_by_rerun_and_compare(skiplab, mine, tmp_path):
    words = ["sweep", "--contender", "mine", "--from", "mine.py", *COMMANDS["sweep"], *QUICK, "--run", "a.jsonl"]
    assert skiplab(*words)[0] == 0
    (tmp_path / "mine.py").write_text(FILE.replace("def prompt", "# mended\ndef prompt"))
    mine()
    code, out, _ = skiplab("rerun", "a.jsonl", "--from", "mine.py", "--out", "b.jsonl")
    then = read_run("a.jsonl").rows[0]["kernel_hash"]
    assert code == 0 and f"and {then} in the run" in out
    code, out, _ = skiplab("compare", "a.jsonl", "b.jsonl")
    assert "kernel mine" in out


def test_its_configs_are_tuned(skiplab, monkeypatch):
    from skiplab.cli import tune

    tuned = tune.tuned
    monkeypatch.setattr(tune, "tuned", lambda *args, **named: tuned(*args, **named, isolate=False, progress=False))
    at = ["--at", "q_len=32", "--at", "window=8", "--at", "budget_s=0.05"]
    code, out, err = skiplab("tune", "kernel", "mine", "--from", "mine.py", *at, "--device", "cpu", "--run", "t.jsonl")
    assert code == 0, err
    assert "fastest: ROWS=" in out
    run = read_run("t.jsonl")
    assert [row["config"] for row in run.rows] == [[16], [32]]
    assert "skiplab tune kernel mine" in run.header["command"] and "--from mine.py" in run.header["command"]
    code, _, err = skiplab("tune", "kernel", "sdpa", "--device", "cpu")
    assert code == 2 and "NAME: got sdpa, which is the lab's own" in err
