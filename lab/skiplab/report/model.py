"""The figures of a report on a whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skiplab import figures, thin
from skiplab.contenders.ladder import LADDER
from skiplab.ladder import calls, known, ladder
from skiplab.store import frame, published, query, recorded_llama_bench

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go


def figures_of(table: pd.DataFrame, axes: list[str]) -> list[tuple[go.Figure, str]]:
    """Each figure and the text under it; beside the run what is published and recorded of the same models."""
    axes = [name for name in axes if name not in ("phase", "mask")]
    prompts, steps = (thin.lines(query(table, phase=phase), x, axes) for phase, x in PHASES.items())
    others = peers_of(table)
    beside = " Beside it what others published, and what was recorded elsewhere, of the same model." * bool(len(others))
    rates = "Tokens a second; in grey what the machine's roofs allow with packed weights."
    apart = "Where one call's time goes, by the names that the decoder gives its parts; choose the call."
    return [
        (figures.model_prefill(with_rows(prompts.table, others)), f"Prompts. {rates}{beside} {prompts.left_out}"),
        (figures.model_decode(with_rows(steps.table, others)),
         f"Steps behind a prompt. {rates} A step of several tokens verifies drafts.{beside} {steps.left_out}"),
        (figures.model_parts(table), apart),
        *_climbed(table),
    ]  # fmt: skip


def _climbed(table: pd.DataFrame) -> list[tuple[go.Figure, str]]:
    """The ladder, of a run that has some of its rungs."""
    if not set(table["contender"]) & set(LADDER[:-1]):
        return []
    words = "The ladder: each rung has a choice more than the one before. Beside it what is published and predicted."
    return [(figures.model_ladder(ladder(table, known(calls(table)))), words)]


PHASES = {"prefill": "q_len", "decode": "depth"}


def peers_of(table: pd.DataFrame) -> pd.DataFrame:
    """What is published of the table's models, and recorded of llama.cpp."""
    models = list(table["model"].dropna().unique())
    return with_rows(query(published("model"), model=models), query(frame(recorded_llama_bench()), model=models))


def with_rows(table: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    """Both tables' rows."""
    import pandas as pd

    parts = [part for part in (table, others) if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else table
