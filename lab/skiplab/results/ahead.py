"""From which prompt length on others are ahead of ours, in a sentence of README: its numbers are those of runs."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skiplab.contenders import contenders
from skiplab.paths import data_path
from skiplab.rated import rated
from skiplab.results.shapes import CAUSAL, H200
from skiplab.store import Run, query
from skiplab.text import listed

OURS = "blockskip"


@dataclass(frozen=True)
class AheadAtPrompts:
    """These peers beside ours at causal prompts of one sequence, over all recorded shapes of heads."""

    peers: tuple[str, ...]
    runs: str

    def markdown(self, runs: Iterable[Run], page: Path) -> str:
        """For a page: where others are ahead, and of these peers from which length on."""
        target = Path(os.path.relpath(data_path("TARGETS.md"), page.parent)).as_posix()
        where = f"Where others are ahead is in [TARGETS.md]({target}), with the reason where it is known"
        best = self._best(runs)
        length = first_of_all(best)
        if length is None:
            return f"{where}."
        less = [1 - ratio for tokens, ratio in best if tokens >= length]
        names = listed([contenders("attention")[peer].label for peer in self.peers])
        span = " to ".join(dict.fromkeys((f"{100 * min(less):.0f}", f"{100 * max(less):.0f}")))
        return (
            f"{where}. On an H200 the faster of {names} takes {span} % less time than {OURS} at causal prompts of "
            f"{length:,} tokens and more."
        )

    def _best(self, runs: Iterable[Run]) -> list[tuple[int, float]]:
        """Of each point of runs that have them: its length, and the least of their times over ours."""
        beside = [run for run in runs if any(row["contender"] in self.peers for row in run.rows)]
        table: Any = query(rated(beside, (self.runs,)), **CAUSAL, contender=[OURS, *self.peers], status="ok")
        times = table.pivot_table(index=["q_len", "heads"], columns="contender", values="median_ms")
        times = times.reindex(columns=[OURS, *self.peers])
        ratios = (times[list(self.peers)].min(axis=1) / times[OURS]).dropna()
        return [(int(tokens), float(ratio)) for (tokens, _), ratio in ratios.items()]


def first_of_all(points: Iterable[tuple[int, float]]) -> int | None:
    """The least length from which on every point's ratio is below 1; None where that of the longest is not."""
    points = list(points)
    behind = [tokens for tokens, ratio in points if ratio >= 1]
    return min((tokens for tokens, _ in points if tokens > max(behind, default=0)), default=None)


FLASH_AHEAD = AheadAtPrompts(("fa3", "fa4"), H200)
