"""A group's scale and minimum: floats, or 8-bit codes with a step for each 256 weights of a row."""

from __future__ import annotations

import torch

METADATA = torch.bfloat16
"""Scales keep float32's range; zero points are integers below 256 and so exact."""
STEP = torch.float16
"""A step's 11 significant bits times a code's 8 are exact in float32."""
SPAN = 256
"""Weights of a row that share a step, as in GGUF's K-quants."""
LARGEST_CODE = 255


def encode(values: torch.Tensor, group_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes uint8 [N, K / group_size] and steps float16 [N, K / 256] of values >= 0, float32: the next not smaller.

    A span's step is its largest value / 255, rounded up; so no value grows by more than a step. Raises ValueError for
    values beyond 255 of float16's largest.
    """
    spans = values.unflatten(1, (-1, SPAN // group_size))
    step = round_up(spans.amax(-1) / LARGEST_CODE, STEP)
    if not all_finite(step):
        raise ValueError(
            f"metadata: given 'uint8', whose steps end at {torch.finfo(STEP).max:g}; the weight needs larger ones: "
            "use 'bfloat16'"
        )
    codes = (spans / divisor(step).unsqueeze(-1)).ceil().clamp_(max=LARGEST_CODE)
    return codes.flatten(1).to(torch.uint8), step


def decode(values: torch.Tensor, step: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor:
    """[N, K / group_size] in `dtype`: codes times their span's step, or the values themselves where there is none."""
    if step is None:
        return values.to(dtype)
    spans = values.to(dtype).unflatten(1, (step.shape[1], -1))
    return spans.mul_(step.to(dtype).unsqueeze(-1)).flatten(1)


def all_finite(t: torch.Tensor) -> bool:
    """Whether all numbers are finite; on the meta device, where there are none, they are."""
    return t.is_meta or bool(t.isfinite().all())


def divisor(step: torch.Tensor) -> torch.Tensor:
    """The step in float32, 1 where it is 0: nothing but zeros."""
    return step.float().masked_fill(step == 0, 1)


def round_up(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Float32 >= 0 to the next float16 or bfloat16 that is not smaller; the bits of those count up with their value."""
    rounded = x.to(dtype)
    return (rounded.view(torch.int16) + (rounded.float() < x).to(torch.int16)).view(dtype)
