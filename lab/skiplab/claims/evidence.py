"""Our figures for a claim: found in rows that were measured here, recorded, or predicted, and never typed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from skiplab import ladder
from skiplab.contenders.ladder import RUNGS
from skiplab.machine import Machine, known_gpus
from skiplab.machine.roofs import recorded_roofs
from skiplab.rated import RowDict, rated
from skiplab.store import Run, frame, query, recorded_llama_bench
from skiplab.workload import ModelWorkload

ORIGIN = ["source", "device"]
TOGETHER = ("*-linear-ways-*", "*-linear-int4", "*")
"""Run files by their names: those first in which ours was timed beside its form without a choice."""
ALIKE = 0.01
MEASURED = ("measured", "recorded")


@dataclass(frozen=True)
class Found:
    """A figure of ours. source, device: as in a frame; `computed` for what was checked here, without a time.

    of: the model that it is of, where that is not the claim's. rate: the tokens a second behind it; nan without any.
    flags: what makes it doubtful, as in a frame. spread: between the quartiles of what it is made of, at most, as a
    share of the median; nan where samples are not kept.
    """

    value: float
    source: str
    device: str
    of: str = ""
    rate: float = float("nan")
    flags: str = ""
    spread: float = float("nan")


@dataclass(frozen=True)
class Evidence:
    """Where figures are looked for. rows: of `rated.rated`; rungs: of `ladder.ladder`; checks: of `checks_here`.

    llama: llama.cpp's rows, of these runs and the recorded ones. cpus: those of the runs' devices that are no GPUs.
    """

    rows: pd.DataFrame
    rungs: pd.DataFrame
    llama: pd.DataFrame
    checks: Mapping[str, Found]
    cpus: frozenset[str] = frozenset()

    @classmethod
    def of(cls, runs: Iterable[Run], checks: Mapping[str, Found] | None = None) -> Evidence:
        """Of these runs, and of what is predicted and recorded elsewhere; runs of this session come as they are."""
        runs = list(runs)
        rows = rated(runs, TOGETHER)
        everything = ladder.ladder(rows, [*ladder.CALLS, *SHORT])
        theirs: Any = pd.concat([part for part in (rows, frame(recorded_llama_bench())) if len(part)])
        theirs = theirs[theirs["contender"].str.startswith("llama.cpp")]
        cpus = frozenset(run.device for run in runs if run.header["device"].get("kind") == "cpu")
        return cls(rows, everything, theirs, checks or {}, cpus)


Finder = Callable[[Evidence], Iterator[Found]]
SHORT = tuple(ModelWorkload("prefill", length, model=ladder.MODEL) for length in (256, 512, 1024))
"""The shorter prompts of the pull request's table."""


def call_of(phase: str, tokens: int) -> ModelWorkload:
    """The prompt of so many tokens, or the step behind them, of the model that the claims are of."""
    place = (tokens, 0) if phase == "prefill" else (1, tokens)
    return ModelWorkload(phase, *place, model=ladder.MODEL)


def between_rungs(call: ModelWorkload, low: str, high: str) -> Finder:
    """How many times as fast the higher rung is, of the same call; of another model where that was measured alone."""

    def find(evidence: Evidence) -> Iterator[Found]:
        for one in _calls_like(evidence, call):
            for origin, rungs in _by_rung(ladder.of_call(evidence.rungs, one)).items():
                if low in rungs and high in rungs:
                    gain = rungs[high]["tokens_per_s"] / rungs[low]["tokens_per_s"]
                    yield Found(gain, *origin, _other(one, call), **_doubt(rungs[low], rungs[high]))

    return find


def share(call: ModelWorkload, of: Callable[[dict[str, float]], float]) -> Finder:
    """A figure made of attention's shares of a prompt by rung; nan where one is missing.

    Of other models prompts of any length count: that of the claims is not told.
    """

    def find(evidence: Evidence) -> Iterator[Found]:
        for one in _calls_like(evidence, call, any_length=True):
            rungs = _by_rung(ladder.of_call(evidence.rungs, one))
            for origin, by_rung in ladder.shares(evidence.rungs, one).items():
                value = of(by_rung)
                if value == value and origin in rungs:
                    yield Found(value, *origin, _other(one, call), **_doubt(*rungs[origin].values()))

    return find


def _calls_like(
    evidence: Evidence, call: ModelWorkload, any_length: bool = False
) -> Iterator[ladder.Call | ModelWorkload]:
    """The call, and those of other models that were measured, of as many tokens; the longest first."""
    yield call
    measured: Any = evidence.rungs[evidence.rungs["source"].isin(MEASURED)]
    others = [one for one in ladder.calls(measured) if one.model != call.model and one.phase == call.phase]
    for other in sorted(others, key=lambda one: -one.q_len):
        if any_length or (other.q_len, other.depth) == (call.q_len, call.depth):
            yield other


def _other(one: ladder.Call | ModelWorkload, call: ModelWorkload) -> str:
    return "" if one.model == call.model else one.model


def _by_rung(good: pd.DataFrame) -> dict[tuple[str, str], dict[str, RowDict]]:
    """Our rows by source and device, then by rung."""
    found: dict[tuple[str, str], dict[str, RowDict]] = {}
    ours: Any = good[good["source"] != "published"]
    for row in ours.to_dict("records"):
        found.setdefault((row["source"], row["device"]), {})[row["contender"]] = row
    return found


def _doubt(*rows: RowDict) -> dict[str, Any]:
    """What makes a figure of these rows doubtful: their flags, and the widest spread of their samples."""
    flags = ", ".join(dict.fromkeys(flag for row in rows for flag in row["flags"].split(", ") if flag))
    return {"flags": flags, "spread": max((row["high_ms"] - row["low_ms"]) / row["median_ms"] for row in rows)}


def times_as_fast(operation: str, than: str, **where: Any) -> Finder:
    """How many times as fast ours is as another contender, at one point that both were timed at in one run."""

    def find(evidence: Evidence) -> Iterator[Found]:
        good: Any = query(evidence.rows, operation=operation, status="ok", contender=["blockskip", than], **where)
        for (source, device), rows in good.groupby(ORIGIN, sort=False):
            for _, run in rows.groupby("run_id", sort=False):
                both = {row["contender"]: row for row in run.to_dict("records")}
                if len(both) == 2:
                    ratio = both[than]["median_ms"] / both["blockskip"]["median_ms"]
                    yield Found(ratio, source, device, **_doubt(*both.values()))
                    break

    return find


def of_the_roofs(phase: str, tokens: int) -> Finder:
    """Which share of the rate that its device's roofs allow our decoder reaches."""

    def find(evidence: Evidence) -> Iterator[Found]:
        for row in _ours(evidence, phase, tokens):
            machine = machine_of(row["device"])
            if machine is not None:
                rate = row["tokens_per_s"]
                allowed = roof_rate(call_of(phase, tokens), machine)
                yield Found(rate / allowed, row["source"], row["device"], rate=rate, **_doubt(row))

    return find


def beside_llama(phase: str, tokens: int) -> Finder:
    """How many times as fast our decoder is as llama.cpp on the same device; of several ways it has, its fastest."""

    def find(evidence: Evidence) -> Iterator[Found]:
        theirs = _at(evidence.llama, phase, tokens)
        for row in _ours(evidence, phase, tokens):
            rates = theirs.loc[theirs["device"] == row["device"], "tokens_per_s"]
            if len(rates):
                rate = row["tokens_per_s"]
                yield Found(rate / rates.max(), row["source"], row["device"], rate=rate, **_doubt(row))

    return find


def peak(phase: str, tokens: int) -> Finder:
    """GB of memory at most."""

    def find(evidence: Evidence) -> Iterator[Found]:
        for row in _ours(evidence, phase, tokens):
            if row["peak_gb"] == row["peak_gb"] and row["by_kind"] != 1:
                yield Found(row["peak_gb"], row["source"], row["device"])

    return find


def check(name: str) -> Finder:
    """What was computed here, without a time."""

    def find(evidence: Evidence) -> Iterator[Found]:
        if name in evidence.checks:
            yield evidence.checks[name]

    return find


def _ours(evidence: Evidence, phase: str, tokens: int) -> list[RowDict]:
    """Our decoder's row of that call for each device: a whole model's before a sum of layers, the newest of them."""
    good = _at(query(evidence.rows, contender="blockskip", status="ok"), phase, tokens)
    good = good.assign(whole=good["by_kind"] != 1).sort_values("whole", ascending=False, kind="stable")
    return good.drop_duplicates(ORIGIN).to_dict("records")


def _at(table: pd.DataFrame, phase: str, tokens: int) -> pd.DataFrame:
    """Rows of the call; lengths that differ by a hundredth are the same, as 130,048 tokens and 131,072 are."""
    axis, other = ("q_len", {"depth": 0}) if phase == "prefill" else ("depth", {"q_len": 1})
    rows: Any = query(table, operation="model", model=ladder.MODEL, phase=phase, **other)
    return rows[(rows[axis] - tokens).abs() <= tokens * ALIKE]


def machine_of(device: str) -> Machine | None:
    """The device by its recorded roofs, else by its data sheet; None where neither is known."""
    roofs = recorded_roofs()
    return roofs[device].machine() if device in roofs else known_gpus().get(device)


def roof_rate(call: ModelWorkload, machine: Machine) -> float:
    """Tokens a second of the highest rung at the roofs."""
    return call.q_len / sum(ladder.predicted_parts(call, RUNGS[-1], machine).values())
