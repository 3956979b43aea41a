"""Which implementation a quantised linear layer takes on a CPU: code that numba compiles, or PyTorch alone.

numba is optional: it is imported where a call is about to take it.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec

import torch

from .activations import RoundedActivations
from .weight import QuantizedWeight

NUMBERS = (torch.bfloat16, torch.float16, torch.float32, torch.uint8, torch.int8)
"""What metadata may be for numba's code."""
LEAST_CODES = 1 << 16
"""Codes of a weight that are worth compiling for, which takes about a second once: fewer take PyTorch 0.2 ms a call."""
TENSORS = (torch.Tensor, torch.nn.Parameter)


def choose_on_cpu(x: torch.Tensor | RoundedActivations, w: QuantizedWeight, multiplied: str) -> tuple[str, str]:
    """(implementation, why) for x [M, K] multiplied as int8 or float."""
    reason = why_not_numba(x, w)
    if reason is None and w.shape.numel() < LEAST_CODES:
        reason = f"a weight of {w.shape.numel()} codes; from {LEAST_CODES} on code is compiled for it"
    if reason is not None:
        return "tiled", reason
    what = "products" if multiplied == "int8" else "the weight to floats"
    return "numba", f"{what} by code compiled for this processor"


def why_not_numba(x: torch.Tensor | RoundedActivations, w: QuantizedWeight) -> str | None:
    """Why numba's code cannot do this call, or None where it can."""
    tensors = w.tensors + ((x.values, x.scales) if isinstance(x, RoundedActivations) else (x,))
    if w.packing != "rows":
        return "the weight lies in tiles; numba's code reads rows"
    if any(t.device.type != "cpu" or type(t) not in TENSORS for t in tensors):
        return "numba's code takes plain tensors on a CPU"
    for name, t in w.named_tensors().items():
        if t.dtype not in NUMBERS:
            return f"{name} is {t.dtype}; numba's code takes {', '.join(map(str, NUMBERS))}"
    return numba_is_missing()


@cache
def numba_is_missing() -> str | None:
    """Why numba cannot be used, or None where it can."""
    if find_spec("numba") is None:
        return "numba is not installed: pip install numba"
    try:
        import numba  # noqa: F401
    except ImportError as error:  # such as for a numpy that it does not know
        return f"numba cannot be imported: {error}"
    return None
