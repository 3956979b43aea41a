"""Timelines recorded on this machine's GPU, by Proton's records from inside the kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from skiplab.contenders import with_config
from skiplab.contenders.source import source_of, why_no_source
from skiplab.measure.fresh import run_fresh
from skiplab.replay.timeline import Timeline
from skiplab.replay.traces import read_timeline
from skiplab.workload import Problem

NEEDS_GPU = "timeline: Proton records it from inside a kernel that runs on a CUDA GPU, and torch sees none here"


def why_no_timeline() -> str | None:
    """None if a timeline can be recorded here, else the reason."""
    import torch

    return None if torch.cuda.is_available() else NEEDS_GPU


def record_timeline(call: Callable[[], Any]) -> dict[str, Timeline]:
    """The timelines of the kernels that a call launches, by kernel, from the scopes of Proton's in their source.

    Those are `enter_scope` and `exit_scope` of `triton.profiler.language`; without this call they are not compiled in,
    and cost nothing. With it kernels are compiled anew, and run slower than they do. Of a contender, ours or yours:
    `contender_timelines`. The call is made for 50 ms before it is recorded, for its kernels are compiled in the first
    and a GPU's clock needs some time. ValueError without a GPU, and where nothing is recorded.
    """
    if (reason := why_no_timeline()) is not None:
        raise ValueError(reason)
    from skiplab.replay.proton import recorded_launches, timelines_of

    return timelines_of(recorded_launches(call))


def contender_timelines(
    name: str,
    workload: Problem,
    config: Sequence[int] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> dict[str, Timeline]:
    """The timelines of the kernels that a contender launches for a workload, by kernel, recorded on this machine's GPU.

    They are recorded in a process of their own. name: one of ours, or your own, which reaches that process by its
    source; each program of a kernel of yours has a scope around it, beside those that it names. config: the
    contender's sizes, None for those that it takes. ValueError without a GPU, and for a contender that cannot do it;
    RuntimeError(what, advice) where it fails; Cancelled when cancelled.
    """
    entry = with_config(name, None if config is None else tuple(config), workload.operation)
    source = None if entry.is_own else source_of(entry)
    if source is None and not entry.is_own:
        raise ValueError(f"kernel: {why_no_source(entry)}")
    if (reason := why_no_timeline()) is not None:
        raise ValueError(reason)
    if (reason := entry.refusal(workload, "cuda")) is not None:
        raise ValueError(f"contender: {name} cannot do {workload.key()}: {reason}")
    request = {
        "name": name, "axes": workload.axes(), "config": config and list(config),
        "source": source and source.text,
    }  # fmt: skip
    with TemporaryDirectory() as folder:
        written = run_fresh("skiplab.replay.scoped", {**request, "folder": folder}, cancelled, interpret=False)
        return {kernel: read_timeline(Path(folder) / file)[kernel] for kernel, file in written.items()}
