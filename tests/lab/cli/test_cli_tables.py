"""Results as files: --table writes CSV and Markdown, of every measuring command, of stored runs, and of comparisons."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
from commands import SWEEP
from skiplab.store import COLUMNS, read_run

SMALL = ["--device", "cpu", "--budget", "0.05"]
COMMANDS = {
    "sweep": SWEEP,
    "decode": ["decode", "--contender", "blockskip,sdpa", "--kv-len", "64,96", "--window", "causal", "--q-heads", "2",
               "--kv-heads", "1", "--head-dim", "16", *SMALL],
    "linear": ["linear", "--contender", "blockskip,bf16", "--shape", "64x64", "--rows", "1,2", *SMALL],
}  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_a_measurement_is_written_as_csv_and_markdown(skiplab, command):
    code, out, err = skiplab(*COMMANDS[command], "--run", "run.jsonl", "--table", "made/t.csv,made/t.md")
    assert code == 0, err
    assert "table: made/t.csv" in out and "table: made/t.md" in out
    held, numbers = read_run(Path("run.jsonl")).frame(), pd.read_csv("made/t.csv")
    assert tuple(numbers.columns) == COLUMNS and len(numbers) == len(held) == 4
    assert numbers["median_ms"].tolist() == pytest.approx(held["median_ms"].tolist(), rel=1e-12)
    lines = Path("made/t.md").read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("measured on ") and lines[2].startswith("| ") and "4 ok" in lines[-1]
    printed = [line for line in out.splitlines() if line.strip().startswith(lines[4].split("|")[1].strip())]
    assert any(all(cell.strip() in line for cell in lines[4].split("|")) for line in printed)


def test_a_stored_run_and_a_comparison_are_written_too(skiplab):
    skiplab(*SWEEP, "--run", "a.jsonl")
    Path("b.jsonl").write_bytes(Path("a.jsonl").read_bytes())
    skiplab("report", "a.jsonl", "--table", "a.csv")
    assert len(pd.read_csv("a.csv")) == 4
    _, out, _ = skiplab("compare", "a.jsonl", "b.jsonl", "--table", "c.csv", "--table", "c.md")
    assert "table: c.csv" in out
    with open("c.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    medians = read_run(Path("a.jsonl")).frame()["median_ms"].tolist()
    assert [float(row["new_ms"]) for row in rows] == pytest.approx(medians)
    assert {row["ratio"] for row in rows} == {"1.0"}
    text = Path("c.md").read_text(encoding="utf-8")
    assert "compared with" in text and "| contender |" in text and "4 points ok in both" in text
    _, out, _ = skiplab("compare", "a.jsonl", "b.jsonl", "--json", "--table", "d.csv")
    assert out.startswith("{") and out.rstrip().endswith("}") and Path("d.csv").is_file()


@pytest.mark.parametrize("command", [SWEEP, ["compare", "a", "b"], ["report", "a"], ["model", "laptop"]])
def test_another_suffix_is_refused_before_anything_is_measured(skiplab, command):
    code, out, err = skiplab(*command, "--table", "results.xlsx")
    assert (code, out) == (2, "")
    assert err == "skiplab: --table: got results.xlsx; allowed are names that end in .csv or .md\n"
