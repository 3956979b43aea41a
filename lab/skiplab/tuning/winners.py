"""From a tuning run to `configs/<device>.json`: which tiles won, by rows alone. No GPU is needed, and nothing is timed.

Calls are tuned by class: head size, element size, mask kind and window, length. A configuration can win a class that is
right and timed on all the class's workloads, and nowhere wrong with the same kernel; once the best were timed again,
only they can. Scores are geometric means, over the workloads, of its median over the fastest one's. Where the table's
own is within 1 % of the winner, it stays.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import blockskip as bs
import torch
from blockskip.config import TileConfig, length_class, prefill_config
from blockskip.gpu import Gpu
from blockskip.tuned import CONFIGS, SCHEMA, Entry, mask_kind, read_tuned

from skiplab.operations import workload_of
from skiplab.paths import file_name, inside
from skiplab.store import Run
from skiplab.store.keys import without_index

TIE = 1.01
UNTRUSTED = {"impossible", "unchecked"}

Config = tuple[int, ...]


@dataclass(frozen=True, order=True)
class Class:
    """Calls that take the same configuration; fields as of `blockskip.tuned.Entry`, window 0 for none."""

    head_dim: int
    element_bytes: int
    mask: str
    window: int
    length: str


def class_of(axes: Mapping[str, Any], sms: int) -> Class:
    """The class of a workload, by a row's axes, on a GPU of so many multiprocessors."""
    kind, window = mask_kind(bs.Mask.from_spec(axes["mask"]))
    rows = axes["batch"] * axes["q_heads"] * axes["q_len"]
    element_bytes = getattr(torch, axes["dtype"]).itemsize
    return Class(axes["head_dim"], element_bytes, kind, window or 0, length_class(rows, sms))


@dataclass(frozen=True)
class Ranking:
    """What a class's workloads say. times: workload -> configuration -> median in nanoseconds; scores: of all that can
    win, best first; 1.0 is the fastest everywhere."""

    times: Mapping[str, Mapping[Config, float]]
    scores: Mapping[Config, float]


def gpu_of(run: Run) -> Gpu:
    """The GPU that a run was made on; ValueError for a run of a CPU."""
    device = run.header["device"]
    if not (device.get("sms") and device.get("compute_capability")):
        raise ValueError(f"{run.run_id}: was made on {run.device}, and only a GPU's kernels are tuned")
    major, minor = map(int, device["compute_capability"].split("."))
    return Gpu(device["name"], (major, minor), device["sms"])


def rankings(runs: Sequence[Run]) -> dict[Class, Ranking]:
    """The classes that were tuned, by the rows of our kernel with a configuration; of a point the latest row counts.

    A run that was continued with other kernels counts from there: times of different kernels say nothing of tiles.
    """
    sms = gpu_of(runs[0]).sms
    rows = [row for run in runs for row in _of_last_kernels(run)]
    rounds = Counter(without_index(row["point"]) for row in rows)
    latest = {without_index(row["point"]): row for row in rows}
    failed = {_compiled(row, sms) for row in latest.values() if row["status"] != "ok"}
    times: dict[Class, dict[str, dict[Config, float]]] = {}
    taken: dict[Class, dict[Config, int]] = {}
    for point, row in latest.items():
        if row["status"] == "ok" and not UNTRUSTED & set(row.get("flags", ())) and _compiled(row, sms) not in failed:
            one, config = class_of(row["axes"], sms), tuple(row["config"])
            times.setdefault(one, {}).setdefault(workload_of(row["axes"]).key(), {})[config] = median(row["samples_ns"])
            least = taken.setdefault(one, {})
            least[config] = min(least.get(config, rounds[point]), rounds[point])
    return {
        one: Ranking(by_workload, _scores(list(by_workload.values()), taken[one])) for one, by_workload in times.items()
    }


def _of_last_kernels(run: Run) -> list[Mapping[str, Any]]:
    last = run.rows[-1].get("source_hash") if run.rows else None
    return [row for row in run.rows if _tuned(row) and row.get("source_hash") == last]


def _tuned(row: Mapping[str, Any]) -> bool:
    return bool(row.get("config")) and row["point"].startswith("blockskip (")


def _compiled(row: Mapping[str, Any], sms: int) -> tuple:
    """What is right or wrong as a whole: a configuration, and what it is compiled for; lengths and windows are not."""
    one = class_of(row["axes"], sms)
    return one.head_dim, one.element_bytes, one.mask, *row["config"]


def _scores(workloads: Sequence[Mapping[Config, float]], rounds: Mapping[Config, int]) -> dict[Config, float]:
    """Of the configurations that were timed everywhere, and as often as any of those."""
    everywhere = set.intersection(*(set(times) for times in workloads))
    most = max((rounds[config] for config in everywhere), default=0)
    able = [config for config in everywhere if rounds[config] == most]
    logs = {config: [math.log(times[config] / min(times.values())) for times in workloads] for config in able}
    means = {config: math.exp(sum(terms) / len(terms)) for config, terms in logs.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def table_config(one: Class, gpu: Gpu) -> Config:
    """The table's configuration for a class of calls: what they take as long as nothing is tuned."""
    dtype = torch.float32 if one.element_bytes == 4 else torch.bfloat16
    return tuple(prefill_config(gpu.capability, one.head_dim, dtype, 0 if one.length == "short" else None, gpu.sms))


def entries(runs: Sequence[Run]) -> tuple[Entry, ...]:
    """The winner of each class that has one."""
    gpu = gpu_of(runs[0])
    found = ((one, ranking, table_config(one, gpu)) for one, ranking in sorted(rankings(runs).items(), key=_order))
    return tuple(_entry(one, ranking, table) for one, ranking, table in found if ranking.scores)


def _order(item: tuple[Class, Ranking]) -> Class:
    return item[0]


def _entry(one: Class, ranking: Ranking, table: Config) -> Entry:
    winner, score = next(iter(ranking.scores.items()))
    if ranking.scores.get(table, math.inf) <= TIE * score:
        winner = table
    at, times = max(ranking.times.items(), key=lambda item: item[1][winner])
    us = {config: round(ns / 1e3, 2) for config, ns in times.items()}
    return Entry(
        **{**asdict(one), "window": one.window or None}, config=TileConfig.of(winner), at=at,
        workloads=len(ranking.times), median_us=us[winner], table_us=us.get(table),
    )  # fmt: skip


def write_configs(runs: Sequence[Run], folder: Path = CONFIGS) -> Path:
    """Write the winners of these runs, all of one device and versions, to `<folder>/<device>.json` and return its path.

    ValueError for runs that do not belong together, and where no class has a winner.
    """
    _check_identity(runs)
    winners, header = entries(runs), runs[0].header
    if not winners:
        raise ValueError(
            f"{runs[0].run_id}: no configuration is right and timed on all workloads of its class; is it a tuning run?"
        )
    gpu = gpu_of(runs[0])
    head = {
        "schema": SCHEMA, "device": gpu.name, "capability": ".".join(map(str, gpu.capability)),
        "torch": header["torch"], "triton": header["triton"],
        "runs": ", ".join(run.path.name if run.path else run.run_id for run in runs),
    }  # fmt: skip
    lines = ",\n".join("    " + json.dumps({**asdict(one), "config": list(one.config)}) for one in winners)
    folder.mkdir(parents=True, exist_ok=True)
    path = inside(folder, file_name(gpu.name.removeprefix("NVIDIA "), ".json"))
    path.write_text(f'{json.dumps(head, indent=2)[:-2]},\n  "entries": [\n{lines}\n  ]\n}}\n', encoding="utf-8")
    read_tuned(path)
    return path


def _check_identity(runs: Iterable[Run]) -> None:
    first, *others = runs
    for run in (first, *others):
        if missing := [name for name in ("torch", "triton") if not run.header.get(name)]:
            raise ValueError(f"{run.run_id}: its header does not say {missing[0]}, which the configurations name")
    for name in ("device", "torch", "triton"):
        for run in others:
            now, then = (one.device if name == "device" else one.header.get(name) for one in (run, first))
            if now != then:
                raise ValueError(f"{run.run_id}: {name} is {now}, and {then} in {first.run_id}; tune them apart")


def summary(runs: Sequence[Run]) -> str:
    """The winners as a table for a terminal."""
    lines = [
        f"{'head':>4s} {'bytes':>5s} {'mask':8s} {'window':>6s} {'length':7s} {'tiles':22s} {'us':>9s} {'table us':>9s}"
    ]
    for one in entries(runs):
        tiles = "x".join(map(str, one.config))
        table = f"{one.table_us:9.2f}" if one.table_us is not None else f"{'':9s}"
        lines.append(
            f"{one.head_dim:4d} {one.element_bytes:5d} {one.mask:8s} {one.window or '':>6} {one.length:7s} "
            f"{tiles:22s} {one.median_us:9.2f} {table}"
        )
    return "\n".join(lines)
