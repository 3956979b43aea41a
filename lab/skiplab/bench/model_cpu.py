"""Time a whole model on this CPU, ours beside transformers and beside our decoder with float weights, in turn.

Prompts are read whole; steps of a token stand behind a cache of as many tokens.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from skiplab.bench.record import (
    FOLDER,
    Listed,
    add_clock_options,
    interleaved,
    least_and_median,
    machine,
    options,
    paired_ratio,
    set_clock,
    table,
    write,
)
from skiplab.contenders import huggingface
from skiplab.contenders.model import DecoderRunner, Runner, floats, ours
from skiplab.model import Decoder
from skiplab.workload import ModelWorkload

OURS, OTHERS = "blockskip", ("blockskip, float weights", "SDPA, float weights", "transformers, SDPA")


def runners(workload: ModelWorkload) -> dict[str, Runner]:
    """Models of the same random weights, by name; ours has them in int4."""
    held = floats(workload, "cpu")
    models = ours(workload, "cpu"), Decoder(workload.spec, held.weights), held
    found: dict[str, Runner] = dict(zip((OURS, *OTHERS), map(DecoderRunner, models), strict=False))
    return found | {OTHERS[-1]: huggingface.HuggingFace(huggingface.SDPA(workload, "cpu"))}


def measure(calls: dict[str, Callable], repeats: int, clock: Callable[[], int], **point) -> dict:
    return point | {"samples_ns": interleaved(calls, repeats, clock)}


def row(point: dict) -> list[str]:
    samples = point["samples_ns"]
    cells = [point["phase"], point["tokens"]]
    for name in (OURS, *OTHERS):
        cells.append(least_and_median(samples[name]))
    for name in OTHERS:
        ratio = min(samples[name]) / min(samples[OURS])
        cells.append(f"{ratio:.2f} / {paired_ratio(samples[name], samples[OURS]):.2f}")
    return cells


def main(arguments: Sequence[str]) -> None:
    parser = options("model_cpu", __doc__)
    parser.add_argument("--model", default="laptop")
    parser.add_argument("--tokens", type=int, action=Listed, default=[512, 2048])
    parser.add_argument("--prompts", type=int, default=10, help="how often each prompt is read")
    parser.add_argument("--steps", type=int, default=60, help="how many tokens behind each cache")
    add_clock_options(parser)
    parser.add_argument("--out", type=Path, default=FOLDER)
    chosen = parser.parse_args(arguments)
    clock, clock_name, ending = set_clock(chosen)
    where = machine() | {name: importlib.metadata.version(name) for name in ("numba", "transformers")}
    workload = ModelWorkload(model=chosen.model, phase="prefill", q_len=1)
    models, points = runners(workload), []
    for tokens in chosen.tokens:
        generator, words = torch.Generator().manual_seed(0), workload.spec.vocabulary
        ids = torch.randint(words, (1, tokens), generator=generator, dtype=torch.int64, device="cpu")
        calls = {name: partial(model.prefill, ids) for name, model in models.items()}
        points.append(measure(calls, chosen.prompts, clock, phase="prompt", tokens=tokens))
        for model in models.values():
            model.begin(tokens, chosen.steps + 1)
        calls = {name: partial(model.step, ids[:, :1]) for name, model in models.items()}
        points.append(measure(calls, chosen.steps, clock, phase="step", tokens=tokens))
    head = ["phase", "tokens", *(f"{name} ms" for name in (OURS, *OTHERS)), *(f"over {name}" for name in OTHERS)]
    notes = [
        f"The model {chosen.model}, {workload.dtype}, random weights; ours in int4 with groups of "
        f"{workload.group_size}. numba {where['numba']}, transformers {where['transformers']}. Each call timed in turn "
        f"with the others, prompts {chosen.prompts} times, steps {chosen.steps} times, by {clock_name}: least / "
        "median ms; where the median is far off, the machine was busy with other work.",
        "over: their least time over ours / median of the ratios within one repeat.",
    ]
    data = {"machine": where, "model": chosen.model, "dtype": workload.dtype, "points": points}
    write(
        f"model_cpu{ending}",
        "A whole model on a CPU",
        notes,
        [table(head, [row(one) for one in points])],
        data,
        chosen.out,
    )
