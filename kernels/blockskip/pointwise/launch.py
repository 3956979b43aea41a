"""From checked arguments to prepared launches of the kernels between products. Imports triton."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from ..config import power_of_two
from ..launching.dispatch import Launch
from ..launching.memory import tokens_first
from ..launching.ready import Ready, Step
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


def ready_norm(given: Sequence[Tensor | None], eps: float) -> Ready:
    """The launch that makes [normed, out] of (x, update, weight, update_weight, scalar); [normed] without an update."""
    x, update, *_ = given
    assert x is not None
    memory = [(tuple(x.shape), x.dtype)] * (1 if update is None else 2)

    def steps(inputs, made) -> Iterator[Step]:
        x, update, *weights = inputs
        yield prepare_norm((x, update, made[-1], made[0], *weights, eps), overlaps(x.device))

    return Ready(given, memory, steps)


def prepare_norm(given: tuple, overlap: bool) -> Step:
    """The launch of `residual_norm` with these arguments."""
    x = given[0]
    columns = x.shape[-1]
    rows, block = x.numel() // columns, power_of_two(columns)
    constants = NormConstants(columns, block, overlap)
    warps = min(16, max(1, block // (512 if rows <= FEW_ROWS else 1024)))
    return _step(residual_norm_kernel, given, {"CONSTANTS": constants}, (rows,), warps, overlap)


def ready_heads(given: Sequence[Tensor | None], heads: HeadLayout, value_norm: bool, eps: float) -> Ready:
    """The launch that makes [q] of (qkv, cos, sin, the norms of queries and keys, keys, values, slots)."""
    qkv = given[0]
    assert qkv is not None
    batch, tokens, _ = qkv.shape

    def steps(inputs, made) -> Iterator[Step]:
        qkv, cos, sin, query, key, *targets = inputs
        norms, overlap = HeadNorms(query, key, value_norm, eps), overlaps(qkv.device)
        yield prepare_heads(qkv, made[0], heads, Rotation(cos, sin), norms, Targets(*targets), overlap)

    shape = batch, heads.query, tokens, heads.dim
    return Ready(given, [(shape, qkv.dtype, tokens_first(shape))], steps)


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


def ready_gate(given: Sequence[Tensor], activation: str) -> Ready:
    """The launch that makes [out] of (gate_up,)."""
    (gate_up,) = given

    def steps(inputs, made) -> Iterator[Step]:
        yield prepare_gate(inputs[0], made[0], activation, overlaps(gate_up.device))

    return Ready(given, [((*gate_up.shape[:-1], gate_up.shape[-1] // 2), gate_up.dtype)], steps)


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
