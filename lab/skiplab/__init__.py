"""Skiplab: a lab for the performance of sparse attention, quantised linear kernels and whole models.

Importing it needs no widget library: the widgets load when they are asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from blockskip import __version__

from skiplab.contenders import kernel
from skiplab.measure.verify import check
from skiplab.store import Run, frame, query, read_run
from skiplab.sweep import Sweep, rerun, run_sweep, sweep, sweep_decode, sweep_linear, sweep_model
from skiplab.workload import LINEARS, MODELS, DecodeWorkload, LinearWorkload, ModelWorkload, Workload, model_of

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from skiplab.report import write_report
    from skiplab.tuning.own import tune
    from skiplab.widgets import (
        AnatomyExplorer,
        Int4Explorer,
        MaskExplorer,
        ModelExplorer,
        ReplayExplorer,
        SplitExplorer,
        SweepPanel,
    )

WIDGETS = (
    "AnatomyExplorer", "Int4Explorer", "MaskExplorer", "ModelExplorer", "ReplayExplorer", "SplitExplorer", "SweepPanel",
)  # fmt: skip
LATER = {
    **dict.fromkeys(WIDGETS, "skiplab.widgets"), "tune": "skiplab.tuning.own", "write_report": "skiplab.report",
}  # fmt: skip
"""Names that are imported when they are asked for: they need widgets, plotly or pandas."""

__all__ = [
    "LINEARS",
    "MODELS",
    "AnatomyExplorer",
    "DecodeWorkload",
    "Int4Explorer",
    "LinearWorkload",
    "MaskExplorer",
    "ModelExplorer",
    "ModelWorkload",
    "ReplayExplorer",
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
    "rerun",
    "run_sweep",
    "sweep",
    "sweep_decode",
    "sweep_linear",
    "sweep_model",
    "tune",
    "write_report",
]


def _overview(table: pd.DataFrame) -> go.Figure:
    from skiplab import figures  # plotly and pandas, which not everybody needs

    return figures.overview(table)


Run.draws = staticmethod(_overview)


def __getattr__(name: str) -> Any:
    if name in LATER:
        return getattr(import_module(LATER[name]), name)
    raise AttributeError(f"module 'skiplab' has no attribute {name!r}")
