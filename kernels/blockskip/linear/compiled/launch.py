"""Calls of the compiled kernels: what they are compiled for, and the threads that they run in. Imports numba."""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from functools import cache
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


def linear(x: torch.Tensor | RoundedActivations, w: QuantizedWeight, bias: torch.Tensor | None) -> torch.Tensor:
    """x [M, K], rounded to int8, times w [N, K], + bias: [M, N] in x's dtype; a row's bits depend on no other row."""
    out = torch.empty((x.shape[0], w.shape[0]), dtype=torch.float32, device=x.device)
    if out.numel():
        activations = _rounded(x, w.bits)
        _multiply(activations, w, out)
    return (out if bias is None else out + bias).to(x.dtype)


def _rounded(x: torch.Tensor | RoundedActivations, bits: int) -> torch.Tensor:
    """uint8 [M, bytes of a row], as `rounding` says, with rows at multiples of ALIGNMENT."""
    rows, inputs = x.shape
    stride = -(-inputs * 13 // (8 * ALIGNMENT)) * ALIGNMENT
    made = torch.empty((rows, stride), dtype=torch.uint8, device=x.device)
    if isinstance(x, RoundedActivations):
        values, steps = x.values, x.scales
    else:
        values = steps = x.resolve_neg().contiguous()
    kernel = compiled(make_rounding, ROUNDING, _name(values.dtype), bits)
    given = np.array((values.data_ptr(), steps.data_ptr(), rows, inputs, made.data_ptr(), stride), ROUNDING)
    kernel.call(given.ctypes.data)
    return made


def dequantize(w: QuantizedWeight, dtype: torch.dtype) -> torch.Tensor:
    """`w.dequantize(dtype)`, bit for bit; dtype: float16, bfloat16 or float32."""
    out = torch.empty(w.shape, dtype=dtype, device=w.device)
    _run(make_dequantize, (_name(dtype),), w, w.shape.numel(), out)
    return out


def _multiply(activations: torch.Tensor, w: QuantizedWeight, out: torch.Tensor) -> None:
    """out float32 [M, N], dense = activations, as `_rounded` leaves them, times w."""
    rows = out.shape[0]
    _run(make_product, (rows > 1,), w, rows * w.shape.numel(), out, activations)


def _run(make: Callable, constants: tuple, w: QuantizedWeight, work: int, out: torch.Tensor, x=None) -> None:
    """The function that `make` makes for the weight's form and `constants`, in as many threads as the work is worth."""
    threads = min(torch.get_num_threads(), w.shape[0], -(-work // LEAST_CODES))
    run = team() if threads > 1 else None
    kernel = compiled(make, WEIGHT, *CompiledForm.of(w), *constants, run is not None)
    tensors = w.data, *Metadata.of(w)
    addresses = [0 if t is None else t.data_ptr() for t in tensors]
    strides = [0 if t is None else _bytes_of_row(t) for t in tensors]
    activations = (0, 0, 0) if x is None else (x.data_ptr(), _bytes_of_row(x), x.shape[0])
    given = np.array((*addresses, *strides, *w.shape, *activations, out.data_ptr(), _bytes_of_row(out)), WEIGHT)
    if run is None:
        kernel.call(given.ctypes.data)
    else:
        run(kernel.address, given.ctypes.data, threads, 0)


def _bytes_of_row(t: torch.Tensor) -> int:
    return t.stride(0) * t.element_size()


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


class Kernel(NamedTuple):
    """A compiled function of one pointer: the address of its code, and a call that lets go of Python's lock."""

    address: int
    call: Callable[[int], None]
    keep: Any


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
