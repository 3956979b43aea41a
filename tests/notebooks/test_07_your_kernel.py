"""07_your_kernel runs top to bottom without a GPU: wrong, mended, swept, tuned, compared, reported."""

from __future__ import annotations

import re

import skiplab
from test_notebooks import FOLDER, executed, outputs


def test_07_your_kernel_is_found_wrong_mended_and_repeatable(tmp_path, monkeypatch):
    notebook = executed(FOLDER / "07_your_kernel.py", tmp_path, monkeypatch)
    printed = ["".join(output["text"]) for output in outputs(notebook) if output.get("name") == "stdout"]
    wrong, mended = (text for text in printed if text.startswith("mine on cpu"))
    assert "10 wrong" in wrong and mended.strip() == "mine on cpu: 24 ok"
    first, second = (skiplab.read_run(tmp_path / "runs" / f"your-kernel{name}.jsonl") for name in ("", "-changed"))
    hashes = [{row["kernel_hash"] for row in run.rows if row["contender"] == "mine"} for run in (first, second)]
    assert all(len(one) == 1 for one in hashes) and hashes[0] != hashes[1]
    assert {row["status"] for run in (first, second) for row in run.rows} == {"ok"}
    kept = tmp_path / "runs" / "kernels" / f"mine-{hashes[0].pop()}.py"
    assert "def visible_keys(" in kept.read_text() and "@skiplab.kernel" in kept.read_text()
    (command,) = (text for text in printed if text.startswith("skiplab sweep"))
    assert command.strip().endswith(f"--from runs/kernels/{kept.name}")
    assert re.search(r"kernel mine': \('\w{12}', '\w{12}'\)", "".join(printed))
    assert (tmp_path / "out" / "your-kernel.html").stat().st_size > 100_000
