"""What measuring a whole model needs: awkward ones, the truth of a short prompt, the work, and how calls are timed."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from skiplab.contenders import Contender, Unsupported, is_cuda
from skiplab.contenders.model import ModelCall, Runner, references
from skiplab.machine import last_cache_bytes
from skiplab.measure.memory import begin_peak, peak_bytes
from skiplab.measure.point import WorkDone
from skiplab.measure.rotation import ROTATION
from skiplab.measure.samples import TARGET_ERROR, Samples, Way, collect, is_bimodal, median_error
from skiplab.measure.timing import Built, Repeat, TimeLimits, Timing, cooled
from skiplab.measure.traced import GAPS, profiled
from skiplab.measure.truth import Truth
from skiplab.model.weights import PRODUCTS
from skiplab.workload import ModelWorkload
from skiplab.workload.linear import bits_per_weight
from skiplab.workload.model import CHECKED, products

NAMES = frozenset({"attention sliding", "attention full", *PRODUCTS.values(), "head"})
"""What a profile of `Decoder` has names for."""
WARM_STEPS = 2
"""Before those that are timed: the first captures a graph."""
WARM_PROMPTS = 2
"""Before those that are timed: the first compiles, plans and makes the cache, a second captures a graph."""
CHECKED_CALLS = 3
"""Prompts, or steps, whose largest error sets the tolerance."""
OFTEN = 7
"""Calls of a model without a layer, before those that it is taken off."""
SLACK = 2.0
"""Two results that round at the same places differ from the truth by about as much; the largest of many, by less."""
TINY = {
    "vocab_size": 160, "hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32, "num_hidden_layers": 3, "rms_norm_eps": 1e-6,
}  # fmt: skip
AWKWARD = {
    "one window": {"model_type": "mistral", "sliding_window": 16},
    "two kinds": {
        "model_type": "gemma4_text", "sliding_window": 8, "global_head_dim": 64, "num_global_key_value_heads": 1,
        "attention_k_eq_v": True, "final_logit_softcapping": 2.0, "hidden_size_per_layer_input": 0,
        "num_kv_shared_layers": 0, "num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention"] * 2,
    },
}  # fmt: skip


def awkward(dtype: str) -> list[ModelWorkload]:
    """Workloads that have caught bugs, in that dtype: rings that wrap, steps of several tokens."""
    calls: tuple[tuple[str, int, int], ...] = (("prefill", 1, 0), ("prefill", CHECKED, 0), ("decode", 1, CHECKED),
                                               ("decode", 5, CHECKED))  # fmt: skip
    return [
        ModelWorkload(*call, model=name, dtype=dtype, config=json.dumps({**TINY, **config}))
        for name, config in AWKWARD.items()
        for call in calls
    ]


def expected(
    workload: ModelWorkload,
    entry: Contender,
    device: str,
    seed: int,
    inputs: Sequence[torch.Tensor],
    deviation: float,
    sampled: bool | None,
) -> Truth:
    """Logits of the contender's own weights in float64; those of a run's points are computed once."""
    operands = entry.operands or references
    out = _exact(workload, operands, device, seed)[-workload.out_shape[0] :]
    rounding = torch.finfo(torch.float32).eps / 2 * out.abs().max().item()
    tolerance = SLACK * _off(workload, operands, device) + rounding
    return Truth(torch.arange(len(out), dtype=torch.int64, device="cpu"), out, tolerance)


@lru_cache(maxsize=16)
def _exact(workload: ModelWorkload, operands: Callable[..., Any], device: str, seed: int) -> torch.Tensor:
    """Logits [positions, vocabulary] of the last positions, in float64; contenders of the same weights share them."""
    (ids,) = workload.inputs(device, seed)
    exact, _ = operands(workload, (ids,))
    return exact.prefill(ids, logits="all")[0, -CHECKED_CALLS * workload.out_shape[0] :].double()


@lru_cache(maxsize=16)
def _off(workload: ModelWorkload, operands: Callable[..., Any], device: str) -> float:
    """The largest error of the contender's own weights in plain PyTorch, over a few prompts or steps."""
    (ids,) = workload.inputs(device, 0)
    _, plain = operands(workload, (ids,))
    if workload.phase == "prefill":  # each prompt of its own: so many rows are rounded as those of a prompt are
        ends = range(max(1, workload.q_len - CHECKED_CALLS + 1), workload.q_len + 1)
        own = torch.cat([plain.prefill(ids[:, :end])[0] for end in ends])
    else:
        count = min(CHECKED_CALLS, workload.depth // workload.q_len)
        plain.prefill(ids[:, : -count * workload.q_len])
        steps = ids[:, -count * workload.q_len :].split(workload.q_len, 1)
        own = torch.cat([plain.step(one)[0] for one in steps])
    return (own.double() - _exact(workload, operands, device, 0)[-len(own) :]).abs().max().item()


def plan_and_work(
    entry: Contender, workload: ModelWorkload, inputs: Sequence[torch.Tensor], arguments: Sequence[Any]
) -> tuple[dict[str, Any], WorkDone]:
    """Which layers are timed; and the work that is in a call of the whole model."""
    least = workload.work()
    moved = least.bytes if entry.moved is None else entry.moved(workload)
    facts = {"layers": "one of each kind, times its count" if workload.by_kind else "all"}
    return facts, WorkDone(least.useful_flops, None, least.dense_flops, moved, least.bytes)


def read_bytes(entry: Contender, workload: ModelWorkload, work: WorkDone) -> int | None:
    """The bytes of its arguments that a call reads: all of them."""
    return None


def timed(several: Sequence[Built], device: str, limits: TimeLimits) -> list[Timing]:
    """The timings of models, one after the other: each holds a model's weights, so no sweep asks for several."""
    return [_timed(one.call, one.workload, device, limits) for one in several]


def _timed(call: Any, workload: Any, device: str, limits: TimeLimits) -> Timing:
    """Prompts until the median is sure, each another one; or so many steps, one behind the other.

    Beside the samples where one more call, launched piece by piece, spends its time, and the most memory until then.
    """
    if not isinstance(call, ModelCall):
        raise Unsupported("a contender of model builds a ModelCall: skiplab.contenders.model says what it holds")
    begun = begin_peak(device)
    take = _prompts if workload.phase == "prefill" else _steps
    (samples, converged), clocked, flags = cooled(lambda: take(call, device, limits), device, limits.retries)
    peak = peak_bytes(device) if begun else None
    doubts = {
        "unconverged": not converged, "bimodal": is_bimodal(samples),
        "l2-resident": workload.by_kind and _least_layer(workload) < ROTATION * last_cache_bytes(device),
    }  # fmt: skip
    (ids,) = workload.checked.inputs(device, 0)
    graph = call.runner.is_graph(workload.phase, workload.q_len)
    method = "cpu" if not is_cuda(device) else "graph" if graph else "eager"
    return Timing(
        samples, method, (*flags, *(name for name, doubted in doubts.items() if doubted)), clocks=clocked,
        repeats=(Repeat(method, (ids,), partial(call, ids)),), parts_ns=_parts(call, device, samples), peak_bytes=peak,
    )  # fmt: skip


def _prompts(call: ModelCall, device: str, limits: TimeLimits) -> Samples:
    fresh = _ids(call.workload, device)

    def took(runner: Runner) -> float:
        return _clocked(partial(runner.prefill, next(fresh)), device)

    for _, runner in call.timed:
        for _ in range(WARM_PROMPTS if runner.is_graph("prefill", call.workload.q_len) else 1):
            runner.prefill(next(fresh))
    taken_off = [factor * _median(took(runner) for _ in range(OFTEN)) for factor, runner in call.timed if factor < 0]

    def sample() -> int:
        return _sum([*taken_off, *(factor * took(runner) for factor, runner in call.timed if factor > 0)])

    return collect(Way(sample), limits.budget_s, limits.cancelled)


def _steps(call: ModelCall, device: str, limits: TimeLimits) -> Samples:
    each = [(factor, _each_step(call, runner, device, limits)) for factor, runner in call.timed]
    taken_off = [factor * _median(took) for factor, took in each if factor < 0]
    layers = zip(*([factor * one for one in took] for factor, took in each if factor > 0), strict=False)
    samples = tuple(_sum([*taken_off, *one]) for one in layers)
    return Samples(samples, median_error(samples) < TARGET_ERROR)


def _each_step(call: ModelCall, runner: Runner, device: str, limits: TimeLimits) -> list[float]:
    """Nanoseconds of each step behind the depth; on a GPU none waits for another to be done."""
    workload, fresh = call.workload, _ids(call.workload, device)
    assert workload.steps is not None
    runner.begin(workload.depth, (WARM_STEPS + workload.steps) * workload.q_len)
    for _ in range(WARM_STEPS):
        runner.step(next(fresh))
    mark, between = _marks(device)
    marks, end = [mark()], time.perf_counter() + limits.budget_s
    for _ in range(workload.steps):
        if limits.cancelled() or (len(marks) > 1 and time.perf_counter() > end):
            break
        runner.step(next(fresh))
        marks.append(mark())
    return between(marks)


def _marks(device: str) -> tuple[Callable[[], Any], Callable[[list[Any]], list[float]]]:
    """A mark in time on the device, and nanoseconds from each of some to the next."""
    if not is_cuda(device):
        return time.perf_counter_ns, lambda marks: [b - a for a, b in pairwise(marks)]

    def mark() -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(marks: list[Any]) -> list[float]:
        marks[-1].synchronize()
        return [a.elapsed_time(b) * 1e6 for a, b in pairwise(marks)]

    torch.cuda.synchronize(device)
    return mark, between


def _clocked(run: Callable[[], Any], device: str) -> float:
    """Nanoseconds of a call, the host's share included."""
    mark, between = _marks(device)
    start = mark()
    run()
    return between([start, mark()])[0]


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def _sum(parts: Iterable[float]) -> int:
    """A whole model's nanoseconds from its pieces'; what is taken off many times is a median, so is its noise small."""
    total = round(sum(parts))
    if total < 1:
        raise RuntimeError("a layer's time is lost in noise: its model took no longer than one without a layer")
    return total


def _ids(workload: ModelWorkload, device: str) -> Iterator[torch.Tensor]:
    """Fresh ids of a call, [1, q_len], without end: nobody has seen them."""
    call = replace(workload, phase="prefill", depth=0, steps=None)
    while True:
        yield call.inputs(device, int(np.random.randint(2**31)))[0]


def _parts(call: ModelCall, device: str, samples: Sequence[int]) -> dict[str, int]:
    """Nanoseconds by name of one call of the whole model; {} for a runner that has no names."""
    if not call.runner.named:
        return {}
    total = defaultdict[str, float](float)
    for factor, runner in call.timed:
        for name, took in profiled(_one_call(call.workload, runner, device), NAMES, device).items():
            total[name] += factor * took * 1e3
    if is_cuda(device):
        total[GAPS] = float(np.median(samples)) - sum(total.values())
    return {name: max(round(took), 0) for name, took in total.items()}


def _one_call(workload: ModelWorkload, runner: Runner, device: str) -> Callable[[], Any]:
    ids = next(_ids(workload, device))
    if workload.phase == "prefill":
        return partial(runner.prefill, ids, graph=False)
    runner.begin(workload.depth, 2 * workload.q_len)
    runner.step(ids, graph=False)
    return partial(runner.step, ids, graph=False)


def _least_layer(workload: ModelWorkload) -> float:
    """Bytes of the packed weights of the smallest layer."""
    spec, bits = workload.whole_spec, bits_per_weight(workload.bits, workload.group_size, False)
    return min(sum(n * k for n, k in products(spec, layer).values()) for layer in spec.kinds) * bits / 8
