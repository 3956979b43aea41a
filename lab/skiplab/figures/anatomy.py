"""Kernels that were taken apart, side by side: how many instructions of each kind their inner loops have."""

from __future__ import annotations

from collections.abc import Mapping

from skiplab.anatomy import Anatomy
from skiplab.anatomy.sass import KINDS, OTHER
from skiplab.figures import theme
from skiplab.figures.charts import BarChart, Bars, Hover
from skiplab.machine.capability import sm_name

COLOURS = (theme.BLUE, theme.ORANGE, theme.GREEN, theme.PURPLE, theme.SKY, theme.VERMILLION)


def mix(anatomies: Mapping[str, Anatomy]) -> BarChart:
    """The instructions of each kernel's inner loop by kind; of all of it where it has no loop."""
    counted = {name: one.inner_loop.mix if one.inner_loop else one.mix for name, one in anatomies.items()}
    kinds = [kind for kind in (*KINDS, OTHER) if any(count[kind] for count in counted.values())]
    bars = tuple(
        Bars(name, tuple(float(count[kind]) for kind in kinds), COLOURS[number % len(COLOURS)],
             hover=tuple(Hover(name, f": {count[kind]} {kind}") for kind in kinds))
        for number, (name, count) in enumerate(counted.items())
    )  # fmt: skip
    archs = ", ".join(dict.fromkeys(sm_name(one.capability) for one in anatomies.values()))
    return BarChart("Instructions of the inner loop, by kind", "kind", "instructions", tuple(kinds), bars,
                    f"compiled for {archs}, not run", y_is_log=False)  # fmt: skip
