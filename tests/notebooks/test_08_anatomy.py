"""08_anatomy runs top to bottom without a GPU: machine code beside its lines, explorers, and what needs a GPU."""

from __future__ import annotations

import sys

import pytest
import torch
from test_notebooks import FOLDER, executed, outputs, shown_text


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux alone")
def test_08_anatomy_shows_the_inner_loop_and_the_replay(tmp_path, monkeypatch):
    notebook = executed(FOLDER / "08_anatomy.py", tmp_path, monkeypatch)
    text = shown_text(notebook)
    assert "total for sm_90:" in text and "acc += tl.load(x + i + tl.arange(0, BLOCK))" in text
    assert "AnatomyExplorer: prefill 64x64x4x3 sm_90" in text
    assert "ReplayExplorer: blockskip. Program" in text and "Loaded: k rows" in text
    pictures = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(pictures) >= 3
    assert torch.cuda.is_available() or ("Recorded on an H200" in text and "torch sees none here" in text)
