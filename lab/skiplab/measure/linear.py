"""What measuring a quantised linear layer needs: awkward shapes, the truth, and the work by its plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import blockskip as bs
import torch
from blockskip.linear.measured import values_of

from skiplab.contenders import Contender
from skiplab.measure.point import WorkDone
from skiplab.measure.rotated import timed
from skiplab.measure.truth import Truth
from skiplab.workload import LinearWorkload

__all__ = ["awkward", "expected", "plan_and_work", "read_bytes", "timed"]

PLANNED = ("blockskip", "blockskip-tiles")
"""Our contenders that choose a kernel themselves, and say which."""
# (out_features, in_features, rows, bits, group_size, symmetric)
AWKWARD: tuple[tuple[int, int, int, int, int, bool], ...] = (
    (1, 32, 1, 4, 32, False),
    (7, 96, 1, 4, 32, True),
    (33, 160, 3, 4, 32, False),
    (64, 5376, 1, 4, 64, False),
    (129, 1024, 8, 4, 128, False),
    (65, 544, 2, 8, 32, False),
    (48, 256, 1, 8, 128, True),
    (96, 384, 9, 4, 32, False),
    (17, 128, 70, 8, 64, False),
)


def awkward(dtype: str) -> list[LinearWorkload]:
    """Workloads that have caught bugs, in that dtype."""
    return [LinearWorkload(*shape, dtype=dtype) for shape in AWKWARD]


def expected(
    workload: LinearWorkload,
    entry: Contender,
    device: str,
    seed: int,
    inputs: Sequence[torch.Tensor],
    deviation: float,
    sampled: bool | None,
) -> Truth:
    """The truth for a linear layer's contender on these inputs: all rows, [rows, out_features]."""
    x, weight = entry.operands(workload, inputs) if entry.operands else (tensor.double() for tensor in inputs)
    out, magnitude = x @ weight.mT, (x.abs() @ weight.abs_().mT).max().item()
    inside = workload.in_features * torch.finfo(torch.float32).eps / 2 + entry.weight_rounding
    rounding = torch.finfo(workload.torch_dtype).eps / 2 * out.abs().max().item()
    return Truth(torch.arange(workload.rows, dtype=torch.int64, device="cpu"), out, inside * magnitude + rounding)


def plan_and_work(
    entry: Contender, workload: LinearWorkload, inputs: Sequence[torch.Tensor], arguments: Sequence[Any]
) -> tuple[dict[str, Any], WorkDone]:
    """The plan of our own product ({} for peers), and the work of the call."""
    least = workload.work()
    facts: dict[str, Any] = {}
    if entry.name in PLANNED:
        product = bs.explain_linear(*arguments)
        sizes = values_of(product.config)
        config = [sizes[name] for name in sizes if name != "splits" and sizes[name] is not None] or None
        facts = {"impl": product.impl, "kernel": product.kernel, "config": config, "splits": product.splits}
        if product.origin is not None:
            facts |= {"origin": product.origin.how, "tuned_on": product.origin.device}
    moved = least.bytes if entry.moved is None else workload.moved(entry.moved(workload))
    return facts, WorkDone(least.useful_flops, least.executed_flops, least.dense_flops, moved, least.bytes)


def read_bytes(entry: Contender, workload: LinearWorkload, work: WorkDone) -> int | None:
    """The bytes of its arguments that a call reads: all of them."""
    return None
