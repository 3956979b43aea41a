"""The command `skiplab toy`."""

from skiplab.cli import options
from skiplab.cli.sweep import measure
from skiplab.sweep.toy import ToySweep


def toy(
    width: list[int], budget: options.Budget = 5.0, run: options.NewRun = None, report: options.Html = None
) -> None:
    """Measure doublings."""
    measure(ToySweep(width=tuple(width), budget_s=budget), run, report, None, False)


COMMAND = toy
