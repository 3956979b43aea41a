"""Which tiles a GPU runs the prefill kernel fastest with: `skiplab tune`.

Candidates (`tuning.candidates`) are compiled in parallel, without the GPU, and dropped where they spill or do not fit.
What is left is checked and timed, one after the other, into an ordinary run file; `tuning.winners` makes
`configs/<device>.json` of any such run.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import shlex
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, ClassVar, cast

import blockskip as bs
import torch
from blockskip.arguments import choice, integer, number
from blockskip.config import TileConfig
from blockskip.gpu import Gpu

from skiplab.contenders import is_cuda
from skiplab.machine import device_kind, this_machine
from skiplab.measure import Child, Measurement, Point
from skiplab.provenance import source_hash
from skiplab.store import Run, RunWriter
from skiplab.store.keys import without_index
from skiplab.sweep import default_path, ending, row_key, run_header, usable
from skiplab.tuning.candidates import Compiled, Config, Job, candidates, compile_all
from skiplab.tuning.winners import class_of, rankings, table_config
from skiplab.workload import DTYPES, Workload

SPILL_BYTES = 64
"""A few spilled registers may pay, and the clock decides that; what spills more is not timed."""
RACE = 1.25
"""Times the fastest: what was slower on the first workload of a length class is not timed on the others."""
FINALISTS = 3
FINAL_BUDGETS = 4

Take = Callable[..., Measurement]


@dataclass(frozen=True)
class Tuning:
    """What is tuned: every mask x prompt length, for one shape of heads, dtype and device, as a run holds them.

    heads: `query heads/key heads x head size`, as 32/16x256. mask: texts that `Mask.from_spec` reads, by default one
    of each kind that tiles are kept for (`blockskip.tuned.MASK_KINDS`). config: these
    (block_m, block_n, num_warps, num_stages) alone, None for all that may be good. budget_s: seconds that a candidate
    is timed at most, in each of three ways. ValueError names the field, what was given and what is allowed.
    """

    heads: str = "32/16x256"
    mask: tuple[str, ...] = ("causal()", "sliding_window(1024)", "sliding_window(1024) | (sink(4) & causal())")
    q_len: tuple[int, ...] = (256, 1024, 4096, 8192)
    config: tuple[Config, ...] | None = None
    dtype: str = "bfloat16"
    device: str = "cuda"
    seed: int = 0
    budget_s: float = 0.03
    operation: ClassVar[str] = "attention"

    def __post_init__(self) -> None:
        choice("dtype", self.dtype, DTYPES)
        integer("seed", self.seed, 0)
        if number("budget_s", self.budget_s) <= 0:
            raise ValueError(f"budget_s: got {self.budget_s}; allowed is more than 0 seconds")
        for config in self.config or ():
            TileConfig.of(config)
        if not self.workloads():
            raise ValueError("mask, q_len: got none of one of them; at least one of each is needed")

    @property
    def key(self) -> str:
        """Eight letters that name these parameters, whichever GPU of a machine they are for."""
        return hashlib.sha256(repr(replace(self, device=device_kind(self.device))).encode()).hexdigest()[:8]

    def workloads(self) -> list[Workload]:
        """All masks of a prompt length after each other."""
        q_heads, kv_heads, head_dim = _heads(self.heads)
        shape = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "dtype": self.dtype}
        return [
            Workload(q_len, mask=bs.Mask.from_spec(mask), **shape) for q_len, mask in product(self.q_len, self.mask)
        ]

    def command(self) -> str:
        """The command line that repeats it."""
        words = ["skiplab tune"]
        for field in fields(self):
            value = getattr(self, field.name)
            name = field.name.removesuffix("_s").replace("_", "-")
            several = value if isinstance(value, tuple) else () if value is None else (value,)
            words += [f"--{name} {_word(one)}" for one in several]
        return " ".join(words)


def _word(value: Any) -> str:
    text = "x".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return shlex.quote(text)


def _heads(text: str) -> tuple[int, int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)x(\d+)", text)
    if found is None:
        raise ValueError(f"heads: got {text!r}; allowed is query heads/key heads x head size, as 32/16x256")
    q_heads, kv_heads, head_dim = map(int, found.groups())
    return q_heads, kv_heads, head_dim


def tune(
    tuning: Tuning,
    path: Path | str | None = None,
    *,
    jobs: int | None = None,
    spills: int = SPILL_BYTES,
    limit_s: float = 480.0,
    cancelled: Callable[[], bool] = lambda: False,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> Run:
    """Compile, check and time the candidates; the run file (default: in data/runs) is continued if it exists.

    jobs: processes that compile, as many as processors by default. spills: bytes that a candidate's thread may spill.
    limit_s: seconds for all; what has been measured by then is kept. Raises Cancelled when that ends, or it is
    cancelled, before anything is timed; ValueError without a GPU to time on.
    """
    if not (usable(tuning.device) and is_cuda(tuning.device)):
        raise ValueError(
            f"device: tuning times kernels on a GPU, and torch sees no {tuning.device} here that is one; "
            "without one, make the configurations of a run: skiplab tune --from-run RUN"
        )
    start = time.monotonic()
    path = path or default_path(cast(Any, tuning), "tune")
    device = torch.cuda.get_device_properties(tuning.device)
    gpu = Gpu(device.name, (device.major, device.minor), device.multi_processor_count)

    def stop() -> bool:
        return cancelled() or time.monotonic() - start > limit_s

    kept = prune(tuning, gpu, jobs or len(os.sched_getaffinity(0)), spills, say, cancelled=stop, progress=progress)
    with Child() as child:
        done = measure_all(tuning, path, gpu, kept, child.measure, cancelled=stop, progress=progress)
    if time.monotonic() - start > limit_s:
        say(f"Stopped after {limit_s:g} s; what was measured is kept, and the same command goes on.")
    return done


Kept = Mapping[Workload, Mapping[Config, Compiled | None]]
"""For each workload the configurations to time, the table's first, and what they compiled to."""


def prune(
    tuning: Tuning,
    gpu: Gpu,
    workers: int,
    spills: int,
    say: Callable[[str], None],
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> Kept:
    """The candidates of each workload that compile, fit and do not spill; the table's own is the first, always."""
    classes = {w: class_of(w.axes(), gpu.sms) for w in tuning.workloads()}
    shared: dict[bs.Mask, Workload] = {}  # prompts of several lengths run the same kernel
    jobs: dict[Workload, list[Job]] = {}
    for w, one in classes.items():
        first = shared.setdefault(w.mask, w)
        wanted = candidates(gpu.capability, w.head_dim, w.torch_dtype, one.length, tuning.config)
        jobs[w] = [Job(gpu.capability, first, config) for config in wanted]
    kernels = list(dict.fromkeys(job for several in jobs.values() for job in several))
    compiled = compile_all(kernels, workers, cancelled, progress)
    refusals = {job: one.refusal(gpu.capability, spills) for job, one in compiled.items()}
    refused = Counter(text for text in refusals.values() if text)
    counts = ", ".join(f"{count} {text}" for text, count in refused.items())
    say(f"{len(jobs)} workloads, {len(compiled)} kernels compiled; left out: {counts or 'none'}")
    return {
        w: {table_config(one, gpu): None} | {job.config: compiled[job] for job in jobs[w] if not refusals[job]}
        for w, one in classes.items()
    }


def measure_all(
    tuning: Tuning,
    path: Path | str,
    gpu: Gpu,
    kept: Kept,
    take: Take,
    *,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> Run:
    """Check and time what is kept, then the best of each class once more and for longer; rows go into the run file.

    take: `Child.measure`, or something that is called alike. What was slow on the first workload of a length class is
    not timed on the others.
    """
    from tqdm.auto import tqdm

    machine = this_machine(tuning.device, tuning.dtype)
    with RunWriter(path, run_header(cast(Any, tuning), "tune", machine)) as writer:
        times = _recorded(writer.run, kept, tuning.device)
        groups: dict[str, list[Workload]] = {}
        for w in kept:
            groups.setdefault(class_of(w.axes(), gpu.sms).length, []).append(w)
        bar = tqdm(total=sum(map(len, kept.values())), unit="point", desc="measured", disable=not progress)

        def measured(w: Workload, config: Config, budget_s: float) -> float:
            point = Point(w, "blockskip", config, tuning.device)
            taken = take(point, tuning.seed, budget_s, machine=machine, retries=0, cancelled=cancelled)
            writer.append(_row(taken, kept[w].get(config)))
            return taken.median_ns

        with ending(writer):
            with bar:
                for group in groups.values():
                    for w in group:
                        earlier = [times[one] for one in group if one is not w]
                        for number, config in enumerate(kept[w]):
                            if config not in times[w] and (number == 0 or not _is_slow(config, earlier)):
                                times[w][config] = measured(w, config, tuning.budget_s)
                            bar.update()
            for w, config in _finalists(writer.run, kept, gpu.sms):
                measured(w, config, FINAL_BUDGETS * tuning.budget_s)
        return replace(writer.run, source="measured")


def _recorded(run: Run, kept: Kept, device: str) -> dict[Workload, dict[Config, float]]:
    """The medians (nan for what failed) that the run holds already, of these kernels."""
    rows = {without_index(row["key"]): row for row in run.rows}
    keys = {(w, config): row_key(Point(w, "blockskip", config, device)) for w in kept for config in kept[w]}
    found: dict[Workload, dict[Config, float]] = {w: {} for w in kept}
    for (w, config), key in keys.items():
        if key in rows:
            found[w][config] = median(rows[key]["samples_ns"] or [math.nan])
    return found


def _is_slow(config: Config, others: Sequence[Mapping[Config, float]]) -> bool:
    """Whether it was timed (or failed) on workloads of the same class, and far from the fastest on all of them."""
    seen = [times for times in others if config in times]
    best = [min((ns for ns in times.values() if ns == ns), default=math.nan) for times in seen]
    return bool(seen) and not any(times[config] <= RACE * least for times, least in zip(seen, best, strict=True))


def _finalists(run: Run, kept: Kept, sms: int) -> list[tuple[Workload, Config]]:
    """The workloads of each class with its best configurations and the table's."""
    best = {one: list(ranking.scores)[:FINALISTS] for one, ranking in rankings([run]).items()}
    return [
        (w, config)
        for w, configs in kept.items()
        for config in dict.fromkeys((next(iter(configs)), *best.get(class_of(w.axes(), sms), ())))
    ]


def _row(taken: Measurement, compiled: Compiled | None) -> dict[str, Any]:
    """A run file's row; its contender is named by the configuration, so that tables and figures tell them apart."""
    config = taken.point.config
    assert config is not None
    name = "x".join(map(str, config))
    facts = {} if compiled is None else {key: value for key, value in asdict(compiled).items() if key != "problem"}
    return {
        **taken.row(), "key": row_key(taken.point), "source_hash": source_hash(),
        "contender": f"blockskip {name}", "label": name, "plan": {**taken.plan, **facts},
    }  # fmt: skip
