"""Two runs of the same points: what differs between their machines, and the ratio of their times.

A ratio here comes from one process on each side. Samples of one process are correlated, so the bootstrap interval says
how far the samples scatter, not how far two fresh processes would: no verdict is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from skiplab.store import OPERATION_AXES, Run

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = ("torch", "triton", "cuda", "python", "threads", "source_hash", "cpu")
RESAMPLES = 2000
BLOCK = 5  # neighbouring samples that are drawn together, since they are correlated


def differences(old: Run, new: Run) -> dict[str, tuple[Any, Any]]:
    """What the two headers say differently of device, software and kernel sources: name -> (old, new)."""

    def facts(header: Mapping[str, Any]) -> dict[str, Any]:
        device = {f"device {name}": value for name, value in header["device"].items()}
        return {**device, **{name: header.get(name) for name in IDENTITY}}

    before, after = facts(old.header), facts(new.header)
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def ratios(old: Run, new: Run) -> pd.DataFrame:
    """Points that are ok in both, other devices included: contender, axes, old_ms, new_ms, ratio, low, high.

    `ratio` is new time / old time, so below 1 the new run is faster; low and high bound it with 95 % (bootstrap over
    blocks of samples). The caller says when the devices or the timing methods differ.
    """
    import pandas as pd

    axes = OPERATION_AXES[new.operation]
    before = {_place(row): row for row in old.rows if row["status"] == "ok"}
    records = []
    for row in new.rows:
        partner = before.get(_place(row))
        if row["status"] != "ok" or partner is None:
            continue
        ratio, low, high = ratio_interval(partner["samples_ns"], row["samples_ns"])
        records.append({
            "contender": row["contender"], **{name: row["axes"][name] for name in axes},
            "old_ms": np.median(partner["samples_ns"]) / 1e6, "new_ms": np.median(row["samples_ns"]) / 1e6,
            "ratio": ratio, "low": low, "high": high, "same_method": partner["method"] == row["method"],
        })  # fmt: skip
    columns = ["contender", *axes, "old_ms", "new_ms", "ratio", "low", "high", "same_method"]
    return pd.DataFrame.from_records(records, columns=columns)


def _place(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """A point without its device: contender, config and axes."""
    return row["contender"], str(row.get("config")), tuple(sorted((k, str(v)) for k, v in row["axes"].items()))


def ratio_interval(old_ns: list[int], new_ns: list[int], seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the medians new / old with its 95 % block-bootstrap interval."""
    generator = np.random.default_rng(seed)
    medians = [_resampled_medians(np.asarray(samples, float), generator) for samples in (old_ns, new_ns)]
    low, high = np.percentile(medians[1] / medians[0], (2.5, 97.5))
    return float(np.median(new_ns) / np.median(old_ns)), float(low), float(high)


def _resampled_medians(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    block = min(BLOCK, len(samples))
    starts = generator.integers(0, len(samples) - block + 1, (RESAMPLES, -(-len(samples) // block)))
    return np.median(samples[starts[..., None] + np.arange(block)].reshape(RESAMPLES, -1), axis=1)
