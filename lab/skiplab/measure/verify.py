"""Verifies a contender: its result against the float64 result.

Attention and decode: torch sets the tolerance: twice the error of its own result (SDPA written out, same dtype, same
inputs, same mask) plus one rounding of the dtype and of a float32 score. Up to 4,096 queries all rows are compared,
beyond that 256, tile borders among them. Of float8 keys and values the float64 result is of what they stand for, number
times scale; what the rounding to float8 costs is said beside it, in decibel.

Linear: the product of the contender's own operands. Tolerance: K float32 roundings of the sum of magnitudes (no order
of summing is worse), what the contender rounds of its weight inside, and one rounding of the dtype.

A whole model: logits of a short prompt, or of a step behind one, from the contender's own weights. Tolerance: twice
what the same decoder in plain PyTorch, which rounds where the contender's does, is off by at any position looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product

import torch

from skiplab.contenders import Contender, contender
from skiplab.contenders.base import Solver
from skiplab.contenders.source import KernelSource, source_of
from skiplab.machine import default_device
from skiplab.measure.failure import TRITON_NEEDS_GPU, Failure, attempt
from skiplab.measure.fresh import run_fresh
from skiplab.measure.modules import MODULES
from skiplab.measure.truth import Truth
from skiplab.operations import DEFAULT_OPERATION, workload_of
from skiplab.workload import Problem


@dataclass(frozen=True)
class Check:
    """The largest absolute error, the tolerance, and the problem in words ('' if there is none).

    snr_db: of the result beside what inputs would have given that were not rounded to 8 bits; None where none were.
    """

    error: float
    tolerance: float
    problem: str = ""
    snr_db: float | None = None

    @property
    def passed(self) -> bool:
        return not self.problem


def compare(workload: Problem, out: torch.Tensor, expected: Truth) -> Check:
    """Judge a result: kind, shape, dtype, NaN, then the error on the compared rows."""
    tolerance, shape = expected.tolerance, workload.out_shape
    if not isinstance(out, torch.Tensor) or tuple(out.shape) != shape or out.dtype != workload.out_dtype:
        given = f"{tuple(out.shape)} {out.dtype}" if isinstance(out, torch.Tensor) else type(out).__name__
        return Check(float("nan"), tolerance, f"the result is {given}; expected is {shape} {workload.out_dtype}")
    if not torch.isfinite(out).all():
        return Check(float("inf"), tolerance, "the result holds NaN or infinity")
    compared = out.index_select(-2, expected.rows.to(out.device)).double()
    error = (compared - expected.out).abs().max().item()
    problem = f"error {error:.3g} is above the tolerance {tolerance:.3g}" if error > tolerance else ""
    before = expected.before_rounding
    return Check(error, tolerance, problem, None if before is None else decibel(compared, before))


def decibel(result: torch.Tensor, exact: torch.Tensor) -> float | None:
    """The signal-to-noise ratio of a result in decibel; None without any noise, or any signal."""
    noise, signal = (result - exact).square().sum().item(), exact.square().sum().item()
    return 10 * math.log10(signal / noise) if noise and signal else None


def verify(
    workload: Problem,
    entry: Contender,
    device: str,
    seed: int,
    *,
    deviation: float = 1.0,
    fn: Solver | None = None,
    sampled: bool | None = None,
) -> Check:
    """Run the contender on fresh inputs of that seed and judge the result; its inputs must come back unchanged.

    `fn`: the callable, if it is built already. `sampled=None` compares all rows up to 4,096.
    """
    inputs = workload.inputs(device, seed, deviation)
    given = [tensor.clone() for tensor in inputs]
    arguments = entry.prepare(workload, inputs)
    call = fn or entry.build(workload, arguments)
    with torch.no_grad():
        out = call(*arguments)
    sides = zip(workload.input_names, inputs, given, strict=True)
    changed = [name for name, now, before in sides if not same_bits(now, before)]
    result = compare(workload, out, expected_of(workload, entry, device, seed, given, deviation, sampled))
    if changed:
        return Check(result.error, result.tolerance, f"the call changed its input {', '.join(changed)}")
    return result


def expected_of(
    workload: Problem, entry: Contender, device: str, seed: int, inputs: Sequence[torch.Tensor],
    deviation: float = 1.0, sampled: bool | None = None,
) -> Truth:  # fmt: skip
    """The truth for this contender and `inputs`, which are the workload's of that seed and deviation."""
    return MODULES[workload.operation].expected(workload, entry, device, seed, inputs, deviation, sampled)


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether both are equal, counting NaN as equal to NaN: a cache holds NaN where there is no key."""
    return torch.equal(a.reshape(-1).view(torch.uint8), b.reshape(-1).view(torch.uint8))


DEVIATIONS = (1.0, 8.0)
INTERPRETED = ("float32", "float16")
"""The dtypes that Triton's interpreter computes in."""


@dataclass(frozen=True)
class CheckRow:
    """One shape of a check: `status` ok, wrong, unsupported, out-of-memory or crashed, and why."""

    workload: Problem
    deviation: float
    status: str
    error: float = float("nan")
    tolerance: float = float("nan")
    text: str = ""


@dataclass(frozen=True)
class CheckReport:
    """The results of checking one contender on the awkward shapes. how: where its kernels ran, if not on the device."""

    contender: str
    device: str
    rows: tuple[CheckRow, ...] = field(default=())
    how: str = ""

    @property
    def passed(self) -> bool:
        """Whether all supported shapes are right, and at least one is supported."""
        states = {row.status for row in self.rows}
        return "ok" in states and states <= {"ok", "unsupported"}

    def counts(self) -> dict[str, int]:
        """The number of shapes by status."""
        states = [row.status for row in self.rows]
        return {state: states.count(state) for state in sorted(set(states))}

    def __str__(self) -> str:
        counts = ", ".join(f"{number} {state}" for state, number in self.counts().items())
        lines = [f"{self.contender} on {self.device}{f' ({self.how})' if self.how else ''}: {counts}"]
        lines += [
            f"  {row.status}: {row.workload.key()}, deviation {row.deviation:g}: {row.text}"
            for row in self.rows
            if row.status != "ok"
        ]
        return "\n".join(lines)


def check(
    name: str,
    device: str | None = None,
    dtypes: Sequence[str] | None = None,
    seed: int = 0,
    operation: str = DEFAULT_OPERATION,
) -> CheckReport:
    """Check a contender on shapes that have caught bugs, at logits (or activations) of deviation 1 and 8.

    Those with float8 keys, sinks or sequences of different lengths are for contenders that were made for such.

    `dtypes` defaults to bfloat16, float16 and float32. A Triton kernel of the user's runs in Triton's interpreter where
    there is no GPU: in a child process, in float32. ValueError for no such name, and where that process fails.
    """
    entry, device = contender(name, operation), device or default_device()
    rows = []
    for dtype in dtypes or ("bfloat16", "float16", "float32"):
        shapes = [one for one in MODULES[operation].awkward(dtype) if set(one.needs) <= set(entry.takes)]
        for workload, deviation in product(shapes, DEVIATIONS):
            rows.append(_check_row(workload, entry, device, seed, deviation))
            if rows[-1].text == TRITON_NEEDS_GPU and (source := source_of(entry)) is not None:
                return _interpreted(entry, source, device, dtypes, seed)
    return CheckReport(name, device, tuple(rows))


def _interpreted(
    entry: Contender, source: KernelSource, device: str, dtypes: Sequence[str] | None, seed: int
) -> CheckReport:
    """The check in a process with Triton's interpreter, which computes bfloat16 wrongly, and takes half a minute."""
    if dtypes is not None and (other := [one for one in dtypes if one not in INTERPRETED]):
        raise ValueError(
            f"dtypes: got {', '.join(other)}; without a GPU a Triton kernel runs in Triton's interpreter, which takes "
            f"{' and '.join(INTERPRETED)}"
        )
    request = {
        "name": entry.name, "operation": entry.operation, "source": source.text, "seed": seed,
        "dtypes": list(dtypes or INTERPRETED[:1]),
    }  # fmt: skip
    try:
        found = run_fresh("skiplab.measure.interpreted", request)
    except RuntimeError as error:  # of that process: what happened, and what to do
        raise ValueError(f"check: {' '.join(map(str, error.args))}") from error
    rows = tuple(CheckRow(workload_of(axes), *rest) for axes, *rest in found)
    return CheckReport(entry.name, device, rows, "in Triton's interpreter")


def _check_row(workload: Problem, entry: Contender, device: str, seed: int, deviation: float) -> CheckRow:
    result = attempt(lambda: _supported(workload, entry, device, seed, deviation))
    if isinstance(result, Failure):
        return CheckRow(workload, deviation, result.status, text=result.text)
    status = "ok" if result.passed else "wrong"
    return CheckRow(workload, deviation, status, result.error, result.tolerance, result.problem)


def _supported(workload: Problem, entry: Contender, device: str, seed: int, deviation: float) -> Check | Failure:
    reason = entry.refusal(workload, device)
    return Failure("unsupported", reason) if reason else verify(workload, entry, device, seed, deviation=deviation)
