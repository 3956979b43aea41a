"""The command `skiplab toy`."""

from typing import Annotated

from skiplab.cli import options
from skiplab.cli.sweep import measure
from skiplab.sweep.toy import ToySweep


def toy(
    width: Annotated[options.Texts, options.several(help="Numbers, as 8,16")] = None,
    budget: options.Budget = 5.0, run: options.NewRun = None, report: options.Html = None, table: options.Tables = None,
) -> None:  # fmt: skip
    """Measure doublings."""
    wanted = ToySweep(width=options.numbers("--width", width) or ToySweep.width, budget_s=budget)
    measure(wanted, options.where(wanted.device), run, report, table, None, False)


COMMAND = toy
