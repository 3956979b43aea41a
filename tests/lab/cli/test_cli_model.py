"""The command `skiplab model`: its run, its report, llama-bench's lines in it, and wrong input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from skiplab.machine import describe
from skiplab.measure.model import AWKWARD, TINY
from skiplab.store import frame, read_run
from skiplab.workload import ModelWorkload
from skiplab.workload.model import parameters

WORDS = ("--prompt", "16,24", "--new", "3", "--depth", "0,8", "--rows", "1", "--rows", "4", "--budget", "0.03")
TWO = ("--contender", "blockskip", "--contender", "sdpa", "--device", "cpu")
CONFIG = {**TINY, **AWKWARD["two kinds"], "name": "tiny"}


@pytest.fixture(autouse=True)
def config(tmp_path, one_thread):
    """A config.json where the command runs."""
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))


def bench(**changed):
    """A line as llama-bench prints it, of a prompt."""
    size = parameters(ModelWorkload("prefill", 1, model="tiny", config=json.dumps(CONFIG)).spec)
    cpu = describe("cpu")["name"].partition(",")[0]
    line = {
        "build_commit": "abc", "cpu_info": cpu, "gpu_info": "", "backends": "CPU", "model_n_params": size,
        "n_prompt": 16, "n_gen": 0, "n_depth": 0, "flash_attn": 1, "samples_ns": [2_000_000, 4_000_000],
    }  # fmt: skip
    return json.dumps({**line, **changed}) + "\n"


STEPS = {"n_prompt": 0, "n_gen": 10, "n_depth": 8}


def test_it_measures_reports_goes_on_repeats_and_compares(skiplab, tmp_path):
    Path("bench.jsonl").write_text(bench() + bench(**STEPS) + bench(n_depth=8))
    words = ("model", "config.json", *WORDS, *TWO, "--out", "run.jsonl", "--report", "page.html")
    code, out, err = skiplab(*words, "--llama-bench", "bench.jsonl")
    assert code == 0, err
    assert "1 tests of prompts at a depth, or of prompts and steps as one, are left out" in out
    assert "times faster than SDPA and float weights" in out and "run: run.jsonl" in out
    page = (tmp_path / "page.html").read_text()
    assert (
        "the whole of tiny, int4 weights, bfloat16" in page and "Where the time of" in page and "tokens_per_s" in page
    )
    run = read_run(tmp_path / "run.jsonl")
    table = frame(run)
    assert set(table["status"]) == {"ok"} and len(table) == 2 * 6 + 2
    assert sorted(table["contender"].unique()) == ["blockskip", "llama.cpp", "sdpa"]
    theirs = table[table["contender"] == "llama.cpp"].sort_values("phase")
    assert theirs["tokens_per_s"].tolist() == pytest.approx([10 / 3e-3, 16 / 3e-3])
    assert set(theirs["flags"]) == {"unchecked"} and "end" in run.header and str(tmp_path) not in run.path.read_text()
    code, out, _ = skiplab(*words, "--llama-bench", "bench.jsonl")
    assert "run.jsonl is finished: measured again, into run-2.jsonl" in out
    assert len(read_run(run.path).rows) == len(read_run(run.path.with_name("run-2.jsonl")).rows) == 14
    code, out, err = skiplab("rerun", "run.jsonl", "--out", "again.jsonl")
    assert code == 0 and len(read_run(tmp_path / "again.jsonl").rows) == 12, err
    code, out, _ = skiplab("compare", "run.jsonl", "again.jsonl")
    assert code == 0 and "llama.cpp" in out and "prefill" in out


def test_llama_bench_itself_is_run_with_the_same_prompts_and_depths(skiplab, tmp_path):
    """A program that says what it was called with: its lines and its words."""
    program = tmp_path / "llama-bench"
    lines = "".join(f"echo '{line.strip()}'\n" for line in (bench(), bench(n_prompt=24)))
    steps = "".join(f"echo '{bench(**{**STEPS, 'n_depth': depth}).strip()}'\n" for depth in (0, 8))
    program.write_text(f'#!/bin/sh\necho "$@" >> said\nif [ "$8" = 0 ]; then\n{steps}else\n{lines}fi\n')
    program.chmod(0o755)
    words = ("model", "config.json", *WORDS, "--contender", "sdpa", "--device", "cpu", "--out", "run.jsonl")
    code, _, err = skiplab(*words, "--llama-bench", "./llama-bench", "--gguf", "tiny.gguf")
    assert code == 0, err
    first, second = (tmp_path / "said").read_text().splitlines()
    assert (
        first == "-m tiny.gguf -fa 1 -o jsonl -p 16,24 -n 0"
        and second == "-m tiny.gguf -fa 1 -o jsonl -p 0 -n 3 -d 0,8"
    )
    table = frame(read_run(tmp_path / "run.jsonl"))
    assert (table["contender"] == "llama.cpp").sum() == 4
    program.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    code, _, err = skiplab(*words, "--llama-bench", "./llama-bench", "--gguf", "tiny.gguf")
    assert (code, err) == (2, "skiplab: llama-bench: ended with 3: no such model\n")


def test_the_ladder_is_climbed_as_far_as_a_cpu_goes(skiplab, tmp_path):
    words = ("--prompt", "16", "--new", "1", "--depth", "0", "--budget", "0.01", "--device", "cpu", "--ladder")
    code, out, err = skiplab("model", "config.json", *words, "--out", "run.jsonl", "--report", "page.html")
    assert code == 0, err
    assert "ladder-2-mask, 1 points unsupported: skip by mask: of our Triton kernels, which need CUDA" in out
    table = frame(read_run(tmp_path / "run.jsonl"))
    prompts = table[table["phase"] == "prefill"].set_index("contender")["status"].to_dict()
    assert [name for name, status in prompts.items() if status == "ok"] == [
        "ladder-1-dense", "ladder-3-bounds", "ladder-7-joined", "blockskip",
    ]  # fmt: skip
    assert len(table) == 6 + 7  # what a rung does not change is not measured again
    page = (tmp_path / "page.html").read_text()
    assert "The ladder: a prompt of 16 tokens, tiny" in page and "each rung has a choice more" in page
    code, out, _ = skiplab("model", "config.json", *words, "--contender", "sdpa", "--out", "again.jsonl", "--seed", "1")
    assert code == 0 and "sdpa" in set(frame(read_run(tmp_path / "again.jsonl"))["contender"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("gpt",), "SPEC: got 'gpt'; allowed are gemma3-27b"),
        (("laptop", "--prompt", "256,x"), "--prompt: got 'x'; allowed are whole numbers with commas between"),
        (("laptop", "--rows", "17"), "--rows: got 17; allowed are 1 to 16"),
        (("laptop", "--new", "0"), "--new: given 0"),
        (("laptop", "--prompt", "0"), "--prompt: got 0; allowed are whole numbers of at least 1"),
        (("laptop", "--gguf", "a.gguf"), "--gguf: got a.gguf without --llama-bench"),
        (("laptop", "--llama-bench", "none.jsonl"), "none.jsonl: cannot be read as JSON lines"),
        (("laptop", "--bits", "3"), "bits: given 3"), (("laptop", "--device", "cuda:97"), "torch sees no cuda:97"),
    ],
)  # fmt: skip
def test_wrong_input_is_named_before_anything_is_measured(skiplab, tmp_path, words, message):
    code, _, err = skiplab("model", *words, "--out", "run.jsonl")
    assert code == 2 and message in err
    assert not (tmp_path / "run.jsonl").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (bench(gpu_info="NVIDIA H200", n_gpu_layers=99), "its times are of NVIDIA H200, the run's of"),
        (bench(cpu_info="Abacus"), "its times are of Abacus, the run's of"),
        (bench(model_n_params=7_000_000_000), "its model has 7,000,000,000 parameters; tiny has"),
        ("| model | size |\n", "bench.jsonl, line 1: is no JSON"), ("{}\n", "bench.jsonl, line 1: lacks n_prompt"),
    ],
    ids=["another GPU", "another CPU", "another model", "a table", "no line of it"],
)  # fmt: skip
def test_lines_of_something_else_are_refused(skiplab, tmp_path, line, message):
    Path("bench.jsonl").write_text(line)
    code, _, err = skiplab("model", "config.json", *WORDS, *TWO, "--out", "run.jsonl", "--llama-bench", "bench.jsonl")
    assert code == 2 and message in err and not (tmp_path / "run.jsonl").exists()


def test_steps_alone_and_prompts_alone(skiplab):
    """One of the two lists may be `none`, also in the command line that the run is made anew by; not both."""
    for words, phase in (
        (("--prompt", "none", "--depth", "8"), "decode"),
        (("--prompt", "16", "--depth", "none"), "prefill"),
    ):
        path = f"{phase}.jsonl"
        code, _, err = skiplab("model", "config.json", *words, *TWO[2:], "--contender", "sdpa", "--new", "2",
                               "--budget", "0.03", "--out", path)  # fmt: skip
        assert code == 0, err
        run = read_run(Path(path))
        assert [row["axes"]["phase"] for row in run.rows] == [phase]
        assert f"{words[0]} {words[1]}" in run.header["command"] and f"{words[2]} {words[3]}" in run.header["command"]
    code, _, err = skiplab("model", "config.json", "--prompt", "none", "--depth", "none", *TWO)
    assert code == 2 and "prompt, depth: got nothing on both" in err
