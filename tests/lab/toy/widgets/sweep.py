"""The panel's form for doublings."""

from skiplab.figures import toy
from skiplab.sweep.toy import ToySweep
from skiplab.widgets.sweep.settings import Field, PanelForm, listed, numbers
from skiplab.workload.toy import ToyWorkload

FORM = PanelForm(
    "toy", "doubled numbers", ("blockskip", "twice"), (Field("width", "Widths", (64,), numbers, listed),),
    ToyWorkload(8), lambda names, values, device, budget_s: ToySweep(names, values["width"], budget_s=budget_s),
    lambda point: f"{point.width} numbers", {"time": toy.overview}, {},
)  # fmt: skip
