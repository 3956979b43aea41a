"""The state of a model explorer: one frozen value, from which calls, times, memory and code follow."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

from blockskip.arguments import choice, integer, number
from blockskip.attention.decode.plan import LONGEST_QUERY

from skiplab.machine import Machine
from skiplab.model import ModelSpec, model_names
from skiplab.throughput import CallTime, Memory, call_time, machines, memory
from skiplab.workload import ModelWorkload
from skiplab.workload.model import spec_of

LONGEST, MOST_DRAFTS = 131_072, LONGEST_QUERY - 1
"""The most tokens of a prompt and keys of a window, and the most draft tokens that a step verifies."""
WEIGHTS = {"int4": "int4, groups of 32", "int8": "int8, groups of 32", "bfloat16": "bfloat16, not quantised"}


@dataclass(frozen=True)
class ModelSettings:
    """A model explorer's state.

    model: a name in `data/models`.  prompt: its tokens; the step stands behind them.  window: of the sliding layers,
    None for the model's own.  drafts: draft tokens that a step verifies, 0 to 15.  acceptance: the probability that a
    draft token is right, 0 to 1.  weights: int4, int8 or bfloat16.  machine: one of `throughput.machines()`.  TypeError
    or ValueError names the setting, what was given and what is allowed.
    """

    model: str = "gemma4-31b"
    prompt: int = 2048
    window: int | None = None
    drafts: int = 0
    acceptance: float = 0.7
    weights: str = "int4"
    machine: str = "NVIDIA H200 (recorded)"

    def __post_init__(self) -> None:
        allowed = {"model": model_names(), "weights": WEIGHTS, "machine": machines()}
        for name, words in allowed.items():
            choice(name, getattr(self, name), tuple(words))
        integer("prompt", self.prompt, 1, LONGEST)
        integer("drafts", self.drafts, 0, MOST_DRAFTS)
        if not 0 <= number("acceptance", self.acceptance) <= 1:
            raise ValueError(f"acceptance: got {self.acceptance}; allowed is from 0 to 1")
        if self.window is not None:
            integer("window", self.window, 1, LONGEST)
            if self.own_window is None:
                raise ValueError(f"window: got {self.window}; {self.model} has no layer with a window: allowed is None")

    @property
    def spec(self) -> ModelSpec:
        """The model with its own window."""
        return spec_of(self.model, None)

    @property
    def own_window(self) -> int | None:
        """The window of the model's sliding layers; None where it has none."""
        return next((layer.window for layer in self.spec.layers if layer.window is not None), None)

    @property
    def window_used(self) -> int | None:
        return self.window or self.own_window

    @property
    def is_own(self) -> bool:
        """Whether the model is as it was made, with its own window."""
        return self.window_used == self.own_window

    @property
    def percent(self) -> int:
        """The acceptance in whole percent, as its control has it."""
        return round(100 * self.acceptance)

    @property
    def quantised(self) -> bool:
        return self.weights != "bfloat16"

    @property
    def bits(self) -> int:
        """Of a quantised weight."""
        return 8 if self.weights == "int8" else 4

    @property
    def on(self) -> Machine:
        """The machine that times are predicted for."""
        return machines()[self.machine]

    @property
    def reads(self) -> ModelWorkload:
        """The prompt."""
        return self._call("prefill", self.prompt)

    @property
    def writes(self) -> ModelWorkload:
        """A step behind the prompt: one token, and the drafts."""
        return self._call("decode", 1 + self.drafts, self.prompt)

    def _call(self, phase: str, tokens: int, depth: int = 0) -> ModelWorkload:
        call = ModelWorkload(phase, tokens, depth, self.model, self.bits)
        return call if self.is_own else call.with_window(self.window_used or 0)

    @cached_property
    def prefill(self) -> CallTime:
        return call_time(self.reads, self.on, self.quantised)

    @cached_property
    def step(self) -> CallTime:
        return call_time(self.writes, self.on, self.quantised, self.acceptance)

    @cached_property
    def memory(self) -> Memory:
        return memory(self.writes, self.prompt + 1 + self.drafts, self.quantised)

    def windows(self) -> list[Self]:
        """The same with shorter and longer windows, this one and the model's own among them; the last sees all keys."""
        if self.own_window is None or self.window_used is None:
            return []
        kept = {self.own_window, self.window_used}
        others = {max(self.own_window * 2**n // 4, 1) for n in range(8)}
        shown = sorted(kept | {window for window in others if window < self.prompt})
        return [replace(self, window=window) for window in shown + [self.keys] * (shown[-1] < self.keys)]

    @property
    def keys(self) -> int:
        """The keys that the step's last token would see without a window."""
        return min(self.prompt + 1 + self.drafts, LONGEST)

    def code(self) -> str:
        """Python that makes the same calls, predictions and explorer."""
        window = "" if self.is_own else f".with_window({self.window})"
        model = f"model={self.model!r}, bits={self.bits}"
        how = "" if self.quantised else ", quantised=False"
        given = ", ".join(f"{name}={value!r}" for name, value in self.given().items())
        return "\n".join(
            [
                "from skiplab import ModelExplorer, ModelWorkload",
                "from skiplab.throughput import call_time, machines",
                "",
                f'prompt = ModelWorkload("prefill", {self.prompt}, {model}){window}',
                f'step = ModelWorkload("decode", {1 + self.drafts}, {self.prompt}, {model}){window}',
                f"on = machines()[{self.machine!r}]",
                f"print(call_time(prompt, on{how}).tokens_per_s)  # predicted",
                f"print(call_time(step, on{how}, acceptance={self.acceptance:g}).tokens_per_s)  # predicted",
                f"explorer = ModelExplorer({given})",
                "explorer",
            ]
        )

    def given(self) -> Mapping[str, Any]:
        """The settings that differ from the defaults, and model and prompt."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        always = {"model", "prompt"}
        return {name: value for name, (value, default) in values.items() if name in always or value != default}
