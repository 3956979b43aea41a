"""The state of a replay explorer: one frozen value, of which the recorded launch follows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from blockskip.arguments import choice, integer

from skiplab.contenders import contenders
from skiplab.replay import Replay, replay
from skiplab.sweep import mask_text

TILES = (16, 32, 64, 128)
OURS = "blockskip"
LONGEST = 4096


def kernels() -> tuple[str, ...]:
    """Ours, and the user's own attention kernels."""
    return (OURS, *(name for name, entry in contenders().items() if not entry.is_own))


@dataclass(frozen=True)
class ReplaySettings:
    """What is launched. mask: its text. watch: the variables of a user's kernel, as `skiplab.replay.replay` has them.

    ValueError names the setting, what was given and what is allowed.
    """

    mask: str = "sliding_window(96) | (sink(16) & causal())"
    q_len: int = 256
    block_m: int = 32
    block_n: int = 32
    kernel: str = OURS
    watch: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        mask_text(self.mask)
        integer("q_len", self.q_len, 1, LONGEST)
        choice("block_m", self.block_m, TILES)
        choice("block_n", self.block_n, TILES)
        choice("kernel", self.kernel, kernels())

    def record(self, cancelled: Callable[[], bool] = lambda: False) -> Replay:
        """Run it in the interpreter of a child process."""
        return replay(
            self.mask, self.q_len, block_m=self.block_m, block_n=self.block_n, kernel=self.kernel, watch=self.watch,
            cancelled=cancelled,
        )  # fmt: skip

    def code(self) -> str:
        """Python that makes the same recording and explorer."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.given().items())
        return f"from skiplab import ReplayExplorer\n\nexplorer = ReplayExplorer({given})\nexplorer"

    def given(self) -> dict[str, Any]:
        """The settings that differ from the defaults."""
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}
