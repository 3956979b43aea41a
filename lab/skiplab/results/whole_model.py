"""Gemma 4 31B whole on an H200: ours from the runs, llama.cpp's own program's record beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pandas as pd

from skiplab.paths import data_path
from skiplab.rated import rated
from skiplab.report.model import with_rows
from skiplab.store import Run, frame, query, read_runs, recorded_llama_bench
from skiplab.store.llama_bench import RECORDED

MODEL = "gemma4-31b"
RUNS = (f"*-nvidia-h200-*model-{MODEL}*",)
LLAMA = ["llama.cpp", "llama.cpp-cublas"]


def recorded_models(runs: Sequence[Run]) -> pd.DataFrame:
    """Prompts and steps, ours and llama.cpp's, a row each."""
    ours = query(rated(runs, RUNS), contender="blockskip")
    llama = query(frame(recorded_llama_bench()), model=MODEL, contender=LLAMA)
    theirs = {"file": data_path("benchmarks", RECORDED), "versions": "llama.cpp 0c1e57098"}
    return with_rows(ours, llama.assign(**theirs))


def whole_model() -> pd.DataFrame:
    """`recorded_models` of the runs in `data/runs`, as a table's source; steps_of_one: a step's time over one token's.

    llama.cpp's rows are not marked as unchecked: tables say that its own program timed them.
    """
    rows = recorded_models(read_runs())
    axes = zip(rows["phase"], rows["q_len"], rows["depth"], strict=True)
    ones = dict(query(rows, phase="decode", q_len=1, contender="blockskip")[["depth", "median_ms"]].to_numpy())
    return rows.assign(
        workload=[f"{phase} {tokens:.0f} {depth:.0f}" for phase, tokens, depth in axes],
        flags=rows["flags"].where(rows["contender"] == "blockskip", ""),
        tokens_a_step=rows["q_len"],
        tokens_before=rows["depth"],
        steps_of_one=[time / ones.get(depth, math.nan) for time, depth in rows[["median_ms", "depth"]].to_numpy()],
    )
