"""The ladder as tables: a line a rung, a column for each source and device, attention's share of the prompt below."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from skiplab import ladder
from skiplab.contenders.ladder import adds
from skiplab.figures import theme
from skiplab.figures.model import BY_KIND, settings_words
from skiplab.rated import RowDict, rated
from skiplab.results.marks import above, marks_of, notes_of, shown, spread_of, usual
from skiplab.results.tables import Shown
from skiplab.store import Run, query
from skiplab.text import digits, markdown, percent, sentence
from skiplab.workload import ModelWorkload

RUNS = ("*-nvidia-h200-*model*", "*-nvidia-*model*", "*model*")
"""Run files by their names: of a point that several hold, the first counts."""
TIMED = ["recorded", "measured"]
ROOFS = {"data sheet": "data sheet", "recorded": "recorded roofs"}
UNKNOWN = "What stands between products, and how loads are grouped, is not known to the roofs."


@dataclass(frozen=True)
class LadderTable:
    """The ladder of one call."""

    workload: ModelWorkload

    def shown(self, runs: Iterable[Run]) -> Shown:
        """For a notebook: what it shows and where its numbers are from, around its cells."""
        return self._made(runs, lambda path: path.name)

    def markdown(self, runs: Iterable[Run], page: Path) -> str:
        """For a page; links run from its folder."""
        made = self._made(runs, lambda path: f"[run]({Path(os.path.relpath(path, page.parent)).as_posix()})")
        rows = markdown(list(made.cells.columns), made.cells.to_numpy().tolist())
        return "\n\n".join([f"**{made.caption}", rows, *made.notes]).replace("**The ladder", "**The ladder**", 1)

    def _made(self, runs: Iterable[Run], link: Any) -> Shown:
        table = rated(runs, RUNS)
        good = ladder.of_call(ladder.ladder(query(table, operation="model"), [self.workload]), self.workload)
        files = table.drop_duplicates("run_id").set_index("run_id")["file"] if len(table) else {}
        columns, timed = _columns(good), query(good, source=TIMED)
        common = usual(list(map(marks_of, timed["flags"], spread_of(timed))))
        cells = _cells(columns, self.workload, common)
        text = "".join(cells.to_numpy().ravel())
        origins = [_origins(columns, files, link), above(common, text, "recorded cells")]
        below = [*filter(None, origins), *_notes(good, self.workload), *notes_of(text)]
        return Shown(_caption(self.workload), cells, tuple(map(sentence, below)))


def _columns(good: pd.DataFrame) -> dict[tuple[str, str], dict[str, RowDict]]:
    """The rows of each column by rung, in the order published, predicted, recorded, measured."""
    found: dict[tuple[str, str], dict[str, RowDict]] = {}
    for source in ("published", "predicted", "recorded", "measured"):
        for row in query(good, source=source).to_dict("records"):
            place = "" if source == "published" else row["device"]
            found.setdefault((source, place), {})[row["contender"]] = row
    return found


def _cells(columns: dict[tuple[str, str], dict[str, RowDict]], workload: ModelWorkload, common: str) -> pd.DataFrame:
    lines = []
    below: dict[tuple[str, str], float] = {}
    for name, added in adds(workload.phase).items():
        line = {"rung": added}
        for key, rows in columns.items():
            line[_head(*key)] = _cell(rows.get(name), below.get(key), common)
            if name in rows:
                below[key] = rows[name]["tokens_per_s"]
        lines.append(line)
    return pd.DataFrame.from_records(lines)


def _head(source: str, device: str) -> str:
    short = device.removeprefix("NVIDIA ")
    return f"{source}{f' {theme.provenance(source, short).split()[1]} {short}' if device else ''}"


def _cell(row: RowDict | None, below: float | None, common: str) -> str:
    """`44.0 (1.18×)`: tokens a second, and times the rung before that there is."""
    if row is None:
        return ""
    rate = row["tokens_per_s"]
    gain = "" if below is None else f" ({rate / below:.2f}×)"
    marks = shown(marks_of(row["flags"], spread_of(row)), common) if row["source"] in TIMED else ""
    return digits(rate) + marks + gain


def _caption(workload: ModelWorkload) -> str:
    call = settings_words({"phase": workload.phase, "q_len": workload.q_len, "depth": workload.depth})
    return (
        f"The ladder of {workload.model}: {call}, tokens/s, in brackets times the rung before. Each rung has all that "
        "the ones before it have."
    )


def _origins(columns: Any, files: Any, link: Any) -> str:
    """Where the numbers are from, each source once."""
    sources = []
    for rows in columns.values():
        for row in rows.values():
            words = theme.provenance(row["source"], row["device"])
            if row["source"] in ("recorded", "measured") and row["run_id"] in files:
                words += f" ({link(files[row['run_id']])})"
            sources.append(words)
    return f"{'; '.join(dict.fromkeys(sources))}." if sources else ""


def _notes(good: pd.DataFrame, workload: ModelWorkload) -> list[str]:
    roofs = " and ".join(f"{one.name} by its {ROOFS[one.source]}" for one in ladder.machines())
    lines = [f"Predicted: each operation at the roofs, one after the other, {roofs}. {UNKNOWN}"]
    if workload.phase == "decode":
        lines.append(f"Published before and after each change, for its own state of the program: {_changes()}.")
    if len(query(good, source=TIMED)) == 0:
        lines.append("No run of it is recorded yet: skiplab model gemma4-31b --ladder makes one.")
    if 1 in set(good["by_kind"]):
        lines.append(f"{BY_KIND}.")
    if workload.phase == "prefill":
        lines.append(f"Attention's share of the prompt: {'; '.join(share_words(good, workload))}.")
    return lines


def _changes() -> str:
    """`coalesced int4 metadata 29.2 to 37.4; …`."""
    lines = ladder.lines_of("executorch-20198-decode.csv")
    return "; ".join(f"{line['change']} {line['before_tps']} to {line['after_tps']}" for line in lines)


def share_words(good: pd.DataFrame, workload: ModelWorkload) -> list[str]:
    """`58.1 % with dense + mask, 18.5 % with skip by bounds (published by …)`, for each source and device."""
    added, words = adds(workload.phase), []
    for (source, device), by_rung in ladder.shares(good, workload).items():
        ends = [name for name in ("ladder-1-dense", "ladder-3-bounds", "blockskip") if name in by_rung]
        said = ", ".join(f"{percent(by_rung[name], 1)} with {added[name]}" for name in ends)
        words.append(f"{said} ({theme.provenance(source, device)})")
    return words


LADDERS = {f"ladder-{workload.phase}": LadderTable(workload) for workload in ladder.CALLS}
