"""The text beside the picture of a decode call's splits, as HTML: counts, all policies, the prediction's model."""

from __future__ import annotations

from typing import Any

from skiplab.figures import theme
from skiplab.figures.splits import NAMES
from skiplab.occupancy import Schedule
from skiplab.templates import render
from skiplab.text import percent
from skiplab.widgets.splits.settings import SplitSettings


def plain(s: SplitSettings) -> str:
    """The state in a line of plain text: which keys are read, how busy the SMs are, the prediction."""
    plan = s.schedule
    idle = plan.programs - plan.live_programs
    without = f", {idle:,} of them without a key" if idle else ""
    return (
        f"{NAMES[s.policy]}, {s.kv_len:,} keys in {s.slots:,} slots{_window(s)}: {_factors(plan)} = "
        f"{plan.programs:,} programs{without}. {plan.sms - plan.idle_sms} of {plan.sms} SMs read, in {_waves(plan)}: "
        f"{percent(plan.busy)} of all SMs' time; "
        f"predicted for {plan.machine.name}: {theme.seconds(plan.seconds)}, {_times(plan)} the floor"
    )


def counts(s: SplitSettings) -> str:
    """`plain` as the status line of the explorer."""
    first, _, rest = plain(s).partition(". ")
    first, rest = f"{first}.", f"{rest}."
    return render("explorers.counts", name="skiplab-split-counts", width="700px", first=first, rest=rest)


def table(s: SplitSettings) -> str:
    """All policies on this problem, the chosen one marked: splits, programs, SMs, predicted time."""
    plans = s.schedules
    longest = max(plan.seconds for plan in plans.values())
    heads = ("rule", "splits", "with keys", "programs", "tiles, longest", "SMs that read", "waves", "SM time used",
             "predicted", "", "× floor")  # fmt: skip
    rows = [_row(plan, name == s.policy, longest) for name, plan in plans.items()]
    return render("explorers.policies", heads=heads, rows=rows)


def _row(plan: Schedule, chosen: bool, longest: float) -> dict[str, Any]:
    """The table's row for one policy."""
    cells = (
        f"{plan.splits:,}", f"{plan.live_splits:,}", f"{plan.programs:,}", f"{plan.most_tiles:,}",
        f"{plan.sms - plan.idle_sms} of {plan.sms}", f"{len(plan.busy_sms):,}", f"{percent(plan.busy)}",
        theme.seconds(plan.seconds),
    )  # fmt: skip
    width = f"{max(90 * plan.seconds / longest, 1):.0f}px"
    bar = {"colour": theme.BLUE, "width": width}
    return {"name": NAMES[plan.policy], "cells": cells, **bar, "times": _times(plan), "chosen": chosen}


def prediction(s: SplitSettings) -> str:
    """Where the times come from, and what they leave out."""
    plan = s.schedule
    merge = {None: "", True: " The last program of a KV head merges.", False: " A second kernel merges."}[plan.fused]
    more = " ExecuTorch's own split kernel takes one query alone; the rule is shown for more." if s.q_len > 1 else ""
    rest = (
        f"from its {plan.machine.source} bandwidth ({plan.machine.bandwidth_gbps:,.0f} GB/s): one program an SM at a "
        f"time, and an SM reads at its even share of it; beside keys and values, drawn above, it moves queries and "
        f"results. Floor: every byte once at all of it, "
        f"{theme.seconds(plan.floor_seconds)}.{merge} All rules on our tiles of {plan.block_n} keys, K and V read "
        f"once for a KV head's queries. Launches, the L2 and what a few busy SMs draw beyond their share are left out. "
        f"Arithmetic, not a measurement.{more}"
    )
    return render("explorers.split_prediction", machine=plan.machine.name, rest=rest)


def _factors(plan: Schedule) -> str:
    blocks = plan.heads // (plan.batch * plan.kv_heads)
    factors = [
        f"{plan.splits:,} split{'s' * (plan.splits != 1)}", f"{plan.kv_heads} KV head{'s' * (plan.kv_heads != 1)}",
        *([f"{plan.batch} batch entries"] if plan.batch > 1 else []),
        *([f"{blocks} blocks of query rows"] if blocks > 1 else []),
    ]  # fmt: skip
    return " × ".join(factors)


def _window(s: SplitSettings) -> str:
    return "" if s.window is None else f", window {s.window:,}"


def _waves(plan: Schedule) -> str:
    waves = plan.busy_sms
    if len(waves) == 1:
        return "one wave"
    return f"{len(waves):,} waves ({waves[-1]} SMs in the last)"


def _times(plan: Schedule) -> str:
    return theme.ratio(plan.seconds / plan.floor_seconds)
