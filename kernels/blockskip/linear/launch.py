"""From a checked call to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import torch

from ..gpu import capability_of, check_capability
from ..launching.dispatch import DISPATCHER, Launch
from ..launching.primitives import interpreting
from ..launching.ready import Ready, Step
from ..launching.repeated import REPEATED, Kind
from ..launching.view import overlaps
from .configs import FusedConfig, MatvecConfig, matvec_config
from .dequantize import dequantize
from .fused import fused
from .hopper.plan import HopperConfig
from .matvec import matvec, matvec_scalar, round_activations
from .route import LinearPlan, make_plan
from .weight import BLOCK, TENSORS, QuantizedWeight

BLOCK_ELEMENTS = 1 << 24
"""Float weights that exist at a time where there are many rows: 32 MB in bfloat16, which Hopper's L2 holds."""
ROUNDING_BLOCKS = 16
DEQUANTIZE_BLOCKS = 128
_tensors_of = attrgetter(*TENSORS)


class Metadata(NamedTuple):
    """A weight's metadata as the kernels take it: shift is zero, minimum or middle. None where there is none."""

    scale: torch.Tensor
    scale_step: torch.Tensor | None
    shift: torch.Tensor | None
    shift_step: torch.Tensor | None


def metadata_of(w: QuantizedWeight, config: MatvecConfig | None = None) -> Metadata:
    """Metadata as the matvec of this configuration reads it; None: as it lies."""
    shift = w.offset if w.zero is None else w.zero
    found = Metadata(w.scale, w.scale_step, shift, w.minimum_step)
    if config is None or not config.strided:
        return found
    scale, *others = (None if t is None else t.T.contiguous() for t in found)
    assert scale is not None
    return Metadata(scale, *others)


def linear(
    x: torch.Tensor,
    w: QuantizedWeight,
    bias: torch.Tensor | None,
    config: MatvecConfig | None = None,
    metadata: Metadata | None = None,
    plan: LinearPlan | None = None,
    kind: Kind | None = None,
) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype; see `blockskip.linear`.

    plan: `route.make_plan`'s, which is asked where none is given.
    config: the matvec's, for tuning and for showing what its choices gain.
    metadata: `metadata_of(w, config)`, so that it need not be laid out anew in each call.
    kind: of the call; what is prepared is kept for all of that kind, if it serves them.
    """
    _check_device(x.device)
    plan, given = plan or make_plan(x, w, "triton", "measured"), x.dtype
    if plan.kernel == "dequantize":
        return _many_rows(x, w, bias)
    if isinstance(plan.config, HopperConfig):
        from .hopper.launch import ready_product  # Gluon is imported only where it is used

        call = ready_product(x, w, bias, plan.config)
        REPEATED.put(kind, call)
        return call(x, w, bias)
    emulate = interpreting() and given == torch.bfloat16
    # bfloat16 is wrong in Triton's interpreter: there the kernels compute in float32 and torch rounds at the end
    if interpreting() and (plan.kernel == "matvec" or emulate) and given != torch.float32:
        x, bias, kind = x.float(), None if bias is None else bias.float(), None
    if (readable := _readable(w)) is not w:
        w, kind = readable, None
    if plan.kernel == "fused":
        call = partial(_fused, _ready_fused(x, w, bias, plan, emulate))
    else:
        planned = plan.config if isinstance(plan.config, MatvecConfig) else matvec_config(x.shape[0])
        config = config or planned
        ready = _ready_matvec(x, w, bias, config, metadata or metadata_of(w, config))
        call = partial(_matvec, ready, config, metadata)
    assert kind is None or metadata is None  # else the weight's own would not be looked at
    REPEATED.put(kind, call)
    return call(x, w, bias).to(given)


def _readable(w: QuantizedWeight) -> QuantizedWeight:
    """The weight as the kernels read it: the interpreter's take no bfloat16."""
    if not interpreting():
        return w
    changed: dict = {name: t.float() for name, t in w.named_tensors().items() if t.dtype == torch.bfloat16}
    return replace(w, **changed) if changed else w


def _matvec(ready: Ready, config: MatvecConfig, metadata: Metadata | None, x, w: QuantizedWeight, bias) -> torch.Tensor:
    metadata = metadata_of(w, config) if metadata is None else metadata
    return ready(x, _dense(bias), packed_codes(w), *metadata)[0]


def _dense(bias: torch.Tensor | None) -> torch.Tensor | None:
    """The bias as the kernels read it: N numbers one after the other."""
    return None if bias is None else bias.contiguous()


def _ready_matvec(x, w: QuantizedWeight, bias, config: MatvecConfig, metadata: Metadata) -> Ready:
    overlap = overlaps(x.device)

    def steps(inputs, made):
        x, bias, data, *metadata = inputs
        out, codes, step, total = made
        yield Step(round_activations, prepare_rounding(x, w, codes, step, total, overlap), {})
        rounded = codes, step, total, bias, out
        second = prepare_matvec(w, Metadata(*metadata), *rounded, config, overlap, data)
        yield Step(kernel_of(config), second, config.options(overlap))

    (rows, k), real = x.shape, torch.float32
    rounded = ((rows, 2, k // 8), torch.int32), ((rows, k // BLOCK), real), ((rows, k // BLOCK), real)
    memory = ((rows, w.shape[0]), x.dtype), *rounded
    return Ready((x, _dense(bias), packed_codes(w), *metadata), memory, steps)


def packed_codes(w: QuantizedWeight) -> torch.Tensor:
    """w.data as int32, four bytes of codes each."""
    return w.data.view(torch.int32)


def prepare_rounding(x, w: QuantizedWeight, codes, step, total, overlap: bool = False) -> Launch:
    """The launch that rounds x [M, K] to int8."""
    constants = {"K": w.shape[1], "BITS": w.bits, "BLOCKS": ROUNDING_BLOCKS, "OVERLAP": overlap}
    grid = (cdiv(w.shape[1] // BLOCK, ROUNDING_BLOCKS), x.shape[0])
    return Launch((x, *x.stride(), codes, step, total), constants, grid)


def kernel_of(config: MatvecConfig):
    """The matvec of this configuration."""
    return matvec_scalar if config.scalar else matvec


def prepare_matvec(
    w: QuantizedWeight, metadata, codes, step, total, bias, out, config: MatvecConfig, overlap: bool = False, data=None
) -> Launch:
    """The launch of the matvec on rounded activations; with `overlap` it goes with the option `launch_pdl`.

    bias: contiguous, or None. data: `packed_codes(w)`, from whoever needs to know it again.
    """
    constants = {
        "K": w.shape[1],
        "GROUP": w.group_size,
        "BITS": w.bits,
        "CENTRE": w.centre,
        "OFFSET": w.offset is not None,
        "ROWS": out.shape[0],
        "BLOCK_N": config.block_n,
        "BLOCKS": config.blocks,
        "ASM": not interpreting(),
        "OVERLAP": overlap,
    }
    data = packed_codes(w) if data is None else data
    group_stride = w.shape[0] if config.strided else None
    arguments = (data, metadata, codes, step, total, bias, out, group_stride, w.shape[0])
    return Launch(arguments, constants, (cdiv(w.shape[0], config.block_n),))


def _fused(ready: Ready, x, w: QuantizedWeight, bias) -> torch.Tensor:
    (out,) = ready(x, _dense(bias), *_tensors_of(w))
    if out.shape[0] == 1:
        return out[0]
    total = out.sum(0)
    return (total if bias is None else total + bias).to(x.dtype)


def _ready_fused(x, w: QuantizedWeight, bias, plan: LinearPlan, emulate: bool) -> Ready:
    config, splits = plan.config, plan.splits
    assert isinstance(config, FusedConfig)

    def steps(inputs, made):
        x, bias, *tensors = inputs
        same = replace(w, **dict(zip(TENSORS, tensors, strict=True)))
        launch = prepare_fused(x, same, None if splits > 1 else bias, made[0], config, emulate)
        yield Step(fused, launch, {"num_warps": config.num_warps, "num_stages": config.num_stages})

    out = (splits, x.shape[0], w.shape[0]), torch.float32 if splits > 1 else x.dtype
    return Ready((x, _dense(bias), *_tensors_of(w)), [out], steps)


def prepare_fused(x, w: QuantizedWeight, bias, out, config: FusedConfig, emulate: bool = False) -> Launch:
    """The launch of the fused kernel for out [splits, M, N].

    bias: contiguous, or None. emulate: bfloat16 values stand in float32.
    """
    splits, rows, outputs = out.shape
    steps = cdiv(w.shape[1], BLOCK * config.blocks)
    constants = {
        "K": w.shape[1],
        "GROUP": w.group_size,
        "BITS": w.bits,
        "CENTRE": w.centre,
        "OFFSET": w.offset is not None,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "BLOCKS": config.blocks,
        "STEPS": cdiv(steps, splits),
        "ROUND": emulate,
    }
    arguments = (x, *x.stride(), w.data, metadata_of(w), bias, out, rows, outputs)
    return Launch(arguments, constants, (cdiv(rows, config.block_m), cdiv(outputs, config.block_n), splits))


def _many_rows(x, w: QuantizedWeight, bias) -> torch.Tensor:
    out = torch.empty((x.shape[0], w.shape[0]), dtype=x.dtype, device=x.device)
    for rows, part in _readable(w).blocks(BLOCK_ELEMENTS):
        weight = torch.empty(part.shape, dtype=torch.float32 if interpreting() else x.dtype, device=x.device)
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            DISPATCHER.launch(dequantize, prepare_dequantize(part, weight))
        weight = weight.to(x.dtype).T
        if bias is None:
            torch.mm(x, weight, out=out[:, rows])
        else:
            torch.addmm(bias[rows], x, weight, out=out[:, rows])
    return out


def prepare_dequantize(w: QuantizedWeight, out: torch.Tensor) -> Launch:
    """The launch that writes w's floats to out [N, K]."""
    constants = {
        "K": w.shape[1],
        "GROUP": w.group_size,
        "BITS": w.bits,
        "CENTRE": w.centre,
        "OFFSET": w.offset is not None,
        "BLOCKS": DEQUANTIZE_BLOCKS,
        "TILES": w.packing == "tiles",
    }
    count = w.shape.numel() // BLOCK
    return Launch((w.data, metadata_of(w), out, count), constants, (cdiv(count, DEQUANTIZE_BLOCKS),))


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _check_device(device: torch.device) -> None:
    capability = capability_of(device)
    if capability is not None:
        check_capability(capability)
