"""What stands beside the picture of a decode call's splits, as HTML: counts, all policies, the prediction's model."""

from __future__ import annotations

import html

from skiplab.figures import theme
from skiplab.figures.splits import NAMES
from skiplab.occupancy import Schedule
from skiplab.widgets.split_settings import SplitSettings
from skiplab.widgets.words import STYLE

CELL = "padding:2px 10px 2px 0;text-align:right;white-space:nowrap"
CHOSEN = "background:rgba(128,128,128,.22);font-weight:600"


def plain(s: SplitSettings) -> str:
    """The state in a line of plain text: who reads what, how busy the SMs are, the prediction."""
    plan = s.schedule
    idle = plan.programs - plan.live_programs
    without = f", {idle:,} of them without a key" if idle else ""
    return (
        f"{NAMES[s.policy]}, {s.kv_len:,} keys in {s.slots:,} slots{_window(s)}: {_factors(plan)} = "
        f"{plan.programs:,} programs{without}. {plan.sms - plan.idle_sms} of {plan.sms} SMs read, in {_waves(plan)}: "
        f"{100 * plan.busy:.0f} % of all SMs' time; "
        f"predicted for {plan.machine.name}: {theme.seconds(plan.seconds)}, {_times(plan)} the floor"
    )


def counts(s: SplitSettings) -> str:
    """`plain` as the status line of the explorer."""
    first, _, rest = plain(s).partition(". ")
    return (
        f'<div class="skiplab-split-counts" role="status" style="{STYLE};max-width:700px"><b>{html.escape(first)}.</b> '
        f"{html.escape(rest)}.</div>"
    )


def table(s: SplitSettings) -> str:
    """All policies on this problem, the chosen one marked: splits, programs, SMs, predicted time."""
    plans = s.schedules
    longest = max(plan.seconds for plan in plans.values())
    names = ("policy", "splits", "with keys", "programs", "tiles, longest", "SMs that read", "waves", "SM time used",
             "predicted", "", "× floor")  # fmt: skip
    head = "".join(f'<th style="{CELL};text-align:{"right" if i else "left"}">{n}</th>' for i, n in enumerate(names))
    rows = "".join(_row(plan, name == s.policy, longest) for name, plan in plans.items())
    return f'<table class="skiplab-policies" style="{STYLE};max-width:none"><tr>{head}</tr>{rows}</table>'


def _row(plan: Schedule, chosen: bool, longest: float) -> str:
    bar = f'<div style="background:{theme.BLUE};height:9px;width:{max(90 * plan.seconds / longest, 1):.0f}px"></div>'
    cells = (
        f"{'▸ ' if chosen else ''}{NAMES[plan.policy]}", f"{plan.splits:,}", f"{plan.live_splits:,}",
        f"{plan.programs:,}", f"{plan.most_tiles:,}", f"{plan.sms - plan.idle_sms} of {plan.sms}",
        f"{len(plan.busy_sms):,}", f"{100 * plan.busy:.0f} %", theme.seconds(plan.seconds), bar, _times(plan),
    )  # fmt: skip
    inside = "".join(
        f'<td style="{CELL};text-align:{"left" if i in (0, 9) else "right"}">{text}</td>'
        for i, text in enumerate(cells)
    )
    return f'<tr style="{CHOSEN if chosen else ""}"{" aria-current=true" if chosen else ""}>{inside}</tr>'


def prediction(s: SplitSettings) -> str:
    """Where the times come from, and what they leave out."""
    plan = s.schedule
    merge = {None: "", True: " The last program of a KV head merges.", False: " A second kernel merges."}[plan.fused]
    more = " ExecuTorch's own split kernel takes one query alone; the rule is shown for more." if s.q_len > 1 else ""
    return (
        f'<div class="skiplab-split-prediction" style="{STYLE};max-width:860px"><b>Predicted for '
        f"{html.escape(plan.machine.name)}</b> from its {plan.machine.source} bandwidth "
        f"({plan.machine.bandwidth_gbps:,.0f} GB/s): one program an SM at a time, and an SM reads at its even share of "
        f"it. Floor: every byte once at all of it, {theme.seconds(plan.floor_seconds)}.{merge} All policies on our "
        f"tiles of {plan.block_n} keys, K and V read once for a KV head's queries. Launches, the L2 and what a few "
        f"busy SMs draw beyond their share are left out. Arithmetic, not a measurement.{more}</div>"
    )


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
