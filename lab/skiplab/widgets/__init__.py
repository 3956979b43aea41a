"""The lab's widgets: state -> workload -> figure. They show figures and ask for measurements; they time nothing.

A folder each, with the same files: explorer.py (the widget), settings.py (its state), captions.py (the text beside the
picture), view.py (the picture, with view.js and view.css). Modules beside the folders are shared.
"""

from skiplab.widgets.anatomy.explorer import AnatomyExplorer
from skiplab.widgets.int4.explorer import Int4Explorer
from skiplab.widgets.live import LiveChart
from skiplab.widgets.mask.explorer import MaskExplorer
from skiplab.widgets.mask.view import TileCanvas
from skiplab.widgets.model.explorer import ModelExplorer
from skiplab.widgets.replay.explorer import ReplayExplorer
from skiplab.widgets.splits.explorer import SplitExplorer
from skiplab.widgets.sweep.explorer import SweepPanel

__all__ = [
    "AnatomyExplorer",
    "Int4Explorer",
    "LiveChart",
    "MaskExplorer",
    "ModelExplorer",
    "ReplayExplorer",
    "SplitExplorer",
    "SweepPanel",
    "TileCanvas",
]
