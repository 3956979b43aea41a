"""The lab's widgets: state -> workload -> figure. They show figures and ask for measurements; they time nothing."""

from __future__ import annotations

from skiplab.widgets.canvas import TileCanvas
from skiplab.widgets.explorer import MaskExplorer
from skiplab.widgets.nibbles import Int4Explorer
from skiplab.widgets.panel import SweepPanel
from skiplab.widgets.splits import SplitExplorer

__all__ = ["Int4Explorer", "MaskExplorer", "SplitExplorer", "SweepPanel", "TileCanvas"]
