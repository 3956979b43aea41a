"""From a checked call of packed sequences and its plan to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from ...launching.dispatch import Launch
from ...launching.fitting import fitting
from ...launching.memory import Memory, tokens_first
from ...launching.primitives import interpreting
from ...launching.ready import Ready, Step
from ...launching.view import View
from ..band import Lengths, limits_of
from ..call import in_float32
from ..prefill.launch import step_of
from ..prefill.schedule import multiprocessors
from ..sequences import ITEM, ROWS_UNKNOWN
from .call import VarlenCall
from .plan import VarlenPlan
from .schedule import ROWS, SEQUENCES, most_items, parts_of, schedule

Result = tuple[torch.Tensor, torch.Tensor | None]
"""(out, lse or None)."""


def ready_varlen(call: VarlenCall, plan: VarlenPlan) -> Callable[..., Result]:
    """f(*call.tensors) -> (out, lse or None) by the prefill kernels, for calls of this one's kind.

    ValueError where the plan's configuration does not fit the device.
    """
    if interpreting() and call.q.dtype == torch.bfloat16:
        # wrong in Triton's interpreter: there the kernel computes in float32 and torch rounds at the end
        return partial(_rounded, ready_varlen(call.given(in_float32(call.tensors)), plan))
    out, lse, items = _memory(call, plan)
    results = [(len(call.q), *call.q.shape[1:]), lse[0][1:] if lse else ()]
    with fitting(plan.prefill.config, plan.origin):
        ready = Ready(call.tensors, (out, lse, items), partial(_steps, call, plan), results=results)
    return partial(_launch, ready)


def _launch(ready: Ready, *tensors) -> Result:
    out, lse = ready(*tensors)
    return out, lse


def _rounded(attend: Callable[..., Result], *tensors) -> Result:
    out, lse = attend(*in_float32(tensors))
    return out.bfloat16(), lse


def _memory(call: VarlenCall, plan: VarlenPlan) -> tuple[Memory, Memory | None, Memory]:
    """Of out and lse, as one batch, and of the list of items."""
    attention = call.attention
    shape = tuple(attention.q.shape)
    items = most_items(shape[2], call.sequences, plan.queries_per_tile) + 1
    lse = ((1, *shape[1:3]), torch.float32) if attention.return_lse else None
    return (shape, call.q.dtype, tokens_first(shape)), lse, ((items * ITEM.value,), torch.int32)


def _steps(call: VarlenCall, plan: VarlenPlan, inputs, made) -> Iterator[Step]:
    """The list of items, then attention."""
    call = call.given(inputs)
    out, lse, items = made
    tile, sequences = plan.queries_per_tile, call.sequences
    capacity = most_items(len(call.q), sequences, tile)
    arguments = items, call.cu_q, call.cu_k, sequences, len(call.q), len(call.k), capacity, limits_of(plan.mask)
    constants = {"QUERIES": tile, "ROWS": ROWS, "SEQUENCES": SEQUENCES}
    grid = sequences + 1, parts_of(len(call.q), tile)
    yield Step(schedule, Launch(arguments, constants, grid), {"num_warps": 4})
    yield attend_step(call, plan, out, lse, items, capacity)


def attend_step(call: VarlenCall, plan: VarlenPlan, out, lse, items, capacity: int) -> Step:
    """The launch of the plan's kernel. out [1, Hq, total, D]; lse [1, Hq, total] or None."""
    out, lse = (
        None if t is None else View.of(t)._replace(shape=(*t.shape[:2], ROWS_UNKNOWN, *t.shape[3:])) for t in (out, lse)
    )
    views = [*map(view_of, (call.q, call.k, call.v)), out, lse, None]
    attention, prefill = call.attention, plan.prefill
    heads = attention.k.shape[1] if plan.packed else attention.q.shape[1]
    lengths = Lengths(ROWS_UNKNOWN, None, None, None, items)
    assert plan.config is not None
    if not plan.config.warp_specialized:
        grid = capacity * plan.interleave, heads // plan.interleave, 1
        return step_of(attention, prefill, views, lengths, grid, plan.interleave)
    programs = min(capacity * heads, multiprocessors(call.q.device))
    return step_of(attention, prefill, views, lengths, (programs,), plan.interleave)


def view_of(packed: torch.Tensor) -> View:
    """[total, heads, D] as [1, heads, total, D]."""
    _, heads, dim = packed.shape
    row, head, element = packed.stride()
    return View(packed, (1, heads, ROWS_UNKNOWN, dim), (row, head, row, element))
