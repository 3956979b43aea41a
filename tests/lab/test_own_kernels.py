"""A kernel of one's own: from a cell, a script, a file or a module to the child process, the row, and `rerun`."""

from __future__ import annotations

import json
import linecache
import os
import shlex
import subprocess
import sys
import types

import pytest
import skiplab
import torch
from skiplab.compare import compare
from skiplab.contenders import contender
from skiplab.contenders.extracting import Unextractable, standalone
from skiplab.contenders.source import KernelSource, load_kernels, load_source, source_of
from skiplab.measure import Child, Point
from skiplab.measure.failure import failure
from skiplab.sweep import Sweep, repeated, row_key, run_sweep
from skiplab.tuning.own import KernelTuning
from skiplab.workload import Workload

SMALL = Workload(32, q_heads=2, kv_heads=1, head_dim=16)
AXES = {"q_len": (32,), "window": (8,), "q_heads": 2, "kv_heads": 1, "head_dim": 16, "budget_s": 0.05}
FILE = """
import torch
import skiplab
from helper_of_a_test import attend

@skiplab.kernel("attention", name="of a file", configs={"BLOCK": (16, 32), "WARPS": (4,)})
def build(workload, inputs, config):
    mask = workload.mask.dense(workload.q_len, workload.keys)
    return lambda q, k, v: attend(q, k, v, mask)
"""
HELPER = """
import torch
def attend(q, k, v, mask):
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)
"""
CELL = """
import torch
import torch.nn.functional as F
from collections import deque as line
import skiplab

SCALE, WORDS = 1.0, {"a": (1, None)}
LIMIT = float("inf")
KIND = torch.float32
big = torch.zeros(3)

class Kept:
    def it(self):
        return SCALE

def attend(q, k, v, mask):
    big = 2
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True) * Kept().it()

def supports(workload):
    return workload.head_dim <= len(line([1])) * 64 and WORDS["a"][0] < LIMIT

@skiplab.kernel("attention", name="of a cell", supports=supports)
def build(workload, inputs):
    assert KIND == torch.float32
    return lambda q, k, v: attend(q, k, v, workload.mask.dense(workload.q_len, workload.keys))
"""


@pytest.fixture
def main(monkeypatch, own_registry):
    """main(text) -> the main module after a cell with that text, as a notebook has it."""

    def run(text, name="/tmp/ipykernel_1/1.py"):
        module = sys.modules["__main__"]
        if not getattr(module, "of_a_test", False):
            module = types.ModuleType("__main__")
            module.of_a_test = True
            monkeypatch.setitem(sys.modules, "__main__", module)
        monkeypatch.setitem(linecache.cache, name, (len(text), None, text.splitlines(keepends=True), name))
        exec(compile(text, name, "exec"), vars(module))
        return module

    return run


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "helper_of_a_test.py").write_text(HELPER)
    return tmp_path


def test_a_cells_kernel_is_written_with_all_that_it_names(main):
    main(CELL)
    text = standalone(contender("of a cell").user)
    assert "import torch.nn.functional as F" in text or "from torch.nn import functional as F" in text
    assert "from collections import deque as line" in text
    assert "big = torch" not in text  # a variable of the function's own
    fresh = {"__name__": "elsewhere"}
    exec(compile(text, "elsewhere.py", "exec"), fresh)
    assert fresh["SCALE"] == 1.0 and fresh["LIMIT"] == float("inf") and fresh["KIND"] == torch.float32


def test_it_reaches_the_child_by_its_source_and_the_row_has_its_hash(main, tmp_path, warm_children):
    main(CELL)
    run = run_sweep(Sweep(("of a cell",), **AXES), tmp_path / "run.jsonl", progress=False)
    (row,) = run.rows
    source = source_of(contender("of a cell"))
    assert row["status"] == "ok" and row["kernel_hash"] == source.hash and row["key"].endswith(source.hash)
    kept = tmp_path / "kernels" / f"of-a-cell-{source.hash}.py"
    assert kept.read_text() == source.text
    assert run.header["kernels"] == {"of a cell": {"hash": source.hash, "from": kept.name}}
    assert run.header["command"].endswith(f"--from {kept.name}")


def test_a_mended_cell_is_another_point_and_compare_says_so(main, tmp_path):
    def measured(text, name):
        main(text, name)
        run_sweep(Sweep(("of a cell",), **AXES), tmp_path / name[-4:], progress=False, isolate=False)
        return skiplab.read_run(tmp_path / name[-4:]), row_key(Point(SMALL, "of a cell"))

    old, first = measured(CELL.replace("Kept().it()", "2"), "/tmp/ipykernel_1/1.py")
    new, second = measured(CELL, "/tmp/ipykernel_1/2.py")
    assert old.rows[0]["status"] == "wrong" and new.rows[0]["status"] == "ok"
    assert first != second
    hashes = tuple(run.rows[0]["kernel_hash"] for run in (old, new))
    assert compare(old, new).differences["kernel of a cell"] == hashes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("KIND = big", "KIND is Tensor, which no text makes"),
        ("attend = lambda *given: None", "attend is another name of"),
    ],
)
def test_what_no_file_can_hold_is_named(main, change, message):
    main(f"{CELL}\n{change}\n")
    with pytest.raises(Unextractable, match=message):
        standalone(contender("of a cell").user)
    assert source_of(contender("of a cell")) is None


TRITON = """
import skiplab
import triton
import triton.language as tl

SIZE = tl.constexpr(16)

@triton.jit
def plus(x):
    return x + SIZE

@triton.jit
def copied(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + at, plus(tl.load(x + at, mask=at < n)), mask=at < n)

@skiplab.kernel("attention", name="of triton")
def build(workload, inputs):
    def call(q, k, v):
        copied[(1,)](q, q, q.numel(), BLOCK=64)
        return q
    return call
"""


def test_triton_kernels_of_a_cell_are_part_of_it(main):
    main(TRITON)
    text = standalone(contender("of triton").user)
    assert "@triton.jit\ndef copied(" in text and "@triton.jit\ndef plus(" in text
    assert text.index("def plus") < text.index("def copied") < text.index("def build")
    load_source(KernelSource("of triton", text))
    assert contender("of triton").module != "__main__"


SCRIPT = f"""
import skiplab
import torch

@skiplab.kernel("attention", name="of a script")
def build(workload, inputs):
    mask = workload.mask.dense(workload.q_len, workload.keys)
    return lambda q, k, v: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=True)

skiplab.sweep(["of a script"], path="run.jsonl", progress=False, device="cpu", **{AXES!r})
"""


def test_a_plain_script_without_a_main_guard_works_and_its_command_too(tmp_path, warm_python):
    (tmp_path / "script.py").write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("TRITON_INTERPRET", None)

    def done(*command):
        made = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
        assert made.returncode == 0, made.stderr[-2000:]
        return made.stdout

    done(sys.executable, "script.py")
    first = skiplab.read_run(tmp_path / "run.jsonl")
    assert [row["status"] for row in first.rows] == ["ok"]
    command = shlex.split(first.header["command"])
    done(sys.executable, "-m", "skiplab.cli", *command[1:], "--run", "again.jsonl")
    second = skiplab.read_run(tmp_path / "again.jsonl")
    assert second.rows[0]["status"] == "ok"
    assert second.rows[0]["kernel_hash"] == first.rows[0]["kernel_hash"]


def test_a_file_that_measures_while_it_is_read_is_told_the_missing_line(tmp_path, own_registry):
    (tmp_path / "script.py").write_text(SCRIPT)
    with pytest.raises(ValueError, match=r'this line is missing: if __name__ == "__main__":'):
        load_kernels(str(tmp_path / "script.py"))


def test_a_files_kernel_with_what_lies_beside_it(folder, own_registry, warm_children):
    load_kernels("mine.py")
    source = source_of(contender("of a file"))
    assert source.text == FILE and source.origin(folder) == "mine.py"
    with Child() as child:
        point = Point(SMALL, "of a file", (32, 4))
        taken = child.measure(point, budget_s=0.05)
        assert taken.status == "ok", taken.error_text
        assert taken.plan["BLOCK"] == 32
    (folder / "mine.py").write_text(FILE + "# changed\n")
    load_kernels("mine.py")
    assert source_of(contender("of a file")).hash != source.hash


def test_a_module_is_imported_by_its_name(folder, own_registry, monkeypatch):
    monkeypatch.syspath_prepend(folder)
    (folder / "module_of_a_test.py").write_text(FILE)
    load_kernels("module_of_a_test")
    source = source_of(contender("of a file"))
    assert source.origin(folder) == "module_of_a_test"
    for origin in ("no_such_module", "gone.py"):
        with pytest.raises(ValueError, match=r"--from: .*there is no"):
            load_kernels(origin)


def test_rerun_says_which_file_it_needs(folder, own_registry):
    load_kernels("mine.py")
    run = run_sweep(Sweep(("of a file",), **AXES), folder / "run.jsonl", progress=False, isolate=False)
    text = (folder / "run.jsonl").read_text()
    held = json.loads(text.splitlines()[0])["kernels"]["of a file"]
    again = skiplab.rerun(run, path=folder / "again.jsonl", progress=False, isolate=False)
    assert again.rows[0]["kernel_hash"] == run.rows[0]["kernel_hash"]
    (folder / "unknown.jsonl").write_text(text.replace("of a file", "of another file"))
    with pytest.raises(
        ValueError, match=f"needs the kernel 'of another file', source {held['hash']}: add --from mine.py"
    ):
        repeated(skiplab.read_run(folder / "unknown.jsonl"))


@pytest.mark.parametrize(
    ("configs", "error", "message"),
    [
        ({"BLOCK": ()}, ValueError, "configs: BLOCK is"),
        ({"BLOCK": (True,)}, ValueError, "allowed are whole numbers"),
        ([64], TypeError, "configs: given"),
    ],
)
def test_wrong_configs_are_named(configs, error, message):
    with pytest.raises(error, match=message):
        skiplab.kernel(name="mine", configs=configs)


def test_every_config_is_tuned_and_the_best_is_a_dict(folder, own_registry):
    (folder / "mine.py").write_text(FILE.replace("BLOCK\": (16, 32)", "BLOCK\": (16, 32, 64)").replace(
        "    return lambda", "    import time\n    if config['BLOCK'] == 16:\n        mask = ~mask\n"
        "    wait = time.sleep if config['BLOCK'] == 32 else (lambda seconds: None)\n    return lambda").replace(
        "attend(q", "wait(0.002) or attend(q"))  # fmt: skip
    load_kernels("mine.py")
    done = skiplab.tune("of a file", path="run.jsonl", progress=False, isolate=False, **AXES)
    assert done.best == {"BLOCK": 64, "WARPS": 4}
    assert list(done.scores) == [(64, 4), (32, 4)]
    assert "BLOCK=16 WARPS=4 is wrong" in done.problems[0] and done.problems[0] in str(done)
    assert [row["config"] for row in done.run.rows] == [[16, 4], [32, 4], [64, 4]]
    assert done.run.header["command"].startswith("skiplab tune kernel 'of a file'")
    with pytest.raises(ValueError, match="is a tuning run; its own command repeats it: skiplab tune kernel"):
        repeated(done.run)
    assert list(done.table().columns) == ["BLOCK", "WARPS", "times the fastest", "median ms, 32 tokens, window 8"]
    assert "times the fastest: the geometric mean" in str(done) and "attention sliding" not in str(done)
    some = skiplab.tune("of a file", configs=[{"WARPS": 4, "BLOCK": 32}], path="some.jsonl", progress=False,
                        isolate=False, **AXES)  # fmt: skip
    assert some.best == {"BLOCK": 32, "WARPS": 4}


@pytest.mark.parametrize(("axes", "heads"), [
    ({"q_len": (32, 48)}, ["32 tokens", "48 tokens"]),
    ({"window": (8, None)}, ["window 8", "causal"]),
    ({"mask": ("causal()", "sink(2)")}, ["causal", "sink(2)"]),
])  # fmt: skip
def test_heads_of_its_table_say_where_the_workloads_differ(folder, own_registry, axes, heads):
    load_kernels("mine.py")
    others = {name: value for name, value in AXES.items() if name != "window" or "mask" not in axes}
    done = skiplab.tune("of a file", path="run.jsonl", progress=False, isolate=False, **{**others, **axes})
    assert list(done.table().columns)[3:] == [f"median ms, {head}" for head in heads]
    assert done.caption.startswith("Attention, ")


def test_several_devices_tune_and_a_workload_stays_on_one(folder, own_registry, warm_children):
    load_kernels("mine.py")
    axes = {**AXES, "q_len": (32, 48)}
    done = skiplab.tune("of a file", devices=("cpu", "cpu"), path="run.jsonl", progress=False, **axes)
    assert {row["status"] for row in done.run.rows} == {"ok"} and len(done.run.rows) == 4
    assert len(done.scores) == 2
    with pytest.raises(ValueError, match="devices: got cpu,cpu beside device cpu; give one of them"):
        skiplab.tune("of a file", device="cpu", devices=("cpu", "cpu"), **axes)


NEEDS_GPU = """
import sys
import skiplab
from torch.nn.functional import scaled_dot_product_attention as sdpa

@skiplab.kernel("attention", name="of Triton")
def build(workload, inputs):
    if not sys.argv[0].endswith("interpreted.py"):
        raise RuntimeError("0 active drivers ([]). There should only be one.")
    mask = workload.mask.dense(workload.q_len, workload.keys, q_start=workload.first_position)
    return lambda q, k, v: sdpa(q, k, v, attn_mask=mask, enable_gqa=True)FIX
"""


@pytest.mark.usefixtures("warm_python")
def test_a_triton_kernel_is_checked_in_the_interpreter_where_there_is_no_gpu(folder, own_registry):
    (folder / "t.py").write_text(NEEDS_GPU.replace("FIX", " * 2"))
    load_kernels("t.py")
    found = skiplab.check("of Triton", device="cpu")
    assert not found.passed and "in Triton's interpreter" in str(found).splitlines()[0]
    assert {row.workload.dtype for row in found.rows} == {"float32"} and "wrong: attention" in str(found)
    (folder / "t.py").write_text(NEEDS_GPU.replace("FIX", ""))
    load_kernels("t.py")
    assert skiplab.check("of Triton", device="cpu", dtypes=["float32"]).passed
    with pytest.raises(ValueError, match="dtypes: got bfloat16; without a GPU a Triton kernel runs in Triton's"):
        skiplab.check("of Triton", device="cpu", dtypes=["bfloat16"])
    said = failure(RuntimeError("0 active drivers ([]). There should only be one."))
    assert (said.status, said.text) == ("unsupported", "its Triton kernel needs a GPU, and torch sees none here")
    said = failure(AssertionError("Torch not compiled with CUDA enabled"))
    assert said.status == "unsupported" and said.text.startswith(
        "it asks torch for a GPU, and there is none here: Torch"
    )


def test_what_cannot_be_tuned_is_said(folder, own_registry):
    load_kernels("mine.py")
    for given, message in (
        ({"kernel": "sdpa"}, "is the lab's own"),
        ({"kernel": "of a file", "configs": ((1,),)}, "takes 2 numbers: BLOCK, WARPS"),
        ({"kernel": "of a file", "at": {"depth": 3}}, "at: got depth"),
    ):
        with pytest.raises(ValueError, match=message):
            KernelTuning(**given)
    skiplab.kernel(name="plain")(lambda workload, inputs: None)
    with pytest.raises(ValueError, match="has nothing to choose from; give @skiplab"):
        skiplab.tune("plain")
