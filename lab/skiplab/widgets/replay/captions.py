"""The text beside the picture of a recorded launch."""

from __future__ import annotations

from skiplab.replay import Replay
from skiplab.templates import render


def plain(made: Replay, at: int) -> str:
    """The step in a line of plain text; -1 is before the first."""
    program, step = made.places[at] if at >= 0 else (0, -1)
    return made.told(program, step)


def counts(made: Replay) -> str:
    """What was recorded, as HTML."""
    visits = made.visits
    masked, unmasked = int((visits == 1).sum()), int((visits == 2).sum())
    first = f"{made.label}: {len(made.programs):,} programs, {len(made.places):,} steps."
    rest = f"{masked + unmasked:,} of {visits.size:,} tiles visited, "
    if made.says_mask:
        rest += f"{masked:,} with the mask, {unmasked:,} without; "
    else:
        rest += f"{int(((visits > 0) & (made.tilemap.state.numpy() == 0)).sum()):,} of which the mask keeps nothing; "
    return render(
        "explorers.counts", name="skiplab-replay-counts", width="700px", first=first, rest=f"{rest}{made.source}."
    )
