"""The state of a split explorer: one frozen value, from which workload, schedules, picture and code follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from blockskip.arguments import choice, integer

from skiplab.machine import Machine, known_gpus
from skiplab.occupancy import SPLIT_POLICIES, Schedule, schedule, schedules
from skiplab.workload import DTYPES, MODELS, DecodeWorkload

LIMITS = {"kv_len": 131_072, "buffer": 1 << 20, "window": 131_072, "q_len": 16, "batch": 8}
"""The most of each; the least is 1."""


@dataclass(frozen=True)
class SplitSettings:
    """A split explorer's state.

    kv_len: keys in the cache.  buffer: its slots, None for as many as keys.  window: keys that a query sees, None for
    all.  q_len: queries, the last positions.  model: a head shape of `skiplab.workload.MODELS`.  gpu: one of
    `known_gpus()`.  policy: one of `occupancy.SPLIT_POLICIES`.  program: the one that is outlined.  ValueError names
    the setting, what was given and what is allowed.
    """

    kv_len: int = 2048
    buffer: int | None = 131_072
    window: int | None = None
    q_len: int = 1
    batch: int = 1
    model: str = "gemma4-31b sliding"
    dtype: str = "bfloat16"
    gpu: str = "NVIDIA H200"
    policy: str = "blockskip"
    program: int = 0

    def __post_init__(self) -> None:
        choices: Mapping[str, Iterable[str]] = {
            "model": MODELS, "dtype": DTYPES, "gpu": known_gpus(), "policy": SPLIT_POLICIES,
        }  # fmt: skip
        for name, allowed in choices.items():
            choice(name, getattr(self, name), tuple(allowed))
        for name, most in LIMITS.items():
            value = getattr(self, name)
            if value is None and name in ("buffer", "window"):
                continue
            integer(name, value, 1, most)
        if self.slots < self.kv_len:
            raise ValueError(f"buffer: got {self.buffer}; allowed is at least kv_len, {self.kv_len:,}")
        integer("program", self.program, 0, self.schedule.programs - 1)

    @property
    def slots(self) -> int:
        """The buffer's, never None."""
        return self.kv_len if self.buffer is None else self.buffer

    @property
    def workload(self) -> DecodeWorkload:
        shape = MODELS[self.model]
        return DecodeWorkload(
            kv_len=self.kv_len, window=self.window, q_len=self.q_len, batch=self.batch, q_heads=shape.q_heads,
            kv_heads=shape.kv_heads, head_dim=shape.head_dim, dtype=self.dtype, buffer=self.slots,
        )  # fmt: skip

    @property
    def machine(self) -> Machine:
        return known_gpus()[self.gpu]

    @property
    def schedule(self) -> Schedule:
        """The schedule under the chosen policy."""
        return schedule(self.workload, self.machine, self.policy)

    @property
    def schedules(self) -> Mapping[str, Schedule]:
        """The schedule under every policy."""
        return schedules(self.workload, self.machine)

    def code(self) -> str:
        """Python that makes the same workload, schedules and explorer."""
        shape = MODELS[self.model]
        sizes = [f"kv_len={self.kv_len}", f"window={self.window}", f"q_len={self.q_len}", f"batch={self.batch}",
                 f"q_heads={shape.q_heads}", f"kv_heads={shape.kv_heads}", f"head_dim={shape.head_dim}",
                 f"dtype={self.dtype!r}", f"buffer={self.slots}"]  # fmt: skip
        given = ", ".join(f"{name}={value!r}" for name, value in self.given().items())
        return "\n".join(
            [
                "from skiplab import DecodeWorkload, SplitExplorer",
                "from skiplab.machine import known_gpus",
                "from skiplab.occupancy import comparison, schedules",
                "",
                f"workload = DecodeWorkload({', '.join(sizes)})",
                f"print(comparison(schedules(workload, known_gpus()[{self.gpu!r}])))  # predicted",
                f"explorer = SplitExplorer({given})",
                "explorer",
            ]
        )

    def given(self) -> Mapping[str, Any]:
        """The settings that differ from the defaults, and the lengths."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        always = {"kv_len", "buffer"}
        return {name: value for name, (value, default) in values.items() if name in always or value != default}
