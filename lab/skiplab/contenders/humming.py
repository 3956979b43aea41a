"""Humming's int4 products (PyPI `humming-kernels`, vLLM's back-end), with float and with int8 activations.

It compiles its kernels on the machine for each layer's shape, when the layer is first called: `build` calls it once, so
none of that is timed. An error until then, such as a missing compiler, becomes the reason why it is unsupported.
Written for 0.1.20.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import blockskip as bs
import torch

from skiplab.contenders.base import REGISTRY, Contender, Solver, Unsupported, is_cuda
from skiplab.contenders.linear import Inputs, dequantized_operands, packed
from skiplab.workload import LinearWorkload

INSTALL = 'pip install "humming-kernels[cu13]" (CUDA 12: [cu12]; CUDA alone, with its compiler)'
ALIGNED = 64
"""Humming packs tiles of so many outputs, and of 64 inputs where activations are int8 (32 where they are floats)."""
STEPS = 1024  # its int8 form rounds the groups' scales to so many steps of the largest
HALF_STEP = 2.0**-8
"""Of a bfloat16: it may round the sums of the shares along K that it adds up in the result's dtype."""


def packed_codes(codes: torch.Tensor) -> torch.Tensor:
    """Codes 0 to 15 [..., K] as int32 [..., K / 8], eight in a word, the first in the lowest bits."""
    nibbles = codes.to(torch.uint8)
    return (nibbles[..., ::2] | nibbles[..., 1::2] << 4).contiguous().view(torch.int32)


def layer_tensors(w: bs.QuantizedWeight, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The parameters of a layer of Humming's: codes along K, a scale a group, zero points packed along the outputs."""
    tensors = {"weight": packed_codes(w.codes()), "weight_scale": w.scale.to(dtype)}
    if w.zero is not None:
        tensors["zero_point"] = packed_codes(w.zero.mT.contiguous()).mT.contiguous()
    return tensors


def _layer(workload: LinearWorkload, w: bs.QuantizedWeight, activations: str) -> Any:
    from humming.layer import HummingLayer  # type: ignore[import-not-found]

    layer = HummingLayer(
        shape_n=workload.out_features,
        shape_k=workload.in_features,
        weight_config={"dtype": "uint4", "group_size": workload.group_size, "has_zero_point": not w.symmetric},
        input_config={"dtype": activations},
        torch_dtype=workload.torch_dtype,
    ).to(w.device)
    tensors, wanted = layer_tensors(w, workload.torch_dtype), dict(layer.named_parameters())
    given = {name: (tuple(one.shape), one.dtype) for name, one in tensors.items()}
    asked = {name: (tuple(one.shape), one.dtype) for name, one in wanted.items()}
    if given != asked:
        raise Unsupported(f"this version of Humming wants other tensors: {asked}, not {given}")
    layer.load_from_tensors(tensors)
    layer.transform()
    return layer


@contextmanager
def _reasons(doing: str) -> Iterator[None]:
    """Turns what Humming raises while it prepares into Unsupported, except for running out of memory."""
    try:
        yield
    except (Unsupported, torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # it compiles: its compilers, files and assertions may raise anything
        said = [type(error).__name__, *str(error).strip().splitlines()[:1]]
        raise Unsupported(f"Humming could not {doing}: {': '.join(said)}") from error


def _prepare(activations: str | None) -> Any:
    def prepare(workload: LinearWorkload, inputs: Inputs) -> tuple[Any, ...]:
        with _reasons("prepare the layer"):
            return inputs[0], _layer(workload, packed(workload, inputs), activations or workload.dtype)

    return prepare


def _build(workload: LinearWorkload, arguments: Sequence[Any]) -> Solver:
    with _reasons("compile or run its kernel"), torch.no_grad():
        x, layer = arguments
        layer(x)
    return lambda x, layer: layer(x)


def _int8_operands(workload: LinearWorkload, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """The int8 form's operands: int8 activations with a step a row, scales in multiples of the largest / 1024."""
    w = packed(workload, inputs)
    scale = w.scale.to(workload.torch_dtype).float()
    unit = scale.abs().max() / STEPS
    values = w.codes().double().unflatten(1, (scale.shape[1], -1))
    values -= w.centre if w.zero is None else w.zero.double().unsqueeze(-1)
    values *= ((scale / unit).round().double() * unit.double()).unsqueeze(-1)
    return int8_by_row(inputs[0]).double(), values.flatten(1)


def int8_by_row(x: torch.Tensor) -> torch.Tensor:
    """x rounded to int8 with a step for each row, its largest magnitude / 127; in float32."""
    step = (x.float().abs().amax(1, keepdim=True) / 127).clamp_min(1e-30)
    return (x.float() * (1 / step)).round().clamp(-128, 127) * step


def _moved(workload: LinearWorkload) -> int:
    """Bytes of its weight: four bits a code, two bytes of scale a group and, with zero points, four bits more."""
    group_bits = 16 + (0 if workload.symmetric else 4)
    return round(workload.out_features * workload.in_features * (4 + group_bits / workload.group_size) / 8)


def _unsupported(workload: LinearWorkload, device: str) -> str | None:
    """Why Humming cannot do it here, or None."""
    if importlib.util.find_spec("humming") is None:
        return f"Humming is not installed: {INSTALL}"
    if not is_cuda(device):
        return "needs a CUDA device: Humming's kernels are CUDA's"
    if workload.bits != 4 or workload.dtype == "float32":
        return "it is called with int4 weights and bfloat16 or float16 activations here"
    if workload.out_features % ALIGNED or workload.in_features % ALIGNED:
        return f"Humming's tiles are of {ALIGNED} outputs and inputs, the weight must be whole ones"
    return None


for _entry in (
    Contender("humming", "Humming W4A16", "Humming's int4 product with float activations, compiled for each shape",
              _build, _unsupported, prepare=_prepare(None), operands=dequantized_operands, weight_rounding=HALF_STEP,
              moved=_moved),
    Contender("humming-int8", "Humming W4A8", "Humming's int4 product with activations it rounds to int8, a step a row",
              _build, _unsupported, prepare=_prepare("int8"), operands=_int8_operands, weight_rounding=HALF_STEP,
              moved=_moved),
):  # fmt: skip
    REGISTRY.add(_entry.of("linear"))
del _entry
