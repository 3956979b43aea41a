"""From checked arguments to launches of the kernels between products. Imports triton."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..config import power_of_two
from ..launching.dispatch import DISPATCHER, Launch
from ..launching.ready import Step
from ..launching.view import View, overlaps
from .call import HeadLayout, HeadNorms, Rotation, Targets
from .kernel import HeadConstants, NormConstants
from .kernel import gated as gated_kernel
from .kernel import residual_norm as residual_norm_kernel
from .kernel import rotated_heads as rotated_heads_kernel

FEW_ROWS = 16
"""Up to so many rows programs are small and many, so that a step is spread over the GPU."""


class WeightedNorms(NamedTuple):
    """Norms of heads as the kernel takes them."""

    query: Tensor | None
    key: Tensor | None
    eps: float


def residual_norm(
    x: Tensor, update: Tensor | None, weight: Tensor, update_weight: Tensor | None, scalar: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """See `api.residual_norm`."""
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    out = x if update is None else torch.empty(x.shape, dtype=x.dtype, device=x.device)
    given = x, update, out, normed, weight, update_weight, scalar, float(eps)
    _launch(prepare_norm(given, overlaps(x.device)), x)
    return out, normed


def prepare_norm(given: tuple, overlap: bool) -> Step:
    """The launch of `residual_norm` with these arguments."""
    x = given[0]
    columns = x.shape[-1]
    rows, block = x.numel() // columns, power_of_two(columns)
    constants = NormConstants(columns, block, overlap)
    warps = min(16, max(1, block // (512 if rows <= FEW_ROWS else 1024)))
    return _step(residual_norm_kernel, given, {"CONSTANTS": constants}, (rows,), warps, overlap)


def rotated_heads(qkv: Tensor, heads: HeadLayout, rotation: Rotation, norms: HeadNorms, targets: Targets) -> Tensor:
    """See `api.rotated_heads`."""
    batch, tokens, _ = qkv.shape
    q = torch.empty((batch, heads.query, tokens, heads.dim), dtype=qkv.dtype, device=qkv.device)
    _launch(prepare_heads(qkv, q, heads, rotation, norms, targets, overlaps(qkv.device)), qkv)
    return q


def prepare_heads(
    qkv: Tensor, q: Tensor, heads: HeadLayout, rotation: Rotation, norms: HeadNorms, targets: Targets, overlap: bool
) -> Step:
    """The launch of `rotated_heads`, which writes q."""
    batch, tokens, _ = qkv.shape
    few = batch * tokens <= FEW_ROWS
    constants = HeadConstants(
        QUERY_HEADS=heads.query,
        KV_HEADS=heads.kv,
        HEAD_DIM=heads.dim,
        FIRST_VALUE=heads.first_value,
        VALUE_NORM=norms.value,
        BLOCK_H=1 if few else 4,
        HALF=power_of_two(heads.dim // 2),
        OVERLAP=overlap,
    )
    blocks = _blocks(heads.query, constants.BLOCK_H) + 2 * _blocks(heads.kv, constants.BLOCK_H)
    each = int(targets.slots is not None and targets.slots.shape[0] > 1), int(rotation.cos.shape[0] > 1)
    arguments = (
        qkv,
        View.of(q),
        View.of(targets.keys),
        View.of(targets.values),
        targets.slots,
        rotation,
        WeightedNorms(norms.query, norms.key, float(norms.eps)),
        tokens,
        each,
    )
    grid = batch * tokens, blocks
    return _step(rotated_heads_kernel, arguments, {"CONSTANTS": constants}, grid, 1 if few else 4, overlap)


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """See `api.gated`."""
    width = gate_up.shape[-1] // 2
    out = torch.empty((*gate_up.shape[:-1], width), dtype=gate_up.dtype, device=gate_up.device)
    _launch(prepare_gate(gate_up, out, activation, overlaps(gate_up.device)), gate_up)
    return out


def prepare_gate(gate_up: Tensor, out: Tensor, activation: str, overlap: bool) -> Step:
    """The launch of `gated`, which writes out."""
    width = out.shape[-1]
    rows = out.numel() // width
    block, warps = (256, 1) if rows <= FEW_ROWS else (1024, 4)
    constants = {"GELU": activation == "gelu_tanh", "BLOCK": block, "OVERLAP": overlap}
    return _step(gated_kernel, (gate_up, out, width), constants, (rows, _blocks(width, block)), warps, overlap)


def _blocks(count: int, size: int) -> int:
    return -(-count // size)


def _step(kernel: Any, arguments: tuple, constants: dict[str, Any], grid: tuple[int, ...], warps: int, overlap: bool):
    options = {"num_warps": warps} | ({"launch_pdl": True} if overlap else {})
    return Step(kernel, Launch(arguments, constants, grid), options)


def _launch(step: Step, on: Tensor) -> None:
    """On the tensor's device and its current stream."""
    with torch.cuda.device_of(on):
        DISPATCHER.launch(step.kernel, step.launch, **step.options)
