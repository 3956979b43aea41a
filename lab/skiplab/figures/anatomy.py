"""Kernels that were taken apart, side by side: how many instructions of each kind their inner loops have."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle

from skiplab.anatomy import Anatomy
from skiplab.anatomy.sass import KINDS, OTHER
from skiplab.figures import theme
from skiplab.figures.charts import BarChart, Bars, Hover
from skiplab.machine.capability import sm_name


def mix(anatomies: Mapping[str, Anatomy]) -> BarChart:
    """The instructions of each kernel's inner loop by kind; of all of it where it has no loop."""
    counted = {name: one.inner_loop.mix if one.inner_loop else one.mix for name, one in anatomies.items()}
    kinds = [kind for kind in (*KINDS, OTHER) if any(count[kind] for count in counted.values())]
    bars: list[Bars] = []
    for (name, count), colour in zip(counted.items(), cycle(theme.VARIANTS)):
        filling = theme.hatch("", colour, ((one.colour, one.hatch) for one in bars))
        hover = tuple(Hover(name, f": {count[kind]} {kind}") for kind in kinds)
        bars.append(Bars(name, tuple(float(count[kind]) for kind in kinds), colour, filling, hover=hover))
    archs = ", ".join(dict.fromkeys(sm_name(one.capability) for one in anatomies.values()))
    return BarChart("Instructions of the inner loop, by kind", "kind", "instructions", tuple(kinds), tuple(bars),
                    f"compiled for {archs}, not run", y_is_log=False)  # fmt: skip
