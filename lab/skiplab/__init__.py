"""Skiplab: a lab for the performance of sparse attention, quantised linear kernels and whole models.

Importing it needs no widget library: the widgets load when they are asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from blockskip import __version__

from skiplab.contenders import kernel
from skiplab.measure.verify import check
from skiplab.store import Run, frame, query, read_run
from skiplab.sweep import Sweep, run_sweep, sweep, sweep_decode, sweep_linear, sweep_model
from skiplab.workload import LINEARS, MODELS, DecodeWorkload, LinearWorkload, ModelWorkload, Workload, model_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from skiplab.widgets import Int4Explorer, MaskExplorer, ModelExplorer, SplitExplorer, SweepPanel

WIDGETS = ("Int4Explorer", "MaskExplorer", "ModelExplorer", "SplitExplorer", "SweepPanel")

__all__ = [
    "LINEARS",
    "MODELS",
    "DecodeWorkload",
    "Int4Explorer",
    "LinearWorkload",
    "MaskExplorer",
    "ModelExplorer",
    "ModelWorkload",
    "Run",
    "SplitExplorer",
    "Sweep",
    "SweepPanel",
    "Workload",
    "__version__",
    "check",
    "frame",
    "kernel",
    "model_of",
    "query",
    "read_run",
    "run_sweep",
    "sweep",
    "sweep_decode",
    "sweep_linear",
    "sweep_model",
]


def _overview(table: pd.DataFrame) -> go.Figure:
    from skiplab import figures  # plotly and pandas, which not everybody needs

    return figures.overview(table)


Run.draws = staticmethod(_overview)


def __getattr__(name: str) -> Any:
    if name in WIDGETS:
        from skiplab import widgets

        return getattr(widgets, name)
    raise AttributeError(f"module 'skiplab' has no attribute {name!r}")
