"""04_int4 runs top to bottom without a GPU, says where its numbers are from, and its counts are the package's."""

from __future__ import annotations

import pytest
from test_notebooks import FOLDER, executed, outputs, shown_text


@pytest.mark.parametrize("measure", ["quick", "no"])
def test_04_int4_labels_what_it_shows(tmp_path, monkeypatch, measure):
    notebook = executed(FOLDER / "04_int4.py", tmp_path, monkeypatch, MEASURE=measure)
    text = shown_text(notebook)
    for source in ("predicted for NVIDIA H200", "published", "ExecuTorch pull request 20198", "quantised here"):
        assert source in text
    assert "Int4Explorer: int4, groups of 32, asymmetric" in text
    assert "sm_90, metadata strided" in text and "4.625 bits a weight" in text
    pictures = [output for output in outputs(notebook) if {"image/png", "image/jpeg"} & output.get("data", {}).keys()]
    runs = list((tmp_path / "runs").glob("*.jsonl"))
    assert len(runs) == (1 if measure == "quick" else 0)
    assert len(pictures) >= (4 if measure == "quick" else 3)  # explorer, error, measured points, panel
    assert measure == "no" or "measured on" in text
