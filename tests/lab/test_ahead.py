"""The README's sentence of who is ahead says what the recorded runs hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from skiplab.results.ahead import FLASH_AHEAD, first_of_all
from skiplab.store import Run, read_runs

README = Path(__file__).resolve().parents[2] / "README.md"
FIRST = "Where others are ahead is in [TARGETS.md](data/TARGETS.md), with the reason where it is known."


@pytest.mark.parametrize(("points", "length"), [
    ([], None),
    ([(512, 0.9)], 512),
    ([(512, 1.1), (2048, 0.9), (8192, 0.8)], 2048),
    ([(512, 0.9), (2048, 1.0), (8192, 0.8)], 8192),
    ([(2048, 0.9), (2048, 1.2), (8192, 0.8)], 8192),
    ([(512, 0.9), (8192, 1.1)], None),
])  # fmt: skip
def test_ahead_from_a_length_on_is_ahead_at_every_point_beyond(points, length):
    assert first_of_all(points) == length


def run(name: str, *rows: tuple[str, int, float]) -> Run:
    """A run of causal prompts on an H200: contender, length, milliseconds."""
    axes = {"operation": "attention", "kv_len": 1, "batch": 1, "mask": "causal()", "q_heads": 32, "kv_heads": 8,
            "head_dim": 128, "dtype": "bfloat16"}  # fmt: skip
    header = {"run_id": name, "operation": "attention", "start": "2026-12-01T00:00:00+00:00", "source": "recorded",
              "device": {"name": "NVIDIA H200", "kind": "cuda"}}  # fmt: skip
    made = [
        {"point": f"{who} | {length} | cuda", "status": "ok", "contender": who, "label": who, "method": "graph",
         "axes": {**axes, "q_len": length, "kv_len": length}, "samples_ns": [int(ms * 1e6)] * 3, "flags": []}
        for who, length, ms in rows
    ]  # fmt: skip
    return Run(header, made, path=Path(f"data/runs/2026-12-01-nvidia-h200-{name}.jsonl"))


def test_a_point_is_held_against_ours_of_the_same_run_alone():
    both = run("both", ("blockskip", 1024, 1.0), ("fa4", 1024, 1.1), ("blockskip", 4096, 10.0), ("fa4", 4096, 9.0))
    alone = run("alone", ("blockskip", 4096, 8.0))
    said = FLASH_AHEAD.markdown([both, alone], README)
    assert said.startswith(FIRST) and "takes 10 % less time" in said and "4,096 tokens and more." in said
    assert FLASH_AHEAD.markdown([alone], README) == FLASH_AHEAD.markdown([], README) == FIRST


def test_the_sentence_of_the_page_is_that_of_what_is_shipped():
    assert FLASH_AHEAD.markdown(read_runs(), README) in README.read_text(encoding="utf-8")
