"""A quantised linear layer: our kernels, their ablations, and the peers.

Each contender gives its operands in float64, and its result is compared with their product: with the weight as its own
format rounds it, not with the weight before it was quantised.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import blockskip as bs
import torch
import torch.nn.functional as F
from blockskip.gpu import Gpu
from blockskip.linear.activations import MOST_ROWS, are_rounded, rounded
from blockskip.linear.configs import matvec_config
from blockskip.linear.hopper.plan import EXACT_ROWS
from blockskip.linear.measured import config_of, from_numbers
from blockskip.linear.packing import HOPPER, TILE_COLUMNS, TILE_ROWS

from skiplab.contenders.attention import needs_cuda
from skiplab.contenders.base import REGISTRY, Build, Contender, Planned, Solver, is_cuda
from skiplab.workload import LinearWorkload

Inputs = Sequence[torch.Tensor]
Operands = Callable[[LinearWorkload, Inputs], tuple[torch.Tensor, torch.Tensor]]
TINYGEMM_MIDDLE = 8  # value = (code - 8) * scale + zero
TINYGEMM_INNER = 8  # K tiles that one of its CUDA blocks takes


def quantized(workload: LinearWorkload, inputs: Inputs) -> bs.QuantizedWeight:
    """The workload's weight as `quantize` packs it."""
    return bs.quantize(inputs[1], workload.bits, workload.group_size, workload.symmetric)


def packed(workload: LinearWorkload, inputs: Inputs) -> bs.QuantizedWeight:
    """The workload's weight packed in rows."""
    return quantized(workload, inputs).packed("rows")


def _quantize(workload: LinearWorkload, inputs: Inputs) -> tuple[Any, ...]:
    return inputs[0], quantized(workload, inputs)


def _pack(workload: LinearWorkload, inputs: Inputs) -> tuple[Any, ...]:
    return inputs[0], packed(workload, inputs)


def _operands_in(pack: Callable[[LinearWorkload, Inputs], bs.QuantizedWeight]) -> Operands:
    """The operands of a weight packed so.

    Where `linear` rounds activations to int8, they are rounded; else the weight is rounded to their dtype, but for the
    few rows for which Hopper's kernel scales sums.
    """

    def operands(workload: LinearWorkload, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
        x, weight = inputs[0], pack(workload, inputs)
        if are_rounded(workload.rows, weight):
            return rounded(x, torch.float64), weight.dequantize(torch.float64)
        exact = workload.rows <= EXACT_ROWS and _needs_tiles(workload, x.device.type) is None
        kept = torch.float64 if exact and weight.packing == "tiles" else x.dtype
        return x.double(), weight.dequantize(kept).double()

    return operands


def dequantized_operands(workload: LinearWorkload, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs[0].double(), packed(workload, inputs).dequantize(inputs[0].dtype).double()


def _linear(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    return lambda x, w: bs.linear(x, w)


def _by_route(route: str) -> Build:
    return lambda workload, arguments: lambda x, w: bs.linear(x, w, impl="triton", route=route)


def _sized(kernel: str, packing: str) -> Callable[[tuple[int, ...]], Build]:
    """The kernel with the caller's sizes: its parameters in order, as `blockskip.linear.measured` has them."""

    def configured(numbers: tuple[int, ...]) -> Build:
        config, splits = config_of(kernel, packing, from_numbers(kernel, packing, numbers))

        def build(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
            from blockskip.linear import launch

            x, w = arguments
            plan = replace(bs.explain_linear(x, w, impl="triton"), kernel=kernel, config=config, splits=splits)
            return Planned(lambda x, w: launch.linear(x, w, None, plan), {"kernel": kernel, "origin": "asked"})

        return build

    return configured


def _pack_tiles(workload: LinearWorkload, inputs: Inputs) -> tuple[Any, ...]:
    return inputs[0], packed(workload, inputs).packed("tiles")


def _needs_tiles(workload: LinearWorkload, device: str) -> str | None:
    """Why our kernel for weights in tiles cannot do it, or None."""
    if not is_cuda(device) or torch.cuda.get_device_capability(device)[0] != HOPPER:
        return "it needs a GPU of compute capability 9.x"
    if workload.bits != 4 or workload.dtype == "float32":
        return "it takes int4 weights and bfloat16 or float16 activations"
    if workload.out_features % TILE_ROWS or workload.in_features % TILE_COLUMNS:
        return f"tiles are {TILE_ROWS} outputs x {TILE_COLUMNS} inputs, the weight must be whole ones"
    return None


def _needs_many_rows(workload: LinearWorkload, device: str) -> str | None:
    if not is_cuda(device):
        return needs_cuda(workload, device)
    if workload.rows <= MOST_ROWS:
        return f"up to {MOST_ROWS} rows the matvec alone is right: it rounds activations to int8"
    return "it takes float16 and bfloat16 activations" if workload.dtype == "float32" else None


def _reference(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    return lambda x, w: bs.linear(x, w, impl="reference")


def _dequantize(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    return lambda x, w: F.linear(x, w.dequantize(x.dtype))


def _float(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    return lambda x, weight: F.linear(x, weight)


def _ablation(name: str) -> tuple[Any, Any]:
    """prepare and build of the matvec without one of its choices: see `contenders.ablations`."""

    def prepare(workload: LinearWorkload, inputs: Inputs) -> tuple[Any, ...]:
        from skiplab.contenders import ablations

        w = packed(workload, inputs)
        return inputs[0], w, ablations.metadata_as_read(w, ablations.FORMS[name])

    def build(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
        from skiplab.contenders import ablations

        capability = Gpu.of(arguments[0].device).capability
        form, config = ablations.FORMS[name], matvec_config(workload.rows, capability)
        return lambda x, w, metadata: ablations.product(x, w, metadata, config, form)

    return prepare, build


def _needs_few_rows(workload: LinearWorkload, device: str) -> str | None:
    if is_cuda(device) and workload.rows > MOST_ROWS:
        return f"it shows a choice of the matvec, which takes {MOST_ROWS} rows at most"
    return needs_cuda(workload, device)


def _int8_mma(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    from skiplab.contenders import int8_mma

    return lambda x, w: int8_mma.product(x, w)


def _int8_operands(workload: LinearWorkload, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return rounded(inputs[0], torch.float64), packed(workload, inputs).dequantize(torch.float64)


def _needs_int4(workload: LinearWorkload, device: str) -> str | None:
    return needs_cuda(workload, device) if workload.bits == 4 else "it takes int4 weights"


def _tinygemm_metadata(w: bs.QuantizedWeight) -> torch.Tensor:
    """[K / group_size, N, 2] bfloat16: scale, and what is added to (code - 8) * scale."""
    zero = torch.full_like(w.scale, TINYGEMM_MIDDLE) if w.zero is None else w.zero
    added = ((TINYGEMM_MIDDLE - zero.float()) * w.scale.float()).to(torch.bfloat16)
    return torch.stack((w.scale.to(torch.bfloat16), added), -1).transpose(0, 1).contiguous()


@dataclass(frozen=True, eq=False)
class TinygemmWeight:
    """An int4 weight as torch's own product takes it: data, and metadata of `_tinygemm_metadata`; source: its codes."""

    data: torch.Tensor
    metadata: torch.Tensor
    source: bs.QuantizedWeight

    @classmethod
    def of(cls, w: bs.QuantizedWeight) -> TinygemmWeight:
        """Of a weight in rows or tiles, on its device."""
        w = w.packed("rows")
        codes = w.codes()
        if codes.is_cuda:
            nibbles = (codes[:, ::2] << 4 | codes[:, 1::2]).contiguous()
            data = torch.ops.aten._convert_weight_to_int4pack(nibbles, TINYGEMM_INNER)
        else:
            data = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.to(torch.int32), 1)
        return cls(data, _tinygemm_metadata(w), w)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.metadata.nbytes

    def product(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., K] bfloat16 -> [..., N]."""
        out = tinygemm_product(x.flatten(0, -2), self.data, self.source.group_size, self.metadata)
        return out.unflatten(0, x.shape[:-1])

    def dequantize(self, dtype: torch.dtype) -> torch.Tensor:
        """The floats that it stands for, [N, K]."""
        scale, added = self.metadata.to(dtype).transpose(0, 1).unbind(-1)
        codes = self.source.codes().to(dtype).unflatten(1, (scale.shape[1], -1))
        return codes.sub_(TINYGEMM_MIDDLE).mul_(scale[..., None]).add_(added[..., None]).flatten(1)


def tinygemm_product(x: torch.Tensor, data: torch.Tensor, group_size: int, metadata: torch.Tensor) -> torch.Tensor:
    """x [rows, K] bfloat16 -> [rows, N], by torch's kernel for x's device."""
    aten = torch.ops.aten
    product = aten._weight_int4pack_mm if x.is_cuda else aten._weight_int4pack_mm_for_cpu
    return product(x, data, group_size, metadata)


def _tinygemm_pack(workload: LinearWorkload, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    made = TinygemmWeight.of(quantized(workload, inputs))
    return inputs[0], made.data, made.metadata


def _tinygemm(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    return lambda x, data, metadata: tinygemm_product(x, data, workload.group_size, metadata)


def _tinygemm_operands(workload: LinearWorkload, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    return inputs[0].double(), TinygemmWeight.of(quantized(workload, inputs)).dequantize(torch.float64)


def _needs_tinygemm(workload: LinearWorkload, device: str) -> str | None:
    if workload.bits != 4 or workload.dtype != "bfloat16":
        return "tinygemm takes int4 weights and bfloat16 activations"
    if workload.out_features % 16 or workload.in_features % (16 * TINYGEMM_INNER):
        return "tinygemm needs out_features a multiple of 16 and in_features of 128"
    return tinygemm_reason(is_cuda(device))


def tinygemm_reason(cuda: bool) -> str | None:
    """Why this torch cannot multiply so, or None."""
    name = "_weight_int4pack_mm" if cuda else "_weight_int4pack_mm_for_cpu"
    return None if hasattr(torch.ops.aten, name) else f"this torch has no aten.{name}"


def _gemlite_pack(workload: LinearWorkload, inputs: Inputs) -> tuple[Any, ...]:
    from gemlite.core import DType, GemLiteLinearTriton  # type: ignore[import-not-found]

    w = packed(workload, inputs)
    dtype = {"bfloat16": DType.BF16, "float16": DType.FP16}[workload.dtype]
    layer = GemLiteLinearTriton(
        workload.bits, workload.group_size, workload.in_features, workload.out_features, dtype, dtype
    )
    zero = torch.full_like(w.scale, w.centre) if w.zero is None else w.zero
    layer.pack(w.codes(), w.scale.to(inputs[0].dtype), zero.to(inputs[0].dtype), None)
    return inputs[0], layer


def _gemlite(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    return lambda x, layer: layer(x)


def _needs_gemlite(workload: LinearWorkload, device: str) -> str | None:
    if importlib.util.find_spec("gemlite") is None:
        return "gemlite is not installed: pip install gemlite (CUDA)"
    if workload.bits != 4 or workload.dtype == "float32":
        return "it is called with int4 weights and bfloat16 or float16 activations here"
    return needs_cuda(workload, device)


_our_operands, _operands_in_rows = _operands_in(quantized), _operands_in(packed)
_operands_in_tiles = _operands_in(lambda workload, inputs: packed(workload, inputs).packed("tiles"))
_STRIDED, _SCALAR = _ablation("strided"), _ablation("scalar")
_HALF_STEP = 2.0**-8  # tinygemm rounds the product and the sum to bfloat16, half a step each

for _entry in (
    Contender("blockskip", "blockskip", "our linear, the weight as `quantize` packs it: dp4a, or tensor cores",
              _linear, prepare=_quantize, operands=_our_operands),
    Contender("blockskip-matvec", "blockskip, matvec",
              "our dp4a kernel for up to 8 rows, with sizes of one's own for tuning",
              _by_route("matvec"), _needs_few_rows, prepare=_pack, operands=_operands_in_rows,
              configured=_sized("matvec", "rows")),
    Contender("blockskip-fused", "blockskip, fused", "our kernel that turns int4 or int8 to floats inside the product",
              _by_route("fused"), _needs_many_rows, prepare=_pack, operands=_operands_in_rows,
              configured=_sized("fused", "rows")),
    Contender("blockskip-tiles", "blockskip, tiles", "our int4 product on Hopper's tensor cores, the weight in tiles",
              _linear, _needs_tiles, prepare=_pack_tiles, operands=_operands_in_tiles,
              configured=_sized("fused", "tiles")),
    Contender("blockskip-tiles-dequantize", "blockskip, tiles, dequantize",
              "our kernel turns tiles to floats, torch multiplies",
              _by_route("dequantize"), _needs_tiles, prepare=_pack_tiles, operands=dequantized_operands),
    Contender("blockskip-dequantize", "blockskip, dequantize",
              "our kernel turns the weight to floats, then torch multiplies",
              _by_route("dequantize"), _needs_many_rows, prepare=_pack, operands=_operands_in_rows),
    Contender("blockskip-strided", "blockskip, strided metadata",
              "our matvec with scales and zeros [groups, N]: a line a value",
              _STRIDED[1], _needs_few_rows, prepare=_STRIDED[0], operands=_operands_in_rows),
    Contender("blockskip-scalar", "blockskip, 4-byte loads",
              "our matvec with activations loaded 4 bytes at a time, not 16",
              _SCALAR[1], _needs_few_rows, prepare=_SCALAR[0], operands=_operands_in_rows),
    Contender("blockskip-int8-mma", "blockskip, int8 tensor cores",
              "rounded activations on int8 tensor cores, any number of rows",
              _int8_mma, _needs_int4, prepare=_pack, operands=_int8_operands),
    Contender("dequantize", "dequantize, product", "the weight turned to floats by torch in each call, then F.linear",
              _dequantize, prepare=_pack, operands=dequantized_operands),
    Contender("bf16", "float weight", "F.linear with the weight as it was, in the activations' dtype",
              _float, moved=lambda workload: workload.out_features * workload.in_features * workload.element_bytes),
    Contender("tinygemm", "tinygemm", "torch's int4 product (_weight_int4pack_mm), group by group in bfloat16",
              _tinygemm, _needs_tinygemm, prepare=_tinygemm_pack, operands=_tinygemm_operands,
              weight_rounding=_HALF_STEP),
    Contender("gemlite", "gemlite", "gemlite's Triton kernels, which tune themselves before they are timed",
              _gemlite, _needs_gemlite, prepare=_gemlite_pack, operands=dequantized_operands,
              weight_rounding=_HALF_STEP),
    Contender("reference", "reference", "our reference: obviously right, not fast",
              _reference, prepare=_quantize, operands=_our_operands),
):  # fmt: skip
    REGISTRY.add(_entry.of("linear"))
del _entry
