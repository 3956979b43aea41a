"""The state of an int4 explorer: one frozen value, from which sizes, loads, picture and code follow."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from blockskip.arguments import choice, integer

from skiplab.machine import known_gpus
from skiplab.packed_weight import LANES, METADATA, PROGRAMS, WEIGHTS, Codes, Packed, Program, codes_of, lane_blocks
from skiplab.workload import LINEARS

LAYOUTS = {"coalesced": "coalesced: row for row with the weights", "strided": "strided: [groups, rows]"}
LOADS = {"16-byte": "16 bytes a load", "4-byte": "4 bytes a load"}
OTHER = "another"


@dataclass(frozen=True)
class Int4Settings:
    """An int4 explorer's state.

    out_features, in_features: the weight's N and K.  bits: 4 or 8.  group_size: 32, 64 or 128.  metadata: bfloat16, or
    uint8 codes.  layout: coalesced or strided metadata.  activation_loads: 16-byte or 4-byte.  program: a name of
    `packed_weight.PROGRAMS`.  row, step, lane: what is shown.  weights: which random weights are quantised, one of
    `packed_weight.WEIGHTS`.  predict_for: a GPU of `known_gpus()`.  ValueError names the setting, what was given and
    what is allowed.
    """

    out_features: int = 21504
    in_features: int = 5376
    bits: int = 4
    group_size: int = 32
    symmetric: bool = False
    metadata: str = "bfloat16"
    layout: str = "coalesced"
    activation_loads: str = "16-byte"
    program: str = "one warp a row"
    row: int = 0
    step: int = 0
    lane: int = 5
    weights: str = "normal"
    predict_for: str = "NVIDIA H200"

    def __post_init__(self) -> None:
        choices: Mapping[str, Iterable[str]] = {
            "metadata": METADATA, "layout": LAYOUTS, "activation_loads": LOADS, "program": PROGRAMS, "weights": WEIGHTS,
            "predict_for": known_gpus(),
        }  # fmt: skip
        for name, allowed in choices.items():
            choice(name, getattr(self, name), tuple(allowed))
        limits = {"row": self.out_features - 1, "step": self.last_step, "lane": LANES - 1}
        for name, most in limits.items():
            integer(name, getattr(self, name), 0, most)

    @property
    def packed(self) -> Packed:
        return Packed(
            self.out_features, self.in_features, self.bits, self.group_size, self.symmetric, self.metadata,
            self.layout == "strided",
        )  # fmt: skip

    @property
    def kernel(self) -> Program:
        """The rows and blocks of weights that a program loads in a step."""
        return PROGRAMS[self.program]

    @property
    def scalar(self) -> bool:
        return self.activation_loads == "4-byte"

    @property
    def last_step(self) -> int:
        """The number of the loop's last step. Asks for the weight's sizes first."""
        return self.kernel.steps(self.packed.in_features) - 1

    @property
    def layer(self) -> str:
        """The name of this shape in `skiplab.workload.LINEARS`, or OTHER."""
        shapes = {shape: name for name, shape in LINEARS.items()}
        return shapes.get((self.out_features, self.in_features), OTHER)

    @property
    def codes(self) -> Codes | None:
        """The codes of the lane's block; None if it is past the row's end."""
        lane_block = lane_blocks(self.packed, self.kernel, self.row, self.step)[self.lane]
        return None if lane_block is None else codes_of(self.packed, *lane_block, self.weights)

    def code(self) -> str:
        """Python that quantises such a weight and makes the same explorer."""
        given = ", ".join(f"{name}={value!r}" for name, value in self.given().items())
        metadata = "" if self.metadata == "bfloat16" else f", metadata={self.metadata!r}"
        return "\n".join(
            [
                "import blockskip as bs",
                "import torch",
                "from skiplab import Int4Explorer",
                "",
                f"weight = torch.randn({self.out_features}, {self.in_features}) * 0.02",
                f"w = bs.quantize(weight, bits={self.bits}, group_size={self.group_size}, "
                f"symmetric={self.symmetric}{metadata})",
                'print(w, f"{w.error(weight):.1f} dB")',
                f"explorer = Int4Explorer({given})",
                "explorer",
            ]
        )

    def given(self) -> Mapping[str, Any]:
        """The settings that differ from the defaults, and the shape and format."""
        always = {"out_features", "in_features", "bits", "group_size"}
        values = {field.name: (getattr(self, field.name), field.default) for field in fields(self)}
        return {name: value for name, (value, default) in values.items() if name in always or value != default}
