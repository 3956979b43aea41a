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
from .activations import RoundedActivations, order_of
from .configs import FIXED_ROWS, FusedConfig, MatvecConfig, rows_together
from .dequantize import dequantize
from .fixed_rows import blocks_of, products
from .format import Format, Metadata
from .fused import add_splits, fused
from .hopper.plan import HopperConfig
from .matvec import load_metadata, load_tile_metadata, matvec
from .plan import LinearPlan
from .rounding import Blocks
from .rounding import round_activations as rounding_kernel
from .weight import BLOCK, TENSORS, QuantizedWeight

BLOCK_ELEMENTS = 1 << 24
"""Float weights that exist at a time where there are many rows: 32 MB in bfloat16, which Hopper's L2 holds."""
ROUNDING_BLOCKS = 16
DEQUANTIZE_BLOCKS = 128
ADDED_COLUMNS = 256
_tensors_of = attrgetter(*TENSORS)


class MatvecForm(NamedTuple):
    """What of the matvec may be exchanged to show what its choices gain; the lab does (`skiplab.contenders.ablations`).

    kernel: `matvec`, or the same function compiled otherwise. load_metadata: see `matvec`.
    """

    kernel: Any
    load_metadata: Any


SHIPPED = MatvecForm(matvec, load_metadata)


def linear(
    x: torch.Tensor | RoundedActivations,
    w: QuantizedWeight,
    bias: torch.Tensor | None,
    plan: LinearPlan,
    kind: Kind | None = None,
) -> torch.Tensor:
    """x [M, K] (rounded ones: [.., K]) -> [M, N] in x's dtype; see `blockskip.linear`.

    kind: of the call; what is prepared is kept for all of that kind, if it serves them.
    """
    _check_device(x.device)
    if isinstance(x, RoundedActivations):
        return _of_rounded(x, w, bias, plan, kind)
    given = x.dtype
    if plan.kernel == "dequantize":
        return _dequantized(x, w, bias, plan.batch_invariant)
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


def _of_rounded(x: RoundedActivations, w: QuantizedWeight, bias, plan: LinearPlan, kind: Kind | None) -> torch.Tensor:
    assert isinstance(plan.config, MatvecConfig)
    given = x.dtype
    if interpreting():
        bias, w, kind = None if bias is None else bias.float(), readable(w), None
    dtype = torch.float32 if interpreting() else given
    call = partial(_rounded_matvec, _ready_rounded_matvec(x, w, bias, plan.config, dtype))
    REPEATED.put(kind, call)
    return call(x, w, bias).to(given)


def _rounded_matvec(ready: Ready, x: RoundedActivations, w: QuantizedWeight, bias) -> torch.Tensor:
    return ready(*x.for_matvec(order_of(w)), _dense(bias), packed_codes(w), *Metadata.of(w))[0]


def _ready_rounded_matvec(
    x: RoundedActivations, w: QuantizedWeight, bias, config: MatvecConfig, dtype: torch.dtype
) -> Ready:
    def steps(inputs, made) -> Iterator[Step]:
        codes, step, total, bias, data, *metadata = inputs
        operands = data, Metadata(*metadata), codes, Blocks(step, total), bias, made[0]
        yield Step(matvec, prepare_matvec(w, operands, config), config.options(overlap=False))

    rounded = x.for_matvec(order_of(w))
    inputs = *rounded, _dense(bias), packed_codes(w), *Metadata.of(w)
    return Ready(inputs, [((rounded[0].shape[0], w.shape[0]), dtype)], steps)


def round_activations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [M, K] and scales float32 [M, K / 32] of x [M, K], as `activations.round_to_int8` has them."""
    _check_device(x.device)

    def steps(inputs, made) -> Iterator[Step]:
        yield Step(rounding_kernel, prepare_rounding(inputs[0], "given", made[0], Blocks(*made[1:])), {})

    (rows, k), real = x.shape, torch.float32
    memory = ((rows, k // 4), torch.int32), ((rows, k // BLOCK), real), ((rows, k // BLOCK), real)
    codes, scales, _ = Ready((x,), memory, steps)(x)
    return codes.view(torch.int8), scales


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
        yield Step(rounding_kernel, prepare_rounding(x, order_of(w), codes, Blocks(*blocks), overlap), {})
        operands = data, Metadata(*metadata), codes, Blocks(*blocks), bias, out
        yield Step(form.kernel, prepare_matvec(w, operands, config, overlap, form), config.options(overlap))

    (rows, k), real = x.shape, torch.float32
    rounded = ((rows, 2, k // 8), torch.int32), ((rows, k // BLOCK), real), ((rows, k // BLOCK), real)
    memory = ((rows, w.shape[0]), x.dtype), *rounded
    return Ready((x, _dense(bias), packed_codes(w), *metadata), memory, steps)


def packed_codes(w: QuantizedWeight) -> torch.Tensor:
    """w.data as int32, four bytes of codes each."""
    return w.data.view(torch.int32)


def prepare_rounding(x, order: str, codes, blocks: Blocks, overlap: bool = False) -> Launch:
    """The launch that rounds x [M, K] to int8, in the order in which weights meet it (`order_of`), or as `given`."""
    constants = {"K": x.shape[1], "ORDER": order, "BLOCKS": ROUNDING_BLOCKS, "OVERLAP": overlap}
    return Launch((View.of(x), codes, blocks), constants, (cdiv(x.shape[1] // BLOCK, ROUNDING_BLOCKS), x.shape[0]))


def prepare_matvec(
    w: QuantizedWeight, operands: tuple, config: MatvecConfig, overlap: bool = False, form: MatvecForm = SHIPPED
) -> Launch:
    """The launch of the matvec on rounded activations; with `overlap` it goes with the option `launch_pdl`.

    operands: `packed_codes(w)`, Metadata, the activations' codes and Blocks, bias (contiguous, or None), out [M, N].
    """
    *read, out = operands
    rows, in_tiles = rows_together(out.shape[0]), w.packing == "tiles"
    constants = {
        "FORMAT": Format.of(w),
        "CONFIG": config,
        "ROWS": rows,
        "OVERLAP": overlap,
        "LOAD_METADATA": load_tile_metadata if in_tiles else form.load_metadata,
    }
    grid = cdiv(w.shape[0], config.block_n), cdiv(out.shape[0], rows)
    return Launch((*read, View.of(out)), constants, grid)


def _fused(ready: Ready, x, w: QuantizedWeight, bias) -> torch.Tensor:
    out, *summed = ready(x, _dense(bias), *_tensors_of(w))
    if summed:
        return summed[0]
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
        if len(made) > 1:
            yield Step(add_splits, prepare_add_splits(made[0], bias, made[1]), {})

    memory: list = [((splits, x.shape[0], w.shape[0]), torch.float32 if splits > 1 else x.dtype)]
    if plan.batch_invariant and splits > 1:  # torch would sum in an order that depends on the number of rows
        memory.append(((x.shape[0], w.shape[0]), x.dtype))
    return Ready((x, _dense(bias), *_tensors_of(w)), memory, steps)


def prepare_fused(x, w: QuantizedWeight, bias, out, config: FusedConfig, emulate: bool = False) -> Launch:
    """The launch of the fused kernel for out [splits, M, N].

    bias: contiguous, or None. emulate: bfloat16 values stand in float32.
    """
    splits, rows, outputs = out.shape
    steps = cdiv(w.shape[1], BLOCK * config.blocks)
    constants = {"FORMAT": Format.of(w), "CONFIG": config, "STEPS": cdiv(steps, splits), "ROUND": emulate}
    arguments = (View.of(x), w.data, Metadata.of(w), bias, out, outputs)
    return Launch(arguments, constants, (cdiv(rows, config.block_m), cdiv(outputs, config.block_n), splits))


def prepare_add_splits(parts, bias, out) -> Launch:
    """The launch that sums parts [splits, M, N] to out [M, N]."""
    constants = {"SPLITS": parts.shape[0], "BLOCK": ADDED_COLUMNS}
    return Launch((parts, bias, View.of(out)), constants, (out.shape[0], cdiv(out.shape[1], ADDED_COLUMNS)))


def _dequantized(x, w: QuantizedWeight, bias, batch_invariant: bool) -> torch.Tensor:
    """Products of torch's with weights that a kernel turns to floats; batch_invariant: of equally many rows each."""
    out = torch.empty((x.shape[0], w.shape[0]), dtype=x.dtype, device=x.device)
    blocks = blocks_of(x, FIXED_ROWS) if batch_invariant else x
    for rows, part in readable(w).blocks(BLOCK_ELEMENTS):
        weight = torch.empty(part.shape, dtype=torch.float32 if interpreting() else x.dtype, device=x.device)
        with torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext():
            DISPATCHER.launch(dequantize, prepare_dequantize(part, weight))
        weight = weight.to(x.dtype)
        if batch_invariant:
            out[:, rows] = products(blocks, weight, None if bias is None else bias[rows])[: x.shape[0]]
        elif bias is None:
            torch.mm(x, weight.T, out=out[:, rows])
        else:
            torch.addmm(bias[rows], x, weight.T, out=out[:, rows])
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
