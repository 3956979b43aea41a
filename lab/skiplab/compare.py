"""Two runs of one operation: what differs between them, how each point's time changed, and which changes are noise.

A ratio comes from one process on each side. Samples of one process are correlated, so the bootstrap interval says how
far the samples scatter, not how far two fresh processes would. On an H100, points that two runs of `data/runs` share
lie up to 1.1 % apart where nothing of their code changed, one 2.7 %, with intervals of 0.1 to 0.5 %. So a verdict asks
for an interval that lies beyond a margin as a whole; one that matters deserves a second pair of runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from skiplab.operations import OPERATIONS
from skiplab.store import Run

if TYPE_CHECKING:
    import pandas as pd

IDENTITY = ("torch", "triton", "cuda", "python", "threads", "cpu")
VERDICTS = ("faster", "slower", "same", "unclear")
MARGIN = 0.01
DOUBTFUL = frozenset({"busy", "bimodal", "impossible", "unchecked"})
"""Flags that allow no verdict. `unconverged` is none: the interval tells it."""
RESAMPLES = 2000
BLOCK = 5  # neighbouring samples that are drawn together, since they are correlated


@dataclass(frozen=True)
class Pair:
    """A point that is ok in both runs: medians in milliseconds, and `ratio`, new time / old time, below 1 for faster.

    low, high: its 95 % interval. `doubts`: why the verdict is unclear whatever the interval, flags of either row first.
    """

    contender: str
    config: tuple[int, ...] | None
    axes: Mapping[str, Any]
    old_ms: float
    new_ms: float
    ratio: float
    low: float
    high: float
    verdict: str
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unpaired:
    """A point that is not ok in both runs: its status in each, None in a run that lacks it."""

    contender: str
    config: tuple[int, ...] | None
    axes: Mapping[str, Any]
    old: str | None
    new: str | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found. `differences`: name -> (old, new); points in the new run's order, then the old one's."""

    old: Run
    new: Run
    margin: float
    differences: Mapping[str, tuple[Any, Any]]
    pairs: tuple[Pair, ...]
    unpaired: tuple[Unpaired, ...]

    @property
    def counts(self) -> dict[str, int]:
        """Pairs of each verdict."""
        verdicts = Counter(pair.verdict for pair in self.pairs)
        return {verdict: verdicts[verdict] for verdict in VERDICTS}

    @property
    def is_worse(self) -> bool:
        """Whether a point is slower in the new run, or was ok and has failed there."""
        return bool(self.counts["slower"]) or any(one.old == "ok" and one.new is not None for one in self.unpaired)

    @property
    def same_device(self) -> bool:
        return self.old.device == self.new.device

    @property
    def axes(self) -> tuple[str, ...]:
        """The operation's axes, and others in which the points differ."""
        return differing_axes(self.new.operation, [one.axes for one in (*self.pairs, *self.unpaired)])

    def frame(self) -> pd.DataFrame:
        """The pairs as a table: contender, config, axes, old_ms, new_ms, ratio, low, high, verdict, doubts."""
        import pandas as pd

        records = [
            {**asdict(pair), **{name: pair.axes.get(name) for name in self.axes}, "doubts": ", ".join(pair.doubts)}
            for pair in self.pairs
        ]
        times = ("old_ms", "new_ms", "ratio", "low", "high", "verdict", "doubts")
        return pd.DataFrame.from_records(records, columns=["contender", "config", *self.axes, *times])

    def record(self) -> dict[str, Any]:
        """The same for scripts, JSON-able."""
        sides = {"old": self.old, "new": self.new}
        return {
            **{name: {"run_id": run.run_id, "device": run.device} for name, run in sides.items()},
            "operation": self.new.operation, "margin": self.margin, "same_device": self.same_device,
            "differences": {name: list(values) for name, values in self.differences.items()},
            "counts": self.counts, "points": [asdict(pair) for pair in self.pairs],
            "unpaired": [asdict(one) for one in self.unpaired],
        }  # fmt: skip


def compare(old: Run, new: Run, margin: float = MARGIN) -> Comparison:
    """Pair the points of two runs, other devices included, and judge the ratio of their times.

    faster, slower: the whole interval lies beyond 1 - margin or 1 + margin; same: it lies between them; unclear:
    neither, or a row is doubtful (`Pair.doubts`). Of a point measured twice the later row counts. ValueError where the
    runs are of different operations, a row lacks one of its axes, or margin is not within 0 and 1.
    """
    if not 0 <= margin < 1:
        raise ValueError(f"margin: got {margin}; allowed is 0 up to but not including 1")
    for run in (old, new):
        _check_axes(run)
    if old.operation != new.operation:
        raise ValueError(
            f"{_name(new)} is a run of {new.operation}, {_name(old)} one of {old.operation}; "
            "only runs of the same operation can be compared"
        )
    before, after = _rows(old), _rows(new)
    pairs, unpaired = [], []
    for axes in [*after, *(axes for axes in before if axes not in after)]:
        first, second = before.get(axes), after.get(axes)
        if first and second and first["status"] == second["status"] == "ok":
            pairs.append(_pair(first, second, margin))
        else:
            unpaired.append(_unpaired(first, second))
    return Comparison(old, new, margin, differences(old, new), tuple(pairs), tuple(unpaired))


def differences(old: Run, new: Run) -> dict[str, tuple[Any, Any]]:
    """What differs in device, software, git state and kernel sources: name -> (old, new)."""
    before, after = _facts(old), _facts(new)
    names = [*before, *(name for name in after if name not in before)]
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _facts(run: Run) -> dict[str, Any]:
    """The facts that `differences` compares. Kernel hashes are those of the rows: a continued run may have several."""
    header = run.header
    device = {f"device {name}": value for name, value in header["device"].items()}
    git = {f"git {name}": value for name, value in (header.get("git") or {}).items()}
    kernels = sorted({row["source_hash"] for row in run.rows if "source_hash" in row})
    sources = {"source_hash": ", ".join(kernels) or header.get("source_hash")}
    users: dict[str, set[str]] = {}
    for row in run.rows:
        if "kernel_hash" in row:
            users.setdefault(f"kernel {row['contender']}", set()).add(row["kernel_hash"])
    own = {name: ", ".join(sorted(hashes)) for name, hashes in users.items()}
    return {**device, **{name: header.get(name) for name in IDENTITY}, **git, **sources, **own}


def differing_axes(operation: str, axes: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The operation's varying axes, and others in which these points differ, except axes that follow from them."""
    axes, known = list(axes), OPERATIONS[operation].varying
    names = dict.fromkeys(name for one in axes for name in one if name not in known)
    if OPERATIONS[operation].without_window is not None or all(_names_its_mask(one) for one in axes):
        names.pop("mask", None)
    if all(one.get("kv_len") == one.get("q_len") for one in axes):
        names.pop("kv_len", None)
    return (*known, *(name for name in names if len({str(one.get(name)) for one in axes}) > 1))


def _names_its_mask(axes: Mapping[str, Any]) -> bool:
    return axes.get("window") is not None or axes.get("mask") == "causal()"


def _check_axes(run: Run) -> None:
    """ValueError for a row whose operation is unknown or not its run's, and for one that lacks an axis."""
    for row in run.rows:
        axes = row["axes"]
        operation, first = axes.get("operation"), run.rows[0]["axes"].get("operation")
        if operation != first or operation not in OPERATIONS:
            allowed = ", ".join(OPERATIONS) if operation == first else f"{first!r}, as of the first point"
            raise ValueError(f"{_name(run)}: operation of a point: got {operation!r}; allowed is {allowed}")
        missing = [name for name in OPERATIONS[operation].varying if name not in axes]
        if missing:
            raise ValueError(f"{_name(run)}: a point of {row['contender']} lacks the axis {', '.join(missing)}")


def _rows(run: Run) -> dict[tuple[Any, ...], Mapping[str, Any]]:
    """The rows by contender, config and axes, without the device; axes that are None are left out."""
    by_point = {}
    for row in run.rows:
        axes = tuple(sorted((name, str(value)) for name, value in row["axes"].items() if value is not None))
        by_point[row["contender"], _config(row), axes] = row
    return by_point


def _name(run: Run) -> str:
    return run.path.name if run.path else run.run_id


def _config(row: Mapping[str, Any]) -> tuple[int, ...] | None:
    return tuple(row["config"]) if row.get("config") else None


def _pair(old: Mapping[str, Any], new: Mapping[str, Any], margin: float) -> Pair:
    before, after = (float(np.median(row["samples_ns"])) / 1e6 for row in (old, new))
    ratio, low, high = ratio_interval(old["samples_ns"], new["samples_ns"])
    doubts = _doubts(old, new)
    verdict = "unclear" if doubts else _verdict(low, high, margin)
    return Pair(new["contender"], _config(new), new["axes"], before, after, ratio, low, high, verdict, doubts)


def _unpaired(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> Unpaired:
    row = new or old or {}
    before, after = (None if one is None else one["status"] for one in (old, new))
    return Unpaired(row["contender"], _config(row), row["axes"], before, after)


def _doubts(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[str, ...]:
    doubts = sorted(DOUBTFUL & {*old.get("flags", ()), *new.get("flags", ())})
    if old.get("method") != new.get("method"):
        doubts.append(f"timed by {old.get('method')}, then {new.get('method')}")
    if min(len(old["samples_ns"]), len(new["samples_ns"])) < BLOCK:
        doubts.append(f"fewer than {BLOCK} samples")
    return tuple(doubts)


def _verdict(low: float, high: float, margin: float) -> str:
    if high < 1 - margin:
        return "faster"
    if low > 1 + margin:
        return "slower"
    return "same" if low >= 1 - margin and high <= 1 + margin else "unclear"


def ratio_interval(old_ns: list[int], new_ns: list[int], seed: int = 0) -> tuple[float, float, float]:
    """Ratio of the medians new / old with its 95 % block-bootstrap interval."""
    generator = np.random.default_rng(seed)
    medians = [_resampled_medians(np.asarray(samples, float), generator) for samples in (old_ns, new_ns)]
    low, high = np.percentile(medians[1] / medians[0], (2.5, 97.5))
    return float(np.median(new_ns) / np.median(old_ns)), float(low), float(high)


def _resampled_medians(samples: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    count, block = len(samples), min(BLOCK, len(samples))
    starts = generator.integers(0, count, (RESAMPLES, -(-count // block)))
    indices = (starts[..., None] + np.arange(block)) % count  # round: else what was first and last would count for less
    return np.median(samples[indices].reshape(RESAMPLES, -1)[:, :count], axis=1)
