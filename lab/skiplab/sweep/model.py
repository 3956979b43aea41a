"""The sweep of a whole model."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

from skiplab.contenders.ladder import same_as
from skiplab.measure import Point
from skiplab.store import Run
from skiplab.sweep.grid import AnySweep
from skiplab.sweep.running import own_device, run_sweep
from skiplab.workload import ModelWorkload
from skiplab.workload.model import named_or_read

NOTHING = "none"
"""In the place of a list that is empty, on the command line."""


@dataclass(frozen=True)
class ModelSweep(AnySweep):
    """A model: every prompt length, and every depth x tokens a step (`rows`), with every contender.

    prompt, depth: one of them may be empty; steps alone are measured then, or prompts alone.
    new: steps that are timed at each depth. config: the text of a config.json, of a model that is not known by name.
    The rest: see `ModelWorkload`. TypeError or ValueError names the field, what was given and what is allowed.
    """

    contenders: tuple[str, ...] = ("blockskip", "sdpa", "tinygemm", "transformers")
    model: str = "laptop"
    prompt: tuple[int, ...] = (256, 512, 1024, 2048)
    depth: tuple[int, ...] = (0, 2048)
    rows: tuple[int, ...] = (1,)
    new: int = 16
    bits: int = 4
    group_size: int = 32
    by_kind: bool = False
    dtype: str = "bfloat16"
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 2.0
    config: str | None = None
    operation: ClassVar[str] = "model"
    verb: ClassVar[str] = "model"
    may_be_empty: ClassVar[tuple[str, ...]] = ("prompt", "depth")

    def __post_init__(self) -> None:
        if not self.prompt and not self.depth:
            raise ValueError("prompt, depth: got nothing on both; at least one of them is needed")
        super().__post_init__()

    def workloads(self) -> list[ModelWorkload]:
        shared = {name: getattr(self, name) for name in ("model", "bits", "group_size", "dtype", "by_kind", "config")}
        prompts = [ModelWorkload("prefill", length, **shared) for length in self.prompt]
        steps = product(self.depth, self.rows)
        return [*prompts, *(ModelWorkload("decode", rows, depth, steps=self.new, **shared) for depth, rows in steps)]

    def points(self) -> list[Point]:
        """One contender after the other: each keeps its model for all of its points.

        A rung of the ladder that does nothing else than one below it, in steps or in prompts, is not measured again.
        """
        return [
            Point(workload, name, device=self.device)
            for name, workload in product(self.contenders, self.workloads())
            if (same := same_as(name, workload.phase)) == name or same not in self.contenders
        ]

    def command(self) -> str:
        """The command line that runs this sweep; of a model from a file it names a config.json to be put there."""
        words = super().command().replace(f" --model {shlex.quote(self.model)}", "")
        words += "".join(f" --{name} {NOTHING}" for name in self.may_be_empty if not getattr(self, name))
        if self.config is None:
            return words.replace("skiplab model", f"skiplab model {shlex.quote(self.model)}", 1)
        return words.replace(f" --config {shlex.quote(self.config)}", "").replace(
            "skiplab model", "skiplab model config.json", 1
        )


def sweep_model(
    contenders: Sequence[str] = ModelSweep.contenders,
    *,
    model: str = ModelSweep.model,
    prompt: Iterable[int] = ModelSweep.prompt,
    depth: Iterable[int] = ModelSweep.depth,
    rows: Iterable[int] = ModelSweep.rows,
    device: str | None = None,
    devices: Sequence[str] = (),
    cluster: str | None = None,
    gpu: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    **fields: Any,
) -> Run:
    """As `sweep`, of a whole model over prompt lengths, and over depths and tokens a step.

    model: a name of `skiplab.model.model_names()`, or a config.json. fields: the other fields of `ModelSweep`.
    """
    name, config = named_or_read(model)
    wanted = ModelSweep(
        tuple(contenders), name, tuple(prompt), tuple(depth), tuple(rows), config=config,
        device=own_device(device, devices, cluster), **fields,
    )  # fmt: skip
    return run_sweep(
        wanted, path, isolate=isolate, progress=progress, anew=True, devices=devices, cluster=cluster, gpu=gpu
    )


SWEEP = ModelSweep
