"""From a checked call and its plan to launches of the Triton kernels. Imports triton."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from operator import attrgetter
from typing import Any, NamedTuple

import torch

from ..autocast import without_autocast
from ..gpu import capability_of, check_capability
from ..launching.dispatch import Launch
from ..launching.fitting import fitting
from ..launching.primitives import interpreting
from ..launching.ready import Ready, Step
from ..launching.repeated import REPEATED, Kind
from ..launching.view import View, overlaps
from .activations import RoundedActivations, order_of
from .configs import FusedConfig, MatvecConfig, rows_together
from .format import Format, Metadata
from .fused import add_splits, fused
from .hopper.plan import HopperConfig
from .known import known
from .matvec import load_metadata, load_tile_metadata, matvec
from .plan import LinearPlan
from .prepared import Dequantized, LinearCall, Prepared
from .rounding import Blocks
from .rounding import round_activations as rounding_kernel
from .weight import BLOCK, TENSORS, QuantizedWeight

ROUNDING_BLOCKS = 16
ADDED_COLUMNS = 256


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
    """x [..., K] -> [..., N] in x's dtype; see `blockskip.linear`.

    kind: of the call; what is prepared is kept for all of that kind, if it serves them.
    """
    _check_device(x.device)
    given = x.dtype
    if (as_read := readable(w)) is not w:
        w, kind = as_read, None
    emulate = interpreting() and given == torch.bfloat16 and plan.kernel != "dequantize"
    if emulate or (interpreting() and plan.kernel == "matvec" and given != torch.float32):
        # bfloat16 is wrong in Triton's interpreter: there kernels compute in float32 and torch rounds at the end
        x, kind = x if isinstance(x, RoundedActivations) else x.float(), None
        bias = None if bias is None else bias.float()
    with fitting(plan.config, plan.origin):
        call = _prepared(x, w, bias, plan, emulate)
    REPEATED.put(kind, call)
    return call(x, w, bias).to(given)


def _prepared(x, w: QuantizedWeight, bias, plan: LinearPlan, emulate: bool) -> LinearCall:
    """f(x, w, bias) for tensors of the same kinds as these."""
    if plan.kernel == "dequantize":
        return without_autocast(Dequantized(x, w, plan.batch_invariant).__call__)
    if isinstance(plan.config, HopperConfig):
        from .hopper import launch as hopper  # Gluon is imported only where it is used

        make = partial(hopper.ready_product, w.group_size, plan.config)
        return Prepared(x, w, bias, attrgetter("kernel_tensors"), hopper.readable, make, hopper.aligned)
    if plan.kernel == "fused":
        make = partial(_ready_fused, w, plan, emulate)
        return Prepared(x, w, bias, attrgetter("tensors"), _flat, make)
    assert isinstance(plan.config, MatvecConfig)
    if isinstance(x, RoundedActivations):
        dtype = torch.float32 if interpreting() else x.dtype
        return partial(_rounded_matvec, _ready_rounded_matvec(x, w, bias, plan.config, dtype))
    make = partial(_ready_matvec, w, plan.config)
    return Prepared(x, w, bias, attrgetter("kernel_tensors"), _flat, make)


def readable(w: QuantizedWeight) -> QuantizedWeight:
    """The weight as the kernels read it: the interpreter's take no bfloat16."""
    if not interpreting():
        return w
    changed: dict = {name: t.float() for name, t in w.named_tensors().items() if t.dtype == torch.bfloat16}
    return replace(w, **changed) if changed else w


def _dense(bias: torch.Tensor | None) -> torch.Tensor | None:
    """The bias as the kernels read it: N numbers one after the other."""
    return None if bias is None else bias.contiguous()


def _flat(t: torch.Tensor) -> torch.Tensor:
    """Activations as the kernels read them: [M, K], any strides."""
    return t.reshape(-1, t.shape[-1])


def _rounded_matvec(ready: Ready, x: RoundedActivations, w: QuantizedWeight, bias) -> torch.Tensor:
    return ready(*x.for_matvec(order_of(w)), _dense(bias), *known(w).kernel_tensors)[0]


def _ready_rounded_matvec(
    x: RoundedActivations, w: QuantizedWeight, bias, config: MatvecConfig, dtype: torch.dtype
) -> Ready:
    def steps(inputs, made) -> Iterator[Step]:
        codes, step, total, bias, data, *metadata = inputs
        operands = data, Metadata(*metadata), codes, Blocks(step, total), bias, made[0]
        yield Step(matvec, prepare_matvec(w, operands, config), config.options(overlap=False))

    rounded = x.for_matvec(order_of(w))
    memory = [((rounded[0].shape[0], w.shape[0]), dtype)]
    return Ready(
        (*rounded, _dense(bias), *known(w).kernel_tensors), memory, steps, results=[(*x.shape[:-1], w.shape[0])]
    )


def round_activations(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes int8 [M, K] and scales float32 [M, K / 32] of x [M, K], as `activations.round_to_int8` has them."""
    _check_device(x.device)

    def steps(inputs, made) -> Iterator[Step]:
        yield Step(rounding_kernel, prepare_rounding(inputs[0], "given", made[0], Blocks(*made[1:])), {})

    (rows, k), real = x.shape, torch.float32
    memory = ((rows, k // 4), torch.int32), ((rows, k // BLOCK), real), ((rows, k // BLOCK), real)
    codes, scales, _ = Ready((x,), memory, steps)(x)
    return codes.view(torch.int8), scales


def _ready_matvec(w: QuantizedWeight, config: MatvecConfig, inputs, results) -> Ready:
    x, bias, _, *metadata = inputs
    return ready_matvec(x, w, bias, Metadata(*metadata), config, results=results)


def ready_matvec(
    x, w: QuantizedWeight, bias, metadata: Metadata, config: MatvecConfig, form: MatvecForm = SHIPPED, results=None
) -> Ready:
    """The launches of the matvec, of which (x, a contiguous bias or None, `packed_codes(w)`, *metadata) makes [out].

    metadata: `Metadata.of(w)`, or the same numbers as the form reads them. results: [the shape of out], [M, N] if None.
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
    return Ready((x, _dense(bias), packed_codes(w), *metadata), memory, steps, results=results or [memory[0][0]])


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


def _ready_fused(w: QuantizedWeight, plan: LinearPlan, emulate: bool, inputs, results) -> Ready:
    config, splits = plan.config, plan.splits
    assert isinstance(config, FusedConfig)

    def steps(inputs, made) -> Iterator[Step]:
        x, bias, *tensors = inputs
        same = replace(w, **dict(zip(TENSORS, tensors, strict=True)))
        out = made[-1]
        launch = prepare_fused(x, same, None if splits > 1 else bias, out, config, emulate)
        yield Step(fused, launch, {"num_warps": config.num_warps, "num_stages": config.num_stages})
        if splits > 1:
            yield Step(add_splits, prepare_add_splits(out, bias, made[0]), {})

    (rows, _), dtype = inputs[0].shape, inputs[0].dtype
    if splits == 1:
        return Ready(inputs, [((1, rows, w.shape[0]), dtype)], steps, results=results)
    memory = ((rows, w.shape[0]), dtype), ((splits, rows, w.shape[0]), torch.float32)
    return Ready(inputs, memory, steps, results=results)


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


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


def _check_device(device: torch.device) -> None:
    capability = capability_of(device)
    if capability is not None:
        check_capability(capability)
