"""Packed prompts of different lengths through `cu_seqlens`: ours, torch's FlashAttention-2, FlashAttention 3 and 4.

All are given [total, heads, D], which is copied beforehand, and lengths on the device; a result is seen as the
workload's. The same workload's mask, `document(lengths)` and a band, is FlexAttention's and our tile map's.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
from collections.abc import Callable, Sequence
from dataclasses import astuple
from typing import Any

import blockskip as bs
import torch

from skiplab.contenders.attention import needs_cuda, needs_cuda_backend
from skiplab.contenders.base import REGISTRY, Build, Contender, Planned, Solver
from skiplab.contenders.flash import (
    fa3,
    first,
    needs_fa3,
    needs_fa3_windows,
    needs_fa4_package,
    not_for_flash,
    sides,
)
from skiplab.workload import Workload
from skiplab.workload.packed import PackedPrompts

Attend = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def _packed(workload: Workload, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """q, k, v [1, heads, total, D] as [total, heads, D], contiguous."""
    return tuple(t[0].transpose(0, 1).contiguous() for t in inputs)


def packed_in(workload: Workload) -> PackedPrompts:
    """The prompts of a workload that has some."""
    assert workload.packed is not None
    return workload.packed


def _as_batch(attend: Attend) -> Solver:
    """Wrap a function on [total, heads, D], whose result is seen as [1, heads, total, D]."""
    return lambda q, k, v: attend(q, k, v).transpose(0, 1)[None]


def _blockskip(config: tuple[int, ...] | None = None) -> Build:
    def build(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
        packed, (q, k, v) = packed_in(workload), inputs
        cu, longest = packed.cu_seqlens(q.device), packed.longest
        varlen: Any = bs.attention_varlen
        options: dict[str, Any] = {"max_seqlen_q": longest, "mask": packed.band, "config": config}
        plan = bs.explain_varlen(q, k, v, cu, **options)
        facts = {"impl": plan.impl, "skip": plan.skip, "config": plan.config and list(astuple(plan.config))}
        return Planned(_as_batch(lambda q, k, v: varlen(q, k, v, cu, **options)), facts)

    return build


def _flash2(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    forward, packed, scale = torch.ops.aten._flash_attention_forward, packed_in(workload), workload.head_dim**-0.5
    cu, longest = packed.cu_seqlens(inputs[0].device), packed.longest
    left, right = _limits(packed)
    plain = left is None and right in (None, 0)
    limits = {} if plain else {"window_size_left": _side(left), "window_size_right": _side(right)}
    causal = plain and right == 0
    return _as_batch(
        lambda q, k, v: forward(q, k, v, cu, cu, longest, longest, 0.0, causal, False, scale=scale, **limits)[0]
    )


def _torch(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    from torch.nn.attention.varlen import varlen_attn

    packed = packed_in(workload)
    cu, longest = packed.cu_seqlens(inputs[0].device), packed.longest
    options: dict[str, Any] = {"enable_gqa": True} if workload.group > 1 else {}
    if "window_size" in inspect.signature(varlen_attn).parameters:
        options["window_size"] = tuple(map(_side, _limits(packed)))
    else:  # torch 2.10
        options["is_causal"] = packed.is_causal
    return _as_batch(lambda q, k, v: first(varlen_attn(q, k, v, cu, cu, longest, longest, **options)))


def _flash3(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    return _by_flash(workload, inputs, fa3().flash_attn_varlen_func, -1)


def _flash4(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    module = importlib.import_module("flash_attn.cute")
    return _by_flash(workload, inputs, module.flash_attn_varlen_func, None)


def _by_flash(workload: Workload, inputs: Sequence[torch.Tensor], function: Callable, unlimited: int | None) -> Solver:
    packed = packed_in(workload)
    cu, longest = packed.cu_seqlens(inputs[0].device), packed.longest
    window = _window_of(packed)
    lengths = {"cu_seqlens_q": cu, "cu_seqlens_k": cu, "max_seqlen_q": longest, "max_seqlen_k": longest}
    options = {"causal": packed.is_causal and window is None, "window_size": sides(window, unlimited), **lengths}
    return _as_batch(lambda q, k, v: first(function(q, k, v, **options)))


def _window_of(packed: PackedPrompts) -> int | None:
    """The window, where some prompt is longer."""
    return None if packed.window is None or packed.window >= packed.longest else packed.window


def _limits(packed: PackedPrompts) -> tuple[int | None, int | None]:
    """A band's sides; None where there is no limit."""
    return packed.band.left, packed.band.right


def _side(limit: int | None) -> int:
    return -1 if limit is None else limit


def _needs_packed(workload: Workload, device: str) -> str | None:
    packed = workload.packed
    if packed is None:
        return "it takes packed prompts, document(lengths) and a band that each sees of itself; this mask is another"
    return None


def _needs_window(workload: Workload) -> str | None:
    """FlashAttention's common limits, for packed prompts whose band is causal, a window, or all."""
    packed = workload.packed
    if packed is not None and packed.band.right != 0 and packed.band != bs.band(None, None):
        return "it knows causal masks, windows and all keys; this band is another"
    return not_for_flash(workload)


def _needs_flash2(workload: Workload, device: str) -> str | None:
    return _needs_packed(workload, device) or _needs_window(workload) or needs_cuda_backend(workload, device)


def _needs_torch(workload: Workload, device: str) -> str | None:
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return "torch has varlen_attn from 2.10 on"
    if reason := _needs_flash2(workload, device):
        return reason
    from torch.nn.attention.varlen import varlen_attn  # with torch's compiler, which takes a second to import

    takes, packed = inspect.signature(varlen_attn).parameters, workload.packed
    if workload.group > 1 and "enable_gqa" not in takes:
        return "this torch's varlen_attn takes no grouped heads"
    if packed is not None and packed.window is not None and "window_size" not in takes:
        return "this torch's varlen_attn takes no window"
    return None


def _needs_flash3(workload: Workload, device: str) -> str | None:
    reason = _needs_packed(workload, device) or _needs_window(workload) or needs_fa3(workload, device)
    return reason or needs_fa3_windows(_window_of(packed_in(workload)))


def _needs_flash4(workload: Workload, device: str) -> str | None:
    missing = needs_fa4_package()
    return _needs_packed(workload, device) or _needs_window(workload) or missing or needs_cuda(workload, device)


_ENTRIES = (
    Contender("blockskip-varlen", "blockskip, cu_seqlens",
              "our attention of packed prompts, whose lengths stand on the device",
              _blockskip(), _needs_packed, prepare=_packed, configured=_blockskip),
    Contender("flash-varlen", "FlashAttention-2, cu_seqlens",
              "torch's FlashAttention-2 (aten._flash_attention_forward) of packed prompts",
              _flash2, _needs_flash2, prepare=_packed),
    Contender("torch-varlen", "torch varlen_attn", "torch's varlen_attn of packed prompts, its own choice of kernel",
              _torch, _needs_torch, prepare=_packed),
    Contender("fa3-varlen", "FlashAttention-3, cu_seqlens", "FlashAttention-3 of packed prompts where it is installed",
              _flash3, _needs_flash3, prepare=_packed),
    Contender("fa4-varlen", "FlashAttention-4, cu_seqlens", "FlashAttention-4 of packed prompts where it is installed",
              _flash4, _needs_flash4, prepare=_packed),
)  # fmt: skip
NAMES = tuple(entry.name for entry in _ENTRIES)
"""Of contenders that take packed prompts alone."""
for _entry in _ENTRIES:
    REGISTRY.add(_entry)
del _entry
