"""The ladder in numbers: a frame of each rung's tokens a second, published, predicted, and measured or recorded.

Published and predicted rows have the rungs of `contenders.ladder` as their contenders, as rows of a run do.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import pandas as pd

from skiplab.contenders.ladder import LADDER, RUNGS, Rung, adds, rung_of, same_as
from skiplab.machine import Machine, known_gpus
from skiplab.machine.roofline import bound_of, predict
from skiplab.machine.roofs import recorded_roofs
from skiplab.model import LayerSpec, model_names
from skiplab.model.decoder import CHUNK, attention_name
from skiplab.occupancy import schedule
from skiplab.paths import data_path
from skiplab.rated import RowDict
from skiplab.store import COLUMNS, query
from skiplab.store.frames import table_of
from skiplab.store.published import LATER, PUBLISHER, published
from skiplab.workload import DecodeWorkload, ModelWorkload, Workload
from skiplab.workload.linear import bits_per_weight
from skiplab.workload.model import products

MODEL = "gemma4-31b"
ATTENTION = ("attention sliding", "attention full")
GPUS = ("NVIDIA A100 80GB SXM", "NVIDIA H200")
"""What is predicted for: the GPU whose rates the pull request's look like, and the one that ours are recorded on."""
CALLS = (ModelWorkload("prefill", 2048, model=MODEL), ModelWorkload("decode", 1, 2048, model=MODEL))
"""The calls of the pull request's tables: the longest prompt, and a step behind about as many tokens."""


PUBLISHED_DEPTH, NEAR = 2401, (1024, 4096)
"""Tokens of the prompt that the pull request's steps are behind, and the depths that they may stand beside."""


@dataclass(frozen=True)
class Call:
    """A call of a model that a table has rungs of: the fields of `ModelWorkload` by which it is found there."""

    phase: str
    q_len: int
    depth: int
    model: str
    bits: int
    group_size: int
    dtype: str


def machines() -> list[Machine]:
    """The machines of `GPUS`, by their recorded roofs where `data/machines` has them, else by their data sheets."""
    roofs = recorded_roofs()
    return [roofs[name].machine() if name in roofs else known_gpus()[name] for name in GPUS]


def predicted_parts(workload: ModelWorkload, rung: Rung, machine: Machine) -> dict[str, float]:
    """Seconds of a call by the names that a profile has: each operation at the roofs, one after the other.

    Attention is that of the tiles that the rung visits; of a step without splits, one program a KV head at a
    multiprocessor's even share of the bandwidth. Neither what stands between the products nor how loads are grouped is
    known to the roofs: a rung that changes nothing else is predicted to gain nothing.
    """
    spec, total = workload.whole_spec, defaultdict[str, float](float)
    attention = _prompt if workload.phase == "prefill" else _step
    for layer, count in spec.kinds.items():
        total[attention_name(layer)] += count * attention(workload, layer, rung, machine)
        for name, (n, k) in products(spec, layer).items():
            total[name] += count * _product(workload, workload.q_len, n, k, machine)
    rows, vocabulary = workload.out_shape
    total["head"] += _product(workload, rows, vocabulary, spec.hidden, machine)
    return dict(total)


def _product(workload: ModelWorkload, rows: int, n: int, k: int, machine: Machine) -> float:
    packed = n * k * bits_per_weight(workload.bits, workload.group_size, False) / 8
    return bound_of(2 * rows * n * k, packed + rows * (n + k) * workload.element_bytes, machine).seconds


def _heads(workload: ModelWorkload, layer: LayerSpec) -> dict[str, Any]:
    return {"q_heads": layer.q_heads, "kv_heads": layer.kv_heads, "head_dim": layer.head_dim, "dtype": workload.dtype}


def _prompt(workload: ModelWorkload, layer: LayerSpec, rung: Rung, machine: Machine) -> float:
    """A layer's attention of a prompt, chunk by chunk as our decoder reads it."""
    heads = _heads(workload, layer)
    seconds = 0.0
    for start in range(0, workload.q_len, CHUNK):
        tokens = min(CHUNK, workload.q_len - start)
        before = start if layer.window is None else min(start, layer.window - 1)
        chunk = Workload(tokens, before + tokens, layer.mask, **heads)
        seconds += predict(chunk, machine, skip=rung.skip).seconds
    return seconds


def _step(workload: ModelWorkload, layer: LayerSpec, rung: Rung, machine: Machine) -> float:
    keys = workload.depth + workload.q_len
    step = DecodeWorkload(keys, q_len=workload.q_len, window=layer.window, **_heads(workload, layer))
    if machine.sms is None:  # a CPU, whose steps have no splits
        return predict(step, machine).seconds
    return schedule(step, machine, "blockskip" if rung.split else "one").seconds


def predictions(workloads: Iterable[ModelWorkload], machines: Iterable[Machine]) -> pd.DataFrame:
    """A row for each call, rung that differs there, and machine; source `predicted`."""
    return _table(
        _prediction(workload, rung, machine)
        for machine in machines
        for workload in workloads
        for rung in RUNGS
        if same_as(rung.name, workload.phase) == rung.name
    )


def _prediction(workload: ModelWorkload, rung: Rung, machine: Machine) -> RowDict:
    parts = predicted_parts(workload, rung, machine)
    seconds = sum(parts.values())
    return {
        **workload.axes(), "run_id": f"roofline of {machine.name}", "source": "predicted", "device": machine.name,
        "contender": rung.name, "by_kind": 0, "parts": {name: round(took * 1e9) for name, took in parts.items()},
        "tokens_per_s": workload.q_len / seconds, **dict.fromkeys(("median_ms", "low_ms", "high_ms"), seconds * 1e3),
    }  # fmt: skip


PUBLISHED = {
    "coalesced int4 metadata": ("ladder-1-dense", "ladder-4-coalesced"),
    "split-K decode": (None, "ladder-5-splits"),
    "vectorised activation loads": (None, "ladder-6-vector"),
}
"""The rungs before and after each published change of decode; None: where a rate of that rung is there already."""


def published_rungs() -> pd.DataFrame:
    """The pull request's rates by rung, and on the highest one those of the later table; source `published`.

    Steps: of no depth where none is told.
    """
    before = {"model": MODEL, "bits": 4, "by_kind": 0, "source": "published", "device": PUBLISHER}
    rows = [
        {**before, "phase": "prefill", "depth": 0, "contender": rung, "q_len": int(row["q_len"]),
         "tokens_per_s": row["tokens_per_s"]}
        for name, rung in (("executorch before", "ladder-1-dense"), ("executorch after", "ladder-3-bounds"))
        for row in query(published("prefill"), contender=name).to_dict("records")
    ]  # fmt: skip
    for line in lines_of("executorch-20198-decode.csv"):
        for side, rung in zip(("before", "after"), PUBLISHED[line["change"]], strict=True):
            if rung is not None:
                rate, depth = float(line[f"{side}_tps"]), float(line["prompt_tokens"] or "nan")
                step = {"phase": "decode", "q_len": 1, "depth": depth}
                rows.append({**before, **step, "contender": rung, "tokens_per_s": rate})
    later = query(published("model"), contender="executorch").to_dict("records")
    return _table([*rows, *({**row, "contender": LADDER[-1], "device": LATER} for row in later)])


def lines_of(name: str) -> list[dict[str, str]]:
    """The lines of a file in `data/published`."""
    with data_path("published", name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def _table(rows: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows as a frame, what they share filled in; their labels say the rung."""
    numbers = {name: number for number, name in enumerate(LADDER, start=1)}
    common = {"operation": "model", "status": "ok", "flags": "", "error_text": "", "dtype": "bfloat16", "batch": 1}
    records = [
        {**common, **row, "label": f"{numbers[row['contender']]}: {rung_of(row['contender']).added}"}  # pyright: ignore[reportOptionalMemberAccess]
        for row in rows
    ]  # fmt: skip
    empty = {"parts": None}
    return table_of({name: [row.get(name, empty.get(name, np.nan)) for row in records] for name in COLUMNS})


def ladder(
    measured: pd.DataFrame, workloads: Iterable[ModelWorkload] | None = None, on: Iterable[Machine] | None = None
) -> pd.DataFrame:
    """All there is of the ladder: published, predicted, and what was measured of its rungs.

    measured: of `store.frame` or `rated.rated`; it may be empty. workloads: what is predicted; None: `CALLS`, and the
    calls that were measured. on: what it is predicted for, `machines()` if None.
    """
    rungs: Any = measured[(measured["operation"] == "model") & measured["contender"].isin(LADDER)]
    wanted = dict.fromkeys((*CALLS, *known(calls(rungs))) if workloads is None else workloads)
    predicted = predictions(wanted, machines() if on is None else on)
    parts = [published_rungs(), predicted, rungs.reindex(columns=list(COLUMNS))]
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def calls(table: pd.DataFrame) -> list[Call]:
    """The calls of which a table has rungs that were predicted or measured."""
    held: Any = table[table["contender"].isin(LADDER) & (table["source"] != "published")]
    axes = held[[field.name for field in fields(Call)]].drop_duplicates()
    whole = ("q_len", "depth", "bits", "group_size")
    return [Call(**{**row, **{name: int(row[name]) for name in whole}}) for row in axes.to_dict("records")]


def known(some: Iterable[Call]) -> list[ModelWorkload]:
    """Those of models that the lab knows by name, as workloads: what can be predicted."""
    return [ModelWorkload(**vars(call)) for call in some if call.model in model_names()]


def of_call(table: pd.DataFrame, workload: Call | ModelWorkload) -> pd.DataFrame:
    """The good rows of a call's rungs, the lowest first, one for each rung of a source and device.

    Of several runs on a device the one with the most rungs counts, of those the newest. Published steps stand beside
    any that are behind about as many tokens.
    """
    good: Any = table[(table["status"] == "ok") & table["tokens_per_s"].notna() & (table["phase"] == workload.phase)]
    good = good[good["contender"].isin(list(adds(workload.phase)))]
    published = good["source"] == "published"
    near = workload.phase == "decode" and workload.q_len == 1 and NEAR[0] <= workload.depth <= NEAR[1]
    same = (good["q_len"] == workload.q_len) & (
        (good["depth"] == workload.depth)
        | (near & published & (good["depth"].isna() | (good["depth"] == PUBLISHED_DEPTH)))
    )
    for name in ("model", "bits", "group_size", "dtype"):
        same &= (good[name] == getattr(workload, name)) | (published & good[name].isna())
    good = good[same].assign(order=[LADDER.index(name) for name in good[same]["contender"]])
    rungs = good.groupby(["source", "device", "run_id"], sort=False)["order"].transform("nunique")
    good = good.assign(rungs=rungs).sort_values(["rungs", "run_id"], ascending=False, kind="stable")
    good = good.drop_duplicates(["source", "device", "contender"])
    return good.sort_index().sort_values("order", kind="stable")


def share_of_attention(parts: Mapping[str, float] | None) -> float:
    """Attention's share of a call that was taken apart by name; nan for one that was not."""
    if not isinstance(parts, Mapping) or not sum(parts.values()):
        return float("nan")
    return sum(parts.get(name, 0) for name in ATTENTION) / sum(parts.values())


def shares(table: pd.DataFrame, workload: Call | ModelWorkload) -> dict[tuple[str, str], dict[str, float]]:
    """Attention's share of a prompt by rung, for each source and device; published ones from `data/published`."""
    found = defaultdict[tuple[str, str], dict[str, float]](dict)
    if workload.phase == "prefill" and workload.model == MODEL:
        (line,) = lines_of("executorch-20198-share.csv")
        for side, rung in (("before", "ladder-1-dense"), ("after", "ladder-3-bounds")):
            found["published", PUBLISHER][rung] = float(line[f"{side}_percent"]) / 100
    for row in of_call(table, workload).to_dict("records"):
        share = share_of_attention(row["parts"])
        if share == share:
            found[row["source"], row["device"]][row["contender"]] = share
    return dict(found)
