"""The winners of each class, from the rows of a tuning run. No GPU is needed, and nothing is timed.

A candidate can win a class if it is right and timed on all the class's workloads, and its kernel is wrong nowhere; once
the best were timed again, only these can. Scores are geometric means, over the workloads, of its median
over the fastest one's. Where the default is within 1 % of the winner, it stays.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from operator import itemgetter
from statistics import median
from typing import Any

from blockskip.gpu import Gpu

from skiplab.machine.capability import capability_of
from skiplab.operations import workload_of
from skiplab.store import Run
from skiplab.store.keys import without_index
from skiplab.tuning.base import Candidate, Ranking, TuningModule
from skiplab.tuning.modules import MODULES

TIE = 1.01
UNTRUSTED = {"impossible", "unchecked"}


def gpu_of(run: Run) -> Gpu:
    """The GPU that a run was made on; ValueError for a run of a CPU."""
    device = run.header["device"]
    if not (device.get("sms") and device.get("compute_capability")):
        raise ValueError(f"{run.run_id}: was made on {run.device}, and only a GPU's kernels are tuned")
    capability = capability_of(device["compute_capability"])
    return Gpu(device["name"], capability, device["sms"])


def module_of(run: Run) -> TuningModule:
    """What tuning the run's operation needs; ValueError for one that is not tuned."""
    if run.operation not in MODULES:
        raise ValueError(f"{run.run_id}: is of {run.operation}; tuned are {', '.join(MODULES)}")
    return MODULES[run.operation]


def rankings(runs: Sequence[Run]) -> dict[Any, Ranking]:
    """The classes that were tuned, by the rows of our kernels; of a point the latest row counts.

    A run that was continued with other kernels counts from there: times of different kernels say nothing of sizes.
    """
    module, sms = module_of(runs[0]), gpu_of(runs[0]).sms
    rows = [(row, one) for run in runs for row, one in _of_last_kernels(run, module)]
    rounds = Counter(without_index(row["point"]) for row, _ in rows)
    latest = {without_index(row["point"]): (row, one) for row, one in rows}
    classes = {point: module.class_of(row["axes"], one, sms) for point, (row, one) in latest.items()}
    kernels = {point: module.compiled_as(classes[point], one) for point, (_, one) in latest.items()}
    failed = {kernels[point] for point, (row, _) in latest.items() if row["status"] != "ok"}
    times: dict[Any, dict[str, dict[Candidate, float]]] = {}
    taken: dict[Any, dict[Candidate, int]] = {}
    for point, (row, candidate) in latest.items():
        if row["status"] == "ok" and not UNTRUSTED & set(row.get("flags", ())) and kernels[point] not in failed:
            one = classes[point]
            times.setdefault(one, {}).setdefault(workload_of(row["axes"]).key(), {})[candidate] = median(
                row["samples_ns"]
            )
            most = taken.setdefault(one, {})
            most[candidate] = max(most.get(candidate, 0), rounds[point])
    return {
        one: Ranking(by_workload, _scores(list(by_workload.values()), taken[one])) for one, by_workload in times.items()
    }


def _of_last_kernels(run: Run, module: TuningModule) -> Iterator[tuple[Mapping[str, Any], Candidate]]:
    """The rows of the kernels with which the run was last continued, each with its candidate."""
    last = run.rows[-1].get("source_hash") if run.rows else None
    for row in run.rows:
        config = row.get("config")
        contender = row["point"].split(" | ")[0].split(" (")[0]  # the row's own has the sizes in it
        candidate = module.candidate_of(contender, tuple(config) if config else None)
        if candidate is not None and row.get("source_hash") == last:
            yield row, candidate


def _scores(workloads: Sequence[Mapping[Candidate, float]], rounds: Mapping[Candidate, int]) -> dict[Candidate, float]:
    """The scores of candidates that were timed on all workloads, and on one as often as the best.

    Of the best timed again all were, though the run may have been interrupted before the last workload.
    """
    everywhere = set.intersection(*(set(times) for times in workloads))
    most = max((rounds[one] for one in everywhere), default=0)
    able = [one for one in everywhere if rounds[one] == most]
    logs = {one: [math.log(times[one] / min(times.values())) for times in workloads] for one in able}
    means = {one: math.exp(sum(terms) / len(terms)) for one, terms in logs.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], str(item[0]))))


def entries(runs: Sequence[Run]) -> tuple[Any, ...]:
    """The winner of each class that has one."""
    module, gpu = module_of(runs[0]), gpu_of(runs[0])
    ranked = [(one, ranking) for one, ranking in sorted(rankings(runs).items(), key=itemgetter(0)) if ranking.scores]
    return tuple(_entry(module, one, ranking, module.default(one, gpu)) for one, ranking in ranked)


def _entry(module: TuningModule, one: Any, ranking: Ranking, default: Candidate) -> Any:
    winner, score = next(iter(ranking.scores.items()))
    if ranking.scores.get(default, math.inf) <= TIE * score:
        winner = default
    return module.entry(one, winner, ranking, default)


def summary(runs: Sequence[Run]) -> str:
    """The winners as a table for a terminal."""
    module = module_of(runs[0])
    return "\n".join([module.HEAD, *map(module.line, entries(runs))])
