"""What of the claims is no time, and can be computed anywhere: bits, and a softmax without its maximum."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping

import torch

from skiplab.claims.evidence import Found
from skiplab.machine import default_device, device_name

BITS = """
import blockskip as bs, torch
device = "cuda" if torch.cuda.is_available() else "cpu"
generator = torch.Generator(device).manual_seed(0)
real = {"generator": generator, "device": device, "dtype": torch.float32}
q, k, v = (torch.randn((1, heads, 100, 32), **real) for heads in (2, 1, 1))
how = {"mask": bs.sliding_window(24), "impl": "triton", "config": (32, 16, 4, 1)}
dense, *others = (bs.attention(q, k, v, skip=skip, **how) for skip in ("none", "mask", "bounds", "map"))
print(sum(int((dense.view(torch.int32) != other.view(torch.int32)).sum()) for other in others))
"""
"""Prints how many elements of attention differ in a bit from the result with nothing skipped."""
CONSTANT = 5.0
"""What the pull request's split-K subtracted from scores in the place of their maximum."""


def checks_here() -> Mapping[str, Found]:
    """What could be computed on this machine, by the names that claims know; the kernels need Triton."""
    place = device_name(default_device())
    found = {"softmax": Found(right_without_maximum(), "computed", place)}
    if importlib.util.find_spec("triton") is not None:
        where = place if torch.cuda.is_available() else "Triton's interpreter"
        found["bits"] = Found(differing_elements(), "computed", where)
    return found


def differing_elements() -> int:
    """How many elements of our kernel's results differ between skipping and not; in a process of its own.

    Without a GPU it is interpreted, which must be known before its kernels are imported.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    if not torch.cuda.is_available():
        environment["TRITON_INTERPRET"] = "1"
    done = subprocess.run([sys.executable, "-c", BITS], capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"the kernels could not be compared: {done.stderr[-500:]}")
    return int(done.stdout)


def right_without_maximum() -> int:
    """Of four kinds of scores, how many give the softmax' result with a constant in the place of the maximum."""
    generator = torch.Generator("cpu").manual_seed(0)
    values = torch.randn((2048, 8), generator=generator, dtype=torch.float32, device="cpu")
    zeros = torch.zeros(2048, dtype=torch.float32, device="cpu")
    one_large = zeros.clone()
    one_large[7] = 93.75
    ordinary = torch.randn(2048, generator=generator, dtype=torch.float32, device="cpu")
    return sum(_is_right(scores, values) for scores in (ordinary, one_large, zeros + 88, zeros - 110))


def _is_right(scores: torch.Tensor, values: torch.Tensor) -> bool:
    weights = torch.exp(scores - CONSTANT)
    found = (weights @ values) / weights.sum()
    right = torch.softmax(scores.double(), 0) @ values.double()
    return bool(torch.isclose(found.double(), right, rtol=1e-3, atol=1e-5).all())
