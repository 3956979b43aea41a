"""The table of operations: a fifth one is an entry and a file in each package that plays a role, nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import skiplab
from skiplab.operations import OPERATIONS, operation_of, workload_of

TOY = Path(__file__).with_name("toy")
ROLES = sorted(path.relative_to(TOY).with_suffix("").as_posix() for path in TOY.rglob("*.py"))

USED = """
import sys
import skiplab
from contextlib import redirect_stdout
from io import StringIO
from skiplab import cli, compare, figures, report, store
from skiplab.machine import known_gpus
from skiplab.operations import OPERATIONS, workload_of
from skiplab.workload.toy import ToyWorkload
from skiplab.sweep import SWEEPS, sweep_of
from skiplab.widgets import SweepPanel

assert list(OPERATIONS) == ["attention", "decode", "linear", "model", "toy"]
sys.argv = "skiplab toy --width 262144,524288 --budget 0.05 --run run.jsonl".split()
with redirect_stdout(StringIO()) as said:
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
assert "in brackets times faster than adding" in said.getvalue()
run = skiplab.read_run("run.jsonl")
table = run.frame()
assert table["width"].tolist() == [2.0**18, 2.0**18, 2.0**19, 2.0**19] and set(table["manner"]) == {"plain"}
assert table["numbers"].equals(table["width"].rename("numbers")) and (table["tokens_per_s"] > 0).all()
assert set(table["status"]) == {"ok"} and table["out_features"].isna().all()
assert tuple(table.columns) == store.COLUMNS and store.COLUMNS.index("width") > store.COLUMNS.index("symmetric")
assert "Time of a doubling" in run.plot().layout.title.text and "<th>numbers</th>" in run._repr_html_()
assert sweep_of("toy", run.header["parameters"]).command().startswith("skiplab toy --contender blockskip")
assert workload_of(run.rows[0]["axes"]).width == 2**18
assert len(compare.compare(run, run).pairs) == 4
least = figures.predictions([ToyWorkload(2**20, dtype="float32")], known_gpus()["NVIDIA H200"])
assert least["label"].tolist() == ["at the roofs"] and least["tokens_per_s"].notna().all()
assert abs(least["median_ms"].item() - 2 * 4 * 2**20 / 4.8e9) < 1e-9 and least["numbers"].item() == 2**20
times = report.time_table(table)
assert list(times.columns) == ["numbers", "rows", "doubling", "adding"] and "×)" in times["doubling"][0]
assert report.title(run) == "Skiplab: doubled numbers, float32"
assert not skiplab.check("wrong", "cpu", operation="toy").passed
assert skiplab.check("twice", "cpu", operation="toy").passed
panel = SweepPanel(operation="toy", directory="panel")
assert panel.sweep().width == (64,)
old = next(path for path in store.data_path("runs").glob("*linear*.jsonl"))
assert store.read_run(old).frame()["width"].isna().all()
"""


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory, warm):
    """A copy of the lab with the toy in it: `skiplab` run there, in a folder of its own."""
    folder = tmp_path_factory.mktemp("toy")
    source, copy = Path(skiplab.__file__).parent, folder / "lab" / "skiplab"
    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "data").symlink_to(source.parents[1] / "data")
    for role in ROLES:
        shutil.copyfile(TOY / f"{role}.py", copy / role / "toy.py")
    table = copy / "operations" / "__init__.py"
    text, entries = table.read_text(), 0
    for old, new in (
        ("import attention, decode, linear, model", ", toy"),
        ("linear.OPERATION, model.OPERATION", ", toy.OPERATION"),
    ):
        entries += text.count(old)
        text = text.replace(old, old + new)
    assert entries == 2
    table.write_text(text)
    (folder / "work").mkdir()
    kernels = Path(sys.modules["blockskip"].__file__).parents[1]
    environment = {**os.environ, **warm, "PYTHONPATH": os.pathsep.join([str(copy.parent), str(kernels)])}
    python = warm.get("SKIPLAB_TESTS_PYTHON", sys.executable)

    def run(*words: str) -> str:
        done = subprocess.run(
            [python, *words], cwd=folder / "work", env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stdout + done.stderr[-3000:]
        return done.stdout

    return run


def test_a_fifth_operation_is_an_entry_and_a_file_for_each_role(laboratory):
    laboratory("-c", USED)


def test_every_role_has_a_file_for_each_operation():
    root = Path(skiplab.__file__).parent
    for role in ROLES:
        assert {path.stem for path in (root / role).glob("*.py")} >= set(OPERATIONS), role


def test_an_unknown_operation_is_refused_by_name():
    for call in (lambda: operation_of("sort"), lambda: workload_of({"operation": "sort"})):
        with pytest.raises(ValueError, match="operation: got 'sort'; allowed are attention, decode, linear, model"):
            call()


@pytest.mark.parametrize("one", OPERATIONS.values(), ids=lambda one: one.name)
def test_an_entry_agrees_with_its_workload(one):
    for problem in one.examples:
        axes = problem.axes()
        assert axes["operation"] == one.name and one.workload.from_axes(axes).key() == problem.key()
        assert {*one.varying, *one.tokens, *one.filed} <= axes.keys()
        assert set(axes) - {"operation"} <= set(one.axes.__struct_fields__)
        assert set(one.columns) <= set(one.axes.__struct_fields__)
        assert set(one.varying) - set(one.defaults) <= one.phrases.keys()
