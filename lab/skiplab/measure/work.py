"""The work of a call by its plan: FLOPs and bytes; and whether a time for it can be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple
from typing import Any

import blockskip as bs
import torch
from blockskip.attention.route import Plan

from skiplab.contenders import Contender, is_cuda
from skiplab.machine import Machine, device_name, known_gpus, measured_machine, this_machine
from skiplab.measure.point import WorkDone
from skiplab.roofline import bound_of
from skiplab.workload import AnyWorkload, DecodeWorkload, LinearWorkload, Workload

MEASURED_ROOF_MARGIN = 1.1  # a measured roof is the best seen, not the best there is


def plan_and_work(
    entry: Contender, workload: AnyWorkload, inputs: Sequence[torch.Tensor], arguments: Sequence[Any]
) -> tuple[dict[str, Any], WorkDone]:
    """What our own implementation says that it will do, {} for everybody else's; and the work that is in it.

    arguments: what the contender's `prepare` made of the workload's inputs, as a packed weight.
    """
    if isinstance(workload, Workload):
        plan = plan_of(entry, workload, inputs)
        return _plan_facts(plan), work_done(entry, workload, plan)
    least = workload.work()
    moved = least.bytes
    facts: dict[str, Any] = {}
    if isinstance(workload, DecodeWorkload) and entry.name == "blockskip":
        q, k, v = inputs
        chosen = bs.explain_decode(q, k, v, kv_len=workload.kv_len, window=workload.window)
        config = chosen.config and list(astuple(chosen.config))
        facts = {"impl": chosen.impl, "config": config, "splits": chosen.splits}
        moved = workload.work(chosen.splits).bytes
    if isinstance(workload, LinearWorkload) and entry.name == "blockskip":
        product = bs.explain_linear(*arguments)
        config = product.config and list(astuple(product.config))
        facts = {"impl": product.impl, "kernel": product.kernel, "config": config, "splits": product.splits}
    if isinstance(workload, LinearWorkload) and entry.moved is not None:
        moved = workload.moved(entry.moved(workload))
    return facts, WorkDone(least.useful_flops, least.executed_flops, least.dense_flops, moved, least.bytes)


def work_done(entry: Contender, workload: Workload, plan: Plan | None) -> WorkDone:
    """The FLOPs and bytes of the contender's call on this workload; our own kernels' tiles are those of their plan."""
    least = workload.work("bounds")  # reads no mask and no map
    skip, tile = entry.skip, entry.tile
    if plan is not None and plan.config is not None:
        skip, tile = plan.skip, (plan.queries_per_tile, plan.config.block_n)
    if skip is None or tile is None:
        return WorkDone(least.useful_flops, None, least.dense_flops, least.bytes, least.bytes)
    work = workload.work(skip, *tile)
    mask = entry.mask_bytes(workload)
    moved = full_bytes(workload, entry.repeats_heads) + mask if mask else work.bytes
    return WorkDone(work.useful_flops, work.executed_flops, work.dense_flops, moved, least.bytes)


def plan_of(entry: Contender, workload: Workload, inputs: Sequence[torch.Tensor]) -> Plan | None:
    """What our own attention says that it will do; None for everybody else's."""
    if entry.skip is None or entry.tile is not None:
        return None
    q, k, v = inputs
    config: Any = entry.config
    return bs.explain(q, k, v, workload.mask, q_start=workload.q_start, skip=entry.skip, config=config)


def _plan_facts(plan: Plan | None) -> dict[str, Any]:
    if plan is None:
        return {}
    config = plan.config and list(astuple(plan.config))
    return {
        "impl": plan.impl, "skip": plan.skip, "config": config, "packed": plan.packed, "kernel": plan.kernel,
        "splits": plan.splits, **({"origin": plan.origin.how, "tuned_on": plan.origin.device} if plan.origin else {}),
    }  # fmt: skip


def full_bytes(workload: Workload, repeats_heads: bool = False) -> int:
    """q, k, v and out once, all keys; of each query head its own where they are repeated."""
    key_heads = workload.q_heads if repeats_heads else workload.kv_heads
    elements = workload.q_len * workload.q_heads + workload.keys * key_heads
    return 2 * workload.element_bytes * workload.batch * workload.head_dim * elements


def is_impossible(seconds: float, work: WorkDone, workload: AnyWorkload, device: str, machine: Machine | None) -> bool:
    """Whether the time is below what the data sheet of a known GPU allows, else below this device's measured roofs.

    On a CPU the caches may hold everything, so there only the products count. A roof that was measured while the
    machine was busy is too low: before a point is called impossible it is measured again.
    """
    moved = work.minimal_bytes if is_cuda(device) else 0
    sheet = _data_sheet(device_name(device)) if is_cuda(device) else None
    if sheet is not None:
        return seconds < bound_of(work.useful_flops, moved, sheet).seconds

    def beats(roof: Machine) -> bool:
        return seconds * MEASURED_ROOF_MARGIN < bound_of(work.useful_flops, moved, roof).seconds

    return beats(machine or this_machine(device, workload.dtype)) and beats(measured_machine(device, workload.dtype))


def _data_sheet(name: str) -> Machine | None:
    """The data sheet of a GPU; a driver says `NVIDIA H100 80GB HBM3` for what it calls `NVIDIA H100 SXM`."""
    if name in known_gpus():
        return known_gpus()[name]
    model = " ".join(name.split()[:2])
    return next((gpu for gpu in known_gpus().values() if gpu.name.startswith(f"{model} ")), None)
