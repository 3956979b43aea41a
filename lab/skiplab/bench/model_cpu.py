"""Time a whole model on this CPU, ours beside transformers and beside our decoder with float weights, in turn.

Prompts are read whole; steps of a token stand behind a cache of as many tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from skiplab.bench.cpu import OVER, CpuBenchmark, over
from skiplab.bench.record import Listed, least_and_median, options
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


def row(point: dict) -> list[str]:
    samples = point["samples_ns"]
    cells = [point["phase"], point["tokens"], *(least_and_median(samples[name]) for name in (OURS, *OTHERS))]
    return cells + over(samples, OURS, OTHERS)


def main(arguments: Sequence[str]) -> None:
    parser = options("model_cpu", __doc__)
    parser.add_argument("--model", default="laptop")
    parser.add_argument("--tokens", type=int, action=Listed, default=[512, 2048])
    parser.add_argument("--prompts", type=int, default=10, help="how often each prompt is read")
    parser.add_argument("--steps", type=int, default=60, help="how many tokens behind each cache")
    run = CpuBenchmark.begin(parser, arguments, "numba", "transformers")
    chosen = run.chosen
    workload = ModelWorkload(model=chosen.model, phase="prefill", q_len=1)
    models, points = runners(workload), []
    for tokens in chosen.tokens:
        generator, words = torch.Generator().manual_seed(0), workload.spec.vocabulary
        ids = torch.randint(words, (1, tokens), generator=generator, dtype=torch.int64, device="cpu")
        calls = {name: partial(model.prefill, ids) for name, model in models.items()}
        points += run.timed([({"phase": "prompt", "tokens": tokens}, calls)], chosen.prompts)
        for model in models.values():
            model.begin(tokens, chosen.steps + 1)
        calls = {name: partial(model.step, ids[:, :1]) for name, model in models.items()}
        points += run.timed([({"phase": "step", "tokens": tokens}, calls)], chosen.steps)
    head = ["phase", "tokens", *(f"{name} ms" for name in (OURS, *OTHERS)), *(f"over {name}" for name in OTHERS)]
    times = f"prompts {chosen.prompts} times, steps {chosen.steps} times"
    notes = [
        f"The model {chosen.model}, {workload.dtype}, random weights; ours in int4 with groups of "
        f"{workload.group_size}. numba {run.where['numba']}, transformers {run.where['transformers']}. "
        f"{run.in_turn(times)}",
        OVER,
    ]
    data = {"model": chosen.model, "dtype": workload.dtype, "points": points}
    run.write("model_cpu", "A whole model on a CPU", head, map(row, points), notes, data)
