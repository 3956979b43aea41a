"""Linear calls that are prepared: each called as f(x, w, bias) with tensors of the kinds that it was made for.

Imports triton.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F

from ..gpu import Gpu
from ..launching.dispatch import Launch
from ..launching.primitives import interpreting
from ..launching.ready import Ready, Step
from .configs import FIXED_ROWS
from .dequantize import dequantize
from .fixed_rows import blocks_of, products
from .format import Format, Metadata
from .known import Known, known
from .packing import TILE_ROWS
from .weight import BLOCK, TENSORS, QuantizedWeight

LinearCall = Callable[[Any, QuantizedWeight, torch.Tensor | None], torch.Tensor]
DEQUANTIZE_BLOCKS = 128
SHARE_OF_MEMORY = 128
LEAST_BYTES = 1 << 25


class Prepared:
    """The launches of kernels that read the packed weight.

    operands: what of the weight they take. as_read: makes x as they read it, [M, K], of x; operand_as_read likewise of
    each operand. They do not copy what is so. make(inputs, results) -> Ready; inputs are (x, bias, *operands), as the
    kernels read them.
    """

    def __init__(
        self,
        x: torch.Tensor,
        w: QuantizedWeight,
        bias: torch.Tensor | None,
        operands: Callable[[Known], tuple],
        as_read: Callable[[torch.Tensor], torch.Tensor],
        make: Callable[[Sequence, list], Ready],
        operand_as_read: Callable[[torch.Tensor], torch.Tensor] = torch.Tensor.contiguous,
    ) -> None:
        given = (x, bias, *operands(known(w)))
        changes = (as_read, torch.Tensor.contiguous, *[operand_as_read] * (len(given) - 2))
        inputs = [None if t is None else change(t) for t, change in zip(given, changes, strict=True)]
        # what is only seen otherwise, such as [B, L, K] as rows, is given as it is: kernels take its address
        before, after = ([None if t is None else t.data_ptr() for t in tensors] for tensors in (given, inputs))
        self._changes = [(i, change) for i, change in enumerate(changes) if before[i] != after[i]]
        self._operands, self._ready = operands, make(inputs, [(*x.shape[:-1], w.shape[0])])

    def __call__(self, x: torch.Tensor, w: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
        operands = self._operands(w.__dict__["_known"])
        if not self._changes:
            return self._ready(x, bias, *operands)[0]
        inputs = [x, bias, *operands]
        for slot, change in self._changes:
            inputs[slot] = change(inputs[slot])
        return self._ready(*inputs)[0]


class Dequantized:
    """Products of torch's with weights that a kernel turns to floats, all of them at once where memory allows.

    It is for calls without autocast, which would change these products.

    batch_invariant: the products are of equally many rows each.
    """

    def __init__(self, x: torch.Tensor, w: QuantizedWeight, batch_invariant: bool) -> None:
        dtype, self._batch_invariant = torch.float32 if interpreting() else x.dtype, batch_invariant
        self._outputs, self._dtype = w.shape[0], x.dtype
        self._rows = rows_at_a_time(w.shape, x.dtype.itemsize, Gpu.of(x.device).memory_bytes)
        parts = [] if self._rows == self._outputs else known(w).parts(w, self._rows)
        self._ready = {cut.stop - cut.start: ready_dequantize(part, dtype) for cut, part in parts[:1] + parts[-1:]}
        self._ready_whole = None if parts else ready_dequantize(w, dtype)

    def __call__(self, x: torch.Tensor, w: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
        if self._ready_whole is not None:
            return self._product(x, self._floats(self._ready_whole, w), bias)
        out = torch.empty((*x.shape[:-1], self._outputs), dtype=x.dtype, device=x.device)
        flat, columns = x.reshape(-1, x.shape[-1]), out.view(-1, self._outputs)
        for cut, part in known(w).parts(w, self._rows):
            weight = self._floats(self._ready[cut.stop - cut.start], part)
            added = None if bias is None else bias[cut]
            if self._batch_invariant:
                columns[:, cut] = self._product(flat, weight, added)
            elif added is None:
                torch.mm(flat, weight.T, out=columns[:, cut])
            else:
                torch.addmm(added, flat, weight.T, out=columns[:, cut])
        return out

    def _product(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        if not self._batch_invariant:
            return F.linear(x, weight, bias)
        flat = x.reshape(-1, x.shape[-1])
        found = products(blocks_of(flat, FIXED_ROWS), weight, bias)[: flat.shape[0]]
        return found.view(*x.shape[:-1], weight.shape[0])

    def _floats(self, ready: Ready, w: QuantizedWeight) -> torch.Tensor:
        return ready(*known(w).tensors)[0].to(self._dtype)


def rows_at_a_time(shape: torch.Size, element_bytes: int, memory_bytes: int) -> int:
    """How many of a weight's N rows are turned to floats at a time.

    All, if their floats take at most a 128th of the GPU's memory (1.1 GB of an H200's), or 32 MB if that is more; else
    N in as few equal parts of whole tiles as take no more.
    """
    n, k = shape
    most = max(LEAST_BYTES, memory_bytes // SHARE_OF_MEMORY) // (k * element_bytes)
    if n <= most:
        return n
    parts = -(-n // max(TILE_ROWS, most // TILE_ROWS * TILE_ROWS))
    even = -(-n // parts)
    return min(n, -(-even // TILE_ROWS) * TILE_ROWS)


def ready_dequantize(w: QuantizedWeight, dtype: torch.dtype) -> Ready:
    """The launch that makes [floats] of `known(w).tensors`."""

    def steps(inputs, made) -> Iterator[Step]:
        same = replace(w, **dict(zip(TENSORS, inputs, strict=True)))
        yield Step(dequantize, prepare_dequantize(same, made[0]), {})

    return Ready(known(w).tensors, [(tuple(w.shape), dtype)], steps)


def prepare_dequantize(w: QuantizedWeight, out: torch.Tensor) -> Launch:
    """The launch that writes w's floats to out [N, K]."""
    count = w.shape.numel() // BLOCK
    constants = {"FORMAT": Format.of(w), "BLOCKS": DEQUANTIZE_BLOCKS}
    return Launch((w.data, Metadata.of(w), out, count), constants, (-(-count // DEQUANTIZE_BLOCKS),))
