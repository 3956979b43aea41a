"""The work of the Measure button: dense + mask and blockskip on one workload, on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass

import psutil

from skiplab.contenders import contender
from skiplab.figures import theme
from skiplab.machine import Machine, default_device, this_machine
from skiplab.machine.roofline import predict
from skiplab.measure import Child, Measurement, Point, measure
from skiplab.widgets.worker import Stages
from skiplab.workload import Workload

PAIR = ("sdpa", "blockskip")
LONGEST_S = 20.0
"""A single call that is predicted to take longer on this machine is not started from a button."""


@dataclass(frozen=True)
class Refused:
    """Why a measurement is not started, and what to do instead."""

    what: str
    advice: str


def dense_mask_copies(device: str) -> int:
    """Bytes that torch's SDPA holds for each pair: the bool mask; on a CPU also its copy as float32."""
    return 1 if device.startswith("cuda") else 5


def free_bytes(device: str) -> int:
    """Memory that a measurement may take."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    return psutil.virtual_memory().available


def refusal(workload: Workload, name: str, machine: Machine, device: str) -> Refused | None:
    """Why this contender is not started on this workload: too much memory or far too long; None when it is fine."""
    label = contender(name).label
    dense = contender(name).bool_mask
    need = workload.q_len * workload.keys * dense_mask_copies(device) if dense else 0
    free = free_bytes(device)
    if need > 0.7 * free:
        fits = int(workload.q_len * (0.5 * free / need) ** 0.5)
        return Refused(
            f"{label} needs {need / 1e9:.1f} GB for its mask; {free / 1e9:.1f} GB are free.",
            f"Shorten the prompt to about {fits:,} tokens; blockskip holds no such mask.",
        )
    seconds = predict(workload, machine, skip="none" if dense else "map").seconds
    if seconds > LONGEST_S:
        return Refused(
            f"One call of {label} is predicted to take {theme.seconds(seconds)} here at the very best.",
            "Shorten the prompt, or choose a smaller head shape; `skiplab sweep` measures without this limit.",
        )
    return None


def measure_pair(
    workload: Workload,
    cancelled: Callable[[], bool],
    say: Callable[[str], None],
    *,
    budget_s: float = 3.0,
    isolate: bool = True,
    contenders: tuple[str, ...] = PAIR,
) -> Iterator[Measurement | Refused]:
    """Yield the measurement of each contender, in order, or why it was refused. Stops early when cancelled."""
    device, stages = default_device(), Stages(cancelled, say)
    say("measuring this machine's roofs (about 2 s, once)")
    machine = this_machine(device, workload.dtype)
    with Child() if isolate else nullcontext() as child:
        for number, name in enumerate(contenders, start=1):
            if cancelled():
                return
            reason = refusal(workload, name, machine, device)
            if reason is not None:
                yield reason
                continue
            turn = f"{contender(name).label} ({number} of {len(contenders)})"
            words = f"{turn}: checking against float64, which may take longer, then timing for {budget_s:g} s at most"
            take = child.measure if child is not None else measure
            stages.begin(words)
            yield take(Point(workload, name, device=device), budget_s=budget_s, machine=machine, cancelled=stages)
