"""06_claims runs top to bottom without a GPU, and says of each claim what it was judged by."""

from __future__ import annotations

import json

import pytest
from skiplab.measure.model import AWKWARD, TINY
from test_notebooks import FOLDER, executed, outputs, shown_text


@pytest.mark.parametrize("measure", ["quick", "no"])
def test_06_claims_labels_what_it_shows(tmp_path, monkeypatch, measure):
    config = tmp_path / "config.json"  # without a GPU a model of a thousandth of the laptop's weights stands for it
    config.write_text(json.dumps({**TINY, **AWKWARD["two kinds"], "name": "tiny"}))
    notebook = executed(FOLDER / "06_claims.py", tmp_path, monkeypatch, MEASURE=measure, MEASURED=str(config))
    text = shown_text(notebook)
    for source in (
        "predicted for NVIDIA H200",
        "published by ExecuTorch pull request 20198",
        "recorded on NVIDIA H100",
    ):
        assert source in text
    for verdict in ("confirmed", "beaten", "not reproduced", "not measurable here"):
        assert verdict in text
    pages = ["".join(output.get("data", {}).get("text/html", "")) for output in outputs(notebook)]
    assert (
        sum("claims: " in page for page in pages) == 4
        and sum("The ladder of gemma4-31b" in page for page in pages) == 2
    )
    runs = list((tmp_path / "runs").glob("*.jsonl"))
    assert len(runs) == (1 if measure == "quick" else 0)
    if measure == "quick":
        assert "measured on" in text and "of our Triton kernels, which need CUDA" in text
