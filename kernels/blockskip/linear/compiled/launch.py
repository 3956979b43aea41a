"""Calls of the compiled kernels: what they are compiled for, and the threads that they run in. Imports numba."""

from __future__ import annotations

import ctypes
import hashlib
import math
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numba import cfunc, from_dtype, types

from ..activations import RoundedActivations
from ..format import Metadata
from ..weight import QuantizedWeight
from .dequantize import make_dequantize
from .product import make_product
from .rounding import ROUNDING, make_rounding
from .weights import WEIGHT

LEAST_CODES = 1 << 17
"""Products of a weight's code and an activation that are worth another thread."""
ALIGNMENT = 64
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))).hexdigest()
"""numba's files of compiled functions know the file of the function alone, not those that it calls."""
_RoundingNumbers, _WeightNumbers = (ctypes.c_int64 * len(given.names or ()) for given in (ROUNDING, WEIGHT))


class CompiledForm(NamedTuple):
    """A weight's layout as the product is compiled for it.

    scale .. shift_step: dtypes by torch's names, None where there is none. centre: the code that is subtracted where
    there is no zero point. offset: whether the shift is added to (code - centre) * scale; else it is a zero point.
    """

    bits: int
    group_size: int
    scale: str
    scale_step: str | None
    shift: str | None
    shift_step: str | None
    centre: int
    offset: bool

    @classmethod
    def of(cls, w: QuantizedWeight) -> CompiledForm:
        scale, scale_step, shift, shift_step = (None if t is None else _name(t.dtype) for t in Metadata.of(w))
        return cls(w.bits, w.group_size, str(scale), scale_step, shift, shift_step, w.centre, w.offset is not None)


class Product:
    """`linear` of activations in int8, for calls with tensors of the kinds that it was made for.

    Called as f(x [..., K], w, bias): x, rounded to int8, times w, + bias, in x's dtype. A row's bits depend on no other
    row.
    """

    def __init__(self, x: torch.Tensor | RoundedActivations, w: QuantizedWeight) -> None:
        (*leading, self._inputs), self._outputs = x.shape, w.shape[0]
        self._shape, self._rows = (*leading, self._outputs), math.prod(leading)
        self._row_bytes = -(-self._inputs * 13 // (8 * ALIGNMENT)) * ALIGNMENT
        kind = torch.int8 if isinstance(x, RoundedActivations) else x.dtype
        self._round = compiled(make_rounding, ROUNDING, _name(kind), w.bits)
        self._multiply = WeightKernel(make_product, w, self._rows > 1)

    def __call__(
        self, x: torch.Tensor | RoundedActivations, w: QuantizedWeight, bias: torch.Tensor | None
    ) -> torch.Tensor:
        out = torch.empty((self._rows, self._outputs), dtype=torch.float32, device=w.device)
        if self._rows:
            rounded = self._rounded(x)
            self._multiply(w, out, self._rows * self._outputs * self._inputs, rounded)
        return (out if bias is None else out + bias).to(x.dtype).view(self._shape)

    def _rounded(self, x: torch.Tensor | RoundedActivations) -> torch.Tensor:
        """uint8 [M, bytes of a row], as `rounding` says, with rows at multiples of ALIGNMENT."""
        if isinstance(x, RoundedActivations):
            values, steps = x.values, x.scales
        else:
            values = steps = x.resolve_neg().contiguous()
        made = torch.empty((self._rows, self._row_bytes), dtype=torch.uint8, device=values.device)
        sizes = self._rows, self._inputs, made.data_ptr(), self._row_bytes
        given = _RoundingNumbers(values.data_ptr(), steps.data_ptr(), *sizes)
        self._round.call(ctypes.addressof(given))
        return made


def dequantize(w: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    """`w.dequantize(dtype)`, bit for bit; dtype: float16, bfloat16 or float32."""
    out = torch.empty(w.shape, dtype=dtype, device=w.device)
    WeightKernel(make_dequantize, w, _name(dtype))(w, out, out.numel())
    return out


class WeightKernel:
    """A function of WEIGHT, in as many of torch's threads as its work is worth, for weights of one layout.

    make: makes the function of the weight's form and `constant`.
    """

    def __init__(self, make: Callable, w: QuantizedWeight, constant: Any) -> None:
        self._make, self._constants = make, (*CompiledForm.of(w), constant)
        self._sizes = (*(0 if t is None else _bytes_of_row(t) for t in (w.data, *Metadata.of(w))), *w.shape)

    def __call__(self, w: QuantizedWeight, out: torch.Tensor, work: int, x: torch.Tensor | None = None) -> None:
        threads = min(torch.get_num_threads(), -(-work // LEAST_CODES))
        run = team() if threads > 1 else None
        addresses = (0 if t is None else t.data_ptr() for t in (w.data, *Metadata.of(w)))
        activations = (0, 0, 0) if x is None else (x.data_ptr(), _bytes_of_row(x), x.shape[0])
        given = _WeightNumbers(*addresses, *self._sizes, *activations, out.data_ptr(), _bytes_of_row(out))
        if run is None:
            self._alone.call(ctypes.addressof(given))
        else:
            run(self._shared.address, ctypes.addressof(given), threads, 0)

    @cached_property
    def _alone(self) -> Kernel:
        return compiled(self._make, WEIGHT, *self._constants, False)

    @cached_property
    def _shared(self) -> Kernel:
        return compiled(self._make, WEIGHT, *self._constants, True)


def _bytes_of_row(t: torch.Tensor) -> int:
    return t.stride(0) * t.element_size()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Kernel(NamedTuple):
    """A compiled function of one pointer: the address of its code, a call that lets go of Python's lock, its owner."""

    address: int
    call: Callable[[int], None]
    owner: Any


@cache
def compiled(make: Callable[..., Callable], given: np.dtype, *constants: Any) -> Kernel:
    """make(*constants, SOURCES), compiled for this processor or taken from numba's files where they can be kept."""
    function = make(*constants, SOURCES)
    try:
        kernel = _compiled(function, given, cache=True)
    except RuntimeError:  # no folder that can be written
        kernel = _compiled(function, given, cache=False)
    address: Any = kernel.address
    return Kernel(address, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address), kernel)


def _compiled(function: Callable, given: np.dtype, cache: bool) -> Any:
    return cfunc(types.void(types.CPointer(from_dtype(given))), cache=cache, error_model="numpy")(function)


@cache
def team() -> Callable[[int, int, int, int], None] | None:
    """f(function, its argument, threads, 0), which runs it in each thread of torch's own team; None without GNU OpenMP.

    Another pool would wait for cores on which torch's threads look out for work.
    """
    try:
        run = ctypes.CDLL(None).GOMP_parallel
    except (AttributeError, OSError, TypeError):
        return None
    run.argtypes, run.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint), None
    return run
