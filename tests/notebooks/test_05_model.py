"""05_model runs top to bottom without a GPU, says where its numbers are from, and shows a GPU's run if there is one."""

from __future__ import annotations

import json
import re

from model_runs import h200_run
from skiplab.measure.model import AWKWARD, TINY
from skiplab.store import RunWriter
from test_notebooks import FOLDER, executed, outputs, shown_text


def test_05_model_measures_here_and_says_that_nothing_is_recorded(tmp_path, monkeypatch):
    """A model of a thousandth of the laptop's weights stands for it; a depth and lengths are as they are."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({**TINY, **AWKWARD["two kinds"], "name": "tiny"}))
    given = {"MODEL": "gemma3-27b", "PROMPT": 1024, "WINDOW": 2048, "DRAFTS": 0, "ACCEPTANCE": 0.5}
    notebook = executed(
        FOLDER / "05_model.py", tmp_path, monkeypatch, **given, MACHINE="NVIDIA A100 80GB SXM (data sheet)",
        MEASURE="quick", MEASURED=str(config),
    )  # fmt: skip
    text = shown_text(notebook)
    assert "ModelExplorer: gemma3-27b, int4, groups of 32, window 2,048. A prompt of 1,024 tokens" in text
    assert "No run of gemma3-27b on NVIDIA A100 80GB SXM is stored" in text and "no run of steps of gemma3-27b" in text
    assert "predicted for NVIDIA A100 80GB SXM" in text and "measured on" in text
    (run,) = (tmp_path / "runs").glob("*-model-quick.jsonl")
    rows = [json.loads(line) for line in run.read_text().splitlines()][1:-1]
    assert len(rows) == 8 and {row["status"] for row in rows} == {"ok"}


def test_05_model_shows_the_runs_of_a_gpu_beside_predictions(tmp_path, monkeypatch):
    run = h200_run()
    (tmp_path / "runs").mkdir()
    with RunWriter(tmp_path / "runs" / "2026-12-01-nvidia-h200-model.jsonl", dict(run.header)) as writer:
        for row in run.rows:
            writer.append(row)
    given = {"MODEL": "gemma4-31b", "PROMPT": 2048, "WINDOW": None, "DRAFTS": 3, "ACCEPTANCE": 0.7}
    notebook = executed(
        FOLDER / "05_model.py", tmp_path, monkeypatch, **given, MACHINE="NVIDIA H200 (recorded)", MEASURE="no",
        MEASURED="laptop",
    )  # fmt: skip
    text = shown_text(notebook)
    assert "is stored" not in text
    assert re.search(r"at 70\\u00a0% of drafts right: (recorded on NVIDIA H200[^<]{1,5})?measured on NVIDIA H200", text)
    assert "Where the time of a prompt of 2k tokens goes" in text and "blockskip, measured" in text
    assert "published by ExecuTorch pull request 20571" in text and "llama.cpp, recorded" in text
    assert "\\u00b5s: recorded on NVIDIA H200" in text
    pictures = [output for output in outputs(notebook) if {"image/png", "image/jpeg"} & output.get("data", {}).keys()]
    assert len(pictures) >= 5  # explorer, parts, prompts, steps, panel
