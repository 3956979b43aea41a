"""Rotary position embeddings: the frequencies of a head's dimensions, and the rotation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from blockskip.arguments import choice, flag, integer, number
from blockskip.pointwise.call import Rotation

NEEDED = {
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "positions"),
    "yarn": ("factor", "positions"),
    "proportional": (),
}
"""What a config has to say of each kind, besides theta."""
POSSIBLE = {
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("beta_fast", "beta_slow", "truncate", "attention_factor"),
    "proportional": ("rotary", "factor"),
}
"""What it may say of some, too."""
NAMES = {"rope_theta": "theta", "partial_rotary_factor": "rotary", "original_max_position_embeddings": "positions"}
"""Names in a config.json, and ours where they differ."""


@dataclass(frozen=True)
class Rope:
    """The frequencies of one kind of layer. Dimension i of a head of D turns with dimension i + D / 2.

    | kind | frequency i of theta ** (-2 i / D) |
    | --- | --- |
    | default | as it is |
    | linear | divided by factor |
    | llama3 | divided by factor where its wave is longer than positions / low_freq_factor, as it is where it is shorter
      than positions / high_freq_factor, interpolated between |
    | yarn | divided by factor where it turns less than beta_slow times in `positions`, as it is where more than
      beta_fast times, interpolated between; cosine and sine are scaled by attention_factor |
    | proportional | the first `rotary` share of them divided by factor, the others 0: those dimensions do not turn |
    """

    theta: float
    kind: str = "default"
    rotary: float = 1.0
    factor: float = 1.0
    positions: int = 0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float | None = None

    @classmethod
    def from_config(cls, given: dict[str, Any], key: str) -> Rope:
        """The Rope of a config's parameters, found under `key`. Raises ValueError for what is not supported."""
        kind = choice(f"{key}.rope_type", given.get("rope_type", given.get("type", "default")), tuple(NEEDED))
        known = ("theta", *NEEDED[kind], *POSSIBLE.get(kind, ()))
        values: dict[str, Any] = {}
        for name, value in given.items():
            ours = NAMES.get(name, name)
            if name in ("rope_type", "type") or value is None or (ours == "rotary" and value == 1):
                continue
            if ours not in known:
                raise ValueError(f"{key}.{name}: given {value!r}; it is not supported with rope_type {kind!r}")
            values[ours] = _checked(f"{key}.{name}", ours, value)
        for ours in NEEDED[kind]:
            if ours not in values:
                raise ValueError(f"{key}: rope_type {kind!r} needs {ours}, which is missing")
        return cls(kind=kind, **values)

    def frequencies(self, head_dim: int, device: torch.device) -> torch.Tensor:
        """Float32 [head_dim / 2], in radians a position."""
        i = torch.arange(0, head_dim, 2, dtype=torch.int64, device=device).float()
        plain = 1.0 / self.theta ** (i / head_dim)
        if self.kind == "proportional":
            plain[int(self.rotary * head_dim // 2) :] = 0
        if self.kind in ("linear", "proportional"):
            return plain / self.factor
        if self.kind == "llama3":
            waves = self.positions * plain / (2 * math.pi)  # in `positions`
            share = (waves - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
            return torch.lerp(plain / self.factor, plain, share.clamp(0, 1))
        if self.kind == "yarn":
            return torch.lerp(plain, plain / self.factor, self._yarn_ramp(head_dim, device))
        return plain

    def _yarn_ramp(self, head_dim: int, device: torch.device) -> torch.Tensor:
        """Float32 [head_dim / 2]: 0 for frequencies that stay, 1 for those divided, a ramp between."""

        def dimension(rotations: float) -> float:
            """The dimension that makes so many rotations within `positions`."""
            return head_dim * math.log(self.positions / (rotations * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = dimension(self.beta_fast), dimension(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        i = torch.arange(head_dim // 2, dtype=torch.float32, device=device)
        return ((i - low) / max(high - low, 0.001)).clamp(0, 1)

    @property
    def scale(self) -> float:
        """The factor of cosine and sine: yarn's attention factor, else 1."""
        if self.kind != "yarn":
            return 1.0
        return self.attention_factor or 0.1 * math.log(max(self.factor, 1.0)) + 1.0

    def rotation(self, positions: torch.Tensor, frequencies: torch.Tensor) -> Rotation:
        """The rotation of int64 positions [batch or 1, tokens], by `frequencies`."""
        angles = positions[..., None, None].float() * frequencies
        cos, sin = angles.cos(), angles.sin()
        return Rotation(cos, sin) if self.scale == 1 else Rotation(cos * self.scale, sin * self.scale)


def _checked(key: str, name: str, value: Any) -> Any:
    if name == "positions":
        return integer(key, value, least=1)
    if name == "truncate":
        return flag(key, value)
    checked = number(key, value)
    if checked <= 0:
        raise ValueError(f"{key}: given {checked}; must be above 0")
    return checked
