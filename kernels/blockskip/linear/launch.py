"""From a checked call and its plan to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch

from ..gpu import capability_of, check_capability
from ..launching.dispatch import DISPATCHER, Launch
from ..launching.primitives import interpreting
from ..launching.ready import Ready, Step
from ..launching.repeated import REPEATED, Kind
from ..launching.view import View, overlaps
from .dequantize import dequantize
from .format import Format, Metadata
from .fused import fused
from .hopper.plan import HopperConfig
from .matvec import load_metadata, matvec
from .plan import FusedConfig, LinearPlan, MatvecConfig
from .rounding import Blocks, round_activations
from .weight import BLOCK, TENSORS, QuantizedWeight

BLOCK_ELEMENTS = 1 << 24
"""Float weights that exist at a time where there are many rows: 32 MB in bfloat16, which Hopper's L2 holds."""
ROUNDING_BLOCKS = 16
DEQUANTIZE_BLOCKS = 128
_tensors_of = attrgetter(*TENSORS)


class MatvecForm(NamedTuple):
    """What of the matvec may be exchanged to show what its choices gain; the lab does (`skiplab.contenders.ablations`).

    kernel: `matvec`, or the same function compiled otherwise. load_metadata: see `matvec`.
    """

    kernel: Any
    load_metadata: Any


SHIPPED = MatvecForm(matvec, load_metadata)


def linear(
    x: torch.Tensor, w: QuantizedWeight, bias: torch.Tensor | None, plan: LinearPlan, kind: Kind | None = None
) -> torch.Tensor:
    """x [M, K] -> [M, N] in x's dtype; see `blockskip.linear`.

    kind: of the call; what is prepared is kept for all of that kind, if it serves them.
    """
    _check_device(x.device)
    given = x.dtype
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
    if (as_read := readable(w)) is not w:
        w, kind = as_read, None
    if plan.kernel == "fused":
        call = partial(_fused, _ready_fused(x, w, bias, plan, emulate))
    else:
        assert isinstance(plan.config, MatvecConfig)
        call = partial(_matvec, ready_matvec(x, w, bias, Metadata.of(w), plan.config))
    REPEATED.put(kind, call)
    return call(x, w, bias).to(given)


def readable(w: QuantizedWeight) -> QuantizedWeight:
    """The weight as the kernels read it: the interpreter's take no bfloat16."""
    if not interpreting():
        return w
    changed: dict = {name: t.float() for name, t in w.named_tensors().items() if t.dtype == torch.bfloat16}
    return replace(w, **changed) if changed else w


def _dense(bias: torch.Tensor | None) -> torch.Tensor | None:
    """The bias as the kernels read it: N numbers one after the other."""
    return None if bias is None else bias.contiguous()


def _matvec(ready: Ready, x, w: QuantizedWeight, bias) -> torch.Tensor:
    return ready(x, _dense(bias), packed_codes(w), *Metadata.of(w))[0]


def ready_matvec(
    x, w: QuantizedWeight, bias, metadata: Metadata, config: MatvecConfig, form: MatvecForm = SHIPPED
) -> Ready:
    """The launches of the matvec, of which (x, a contiguous bias or None, `packed_codes(w)`, *metadata) makes [out].

    metadata: `Metadata.of(w)`, or the same numbers as the form reads them.
    """
    overlap = overlaps(x.device)

    def steps(inputs, made) -> Iterator[Step]:
        x, bias, data, *metadata = inputs
        out, codes, *blocks = made
        yield Step(round_activations, prepare_rounding(x, w.bits, codes, Blocks(*blocks), overlap), {})
        operands = data, Metadata(*metadata), codes, Blocks(*blocks), bias, out
        yield Step(form.kernel, prepare_matvec(w, operands, config, overlap, form), config.options(overlap))

    (rows, k), real = x.shape, torch.float32
    rounded = ((rows, 2, k // 8), torch.int32), ((rows, k // BLOCK), real), ((rows, k // BLOCK), real)
    memory = ((rows, w.shape[0]), x.dtype), *rounded
    return Ready((x, _dense(bias), packed_codes(w), *metadata), memory, steps)


def packed_codes(w: QuantizedWeight) -> torch.Tensor:
    """w.data as int32, four bytes of codes each."""
    return w.data.view(torch.int32)


def prepare_rounding(x, bits: int, codes, blocks: Blocks, overlap: bool = False) -> Launch:
    """The launch that rounds x [M, K] to int8, in the order in which weights of `bits` meet it."""
    constants = {"K": x.shape[1], "BITS": bits, "BLOCKS": ROUNDING_BLOCKS, "OVERLAP": overlap}
    return Launch((View.of(x), codes, blocks), constants, (cdiv(x.shape[1] // BLOCK, ROUNDING_BLOCKS), x.shape[0]))


def prepare_matvec(
    w: QuantizedWeight, operands: tuple, config: MatvecConfig, overlap: bool = False, form: MatvecForm = SHIPPED
) -> Launch:
    """The launch of the matvec on rounded activations; with `overlap` it goes with the option `launch_pdl`.

    operands: `packed_codes(w)`, Metadata, the activations' codes and Blocks, bias (contiguous, or None), out.
    """
    constants = {
        "FORMAT": Format.of(w),
        "CONFIG": config,
        "ROWS": operands[-1].shape[0],
        "OVERLAP": overlap,
        "LOAD_METADATA": form.load_metadata,
    }
    return Launch((*operands, w.shape[0]), constants, (cdiv(w.shape[0], config.block_n),))


def _fused(ready: Ready, x, w: QuantizedWeight, bias) -> torch.Tensor:
    (out,) = ready(x, _dense(bias), *_tensors_of(w))
    if out.shape[0] == 1:
        return out[0]
    total = out.sum(0)
    return (total if bias is None else total + bias).to(x.dtype)


def _ready_fused(x, w: QuantizedWeight, bias, plan: LinearPlan, emulate: bool) -> Ready:
    config, splits = plan.config, plan.splits
    assert isinstance(config, FusedConfig)

    def steps(inputs, made) -> Iterator[Step]:
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
    constants = {"FORMAT": Format.of(w), "CONFIG": config, "STEPS": cdiv(steps, splits), "ROUND": emulate}
    arguments = (View.of(x), w.data, Metadata.of(w), bias, out, outputs)
    return Launch(arguments, constants, (cdiv(rows, config.block_m), cdiv(outputs, config.block_n), splits))


def _many_rows(x, w: QuantizedWeight, bias) -> torch.Tensor:
    out = torch.empty((x.shape[0], w.shape[0]), dtype=x.dtype, device=x.device)
    for rows, part in readable(w).blocks(BLOCK_ELEMENTS):
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
    count = w.shape.numel() // BLOCK
    constants = {"FORMAT": Format.of(w), "BLOCKS": DEQUANTIZE_BLOCKS}
    return Launch((w.data, Metadata.of(w), out, count), constants, (cdiv(count, DEQUANTIZE_BLOCKS),))


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _check_device(device: torch.device) -> None:
    capability = capability_of(device)
    if capability is not None:
        check_capability(capability)
