"""The notebooks run top to bottom as they are, show pictures and words, and are kept paired and without outputs."""

from __future__ import annotations

import ast
import json
import os
import re
import sys
from pathlib import Path

import jupytext
import pytest
from skiplab import share

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9]*.py"))
WITH_KERNELS = ("07_your_kernel", "08_anatomy")
"""Notebooks about a kernel that is written in a cell of theirs."""


def executed(script: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, **parameters: str):
    """The notebook after a run in `folder`; parameters replace those of its cell tagged so."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    notebook = jupytext.read(script)
    for cell in notebook.cells:
        if "parameters" in cell.metadata.get("tags", []):
            cell.source = "\n".join(f"{name} = {value!r}" for name, value in parameters.items()) or cell.source
    share.execute(notebook, folder, 300)
    return notebook


def outputs(notebook) -> list[dict]:
    return [output for cell in notebook.cells for output in cell.get("outputs", ())]


def shown_text(notebook) -> str:
    return json.dumps(outputs(notebook))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_code_fits_a_cell_beside_the_file_browser(script):
    cells = [cell for cell in jupytext.read(script).cells if cell.cell_type == "code"]
    assert not [line for cell in cells for line in cell.source.splitlines() if len(line) > 100]
    assert all(cell.source for cell in cells)


def test_01_tiles_shows_maps_and_the_explorer(tmp_path, monkeypatch):
    notebook = executed(FOLDER / "01_tiles.py", tmp_path, monkeypatch)
    pictures = [output for output in outputs(notebook) if {"image/png", "image/jpeg"} & output.get("data", {}).keys()]
    assert len(pictures) >= 4  # the explorer, the waste, two maps
    assert "MaskExplorer: sliding_window(512)" in shown_text(notebook)
    assert "tiles visited" in shown_text(notebook)


@pytest.mark.parametrize("measure", ["quick", "no"])
def test_02_prefill_labels_what_it_shows(tmp_path, monkeypatch, measure):
    notebook = executed(FOLDER / "02_prefill.py", tmp_path, monkeypatch, MEASURE=measure)
    text = shown_text(notebook)
    assert "published by ExecuTorch PR 20198" in text
    assert "predicted for NVIDIA H200 and NVIDIA A100 80GB SXM" in text
    assert "recorded on NVIDIA H100 80GB HBM3" in text  # figures, whose menus need no kernel
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs(notebook)]
    assert sum("Recorded on NVIDIA H100 80GB HBM3, median" in page for page in pages) == 4  # tables
    runs = list((tmp_path / "runs").glob("*.jsonl"))
    assert len(runs) == (1 if measure == "quick" else 0)
    assert measure == "no" or "measured on" in text


@pytest.mark.parametrize("measure", ["quick", "no"])
def test_03_decode_labels_what_it_shows_and_its_softmax_is_right(tmp_path, monkeypatch, measure):
    notebook = executed(FOLDER / "03_decode.py", tmp_path, monkeypatch, MEASURE=measure)
    text = shown_text(notebook)
    assert "predicted for NVIDIA H200" in text and "predicted for NVIDIA A100 80GB SXM" in text
    assert "published by ExecuTorch pull request 20198" in text
    assert "SplitExplorer: blockskip, 2,048 keys in 131,072 slots: 8 splits" in text
    tables = [output["data"]["text/html"] for output in outputs(notebook) if "text/html" in output.get("data", {})]
    (softmax,) = (table for table in tables if "bs.decode" in table)
    cells = [re.sub(r"<[^>]*>", "", cell).strip() for cell in re.findall(r"<td.*?</td>", softmax, re.DOTALL)]
    right, constant, ours = (cells[column::5] for column in (1, 2, 3))
    assert constant[1:] == ["nan", "0.00", "0.00"]  # loud, and silent zeros
    assert ours == right and constant[0] == right[0] and not {"nan", "0.00"} & {*right}
    runs = list((tmp_path / "runs").glob("*.jsonl"))
    assert len(runs) == (1 if measure == "quick" else 0)
    assert measure == "no" or "measured on" in text


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_pair_is_in_step_and_holds_no_outputs(script):
    paired = jupytext.read(script.with_suffix(".ipynb"))
    fresh = jupytext.read(script)
    assert [cell.source for cell in paired.cells] == [cell.source for cell in fresh.cells], (
        f"jupytext --sync {script.name}"
    )
    assert not outputs(paired)
    assert all(cell.get("execution_count") is None for cell in paired.cells)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebooks_are_prose_and_few_calls(script):
    notebook = jupytext.read(script)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    prose = [cell for cell in notebook.cells if cell.cell_type == "markdown"]
    assert len(prose) >= len(code) / 2
    for cell in () if script.stem in WITH_KERNELS else code:
        tree = ast.parse(cell.source)
        assert not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in ast.walk(tree))
