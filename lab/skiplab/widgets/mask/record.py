"""Records which tiles the Triton kernel visited, to be laid over the planned tile map."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass

import blockskip as bs
import numpy as np
import torch

from skiplab.machine import device_name
from skiplab.widgets.mask.settings import MaskSettings

INTERPRETED_PAIRS = 1 << 20
"""The interpreter runs tile by tile in Python: 1,024 x 1,024 pairs of one small head take a few seconds."""


@dataclass(frozen=True)
class Record:
    """visits uint8 [rows, cols] of one head (0 left out, 1 masked, 2 unmasked), on the tiles of the launch itself."""

    tilemap: bs.TileMap
    visits: np.ndarray
    device: str

    @property
    def description(self) -> str:
        masked, unmasked = int((self.visits == 1).sum()), int((self.visits == 2).sum())
        tiles = f"tiles of {self.tilemap.block_m} × {self.tilemap.block_n}"
        visited = f"{masked + unmasked:,} of {self.visits.size:,} {tiles} visited"
        return f"{visited}, {masked:,} with the mask and {unmasked:,} without"


def interpreted() -> bool:
    """Whether Triton runs in its interpreter: slow, and of use only to see what the kernel does."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def why_not() -> str | None:
    """None if a kernel can be recorded, else the reason and what to do."""
    if importlib.util.find_spec("triton") is None:
        return "Recording needs Triton, which is not installed (it exists for Linux alone)."
    if torch.cuda.is_available() or interpreted():
        return None
    return (
        "Recording runs the Triton kernel, and this machine has no CUDA GPU. To run it in Triton's interpreter (slow, "
        "small problems), restart the kernel with the environment variable TRITON_INTERPRET=1."
    )


def record(settings: MaskSettings) -> Record:
    """Run the kernel on this mask and problem with `record=True`. RuntimeError(what, advice) where it is too large."""
    workload = settings.workload
    if interpreted():
        if workload.q_len * workload.keys > INTERPRETED_PAIRS:
            raise RuntimeError(
                "This problem is too large for Triton's interpreter.",
                "Shorten the prompt to 1,024 tokens or less, or run on a CUDA GPU, where any length goes.",
            )
        shape, device, dtype, config = (1, 1, 1, 16), "cpu", torch.float32, _config(settings)
    else:
        shape = (workload.batch, workload.q_heads, workload.kv_heads, workload.head_dim)
        device, dtype, config = "cuda", workload.torch_dtype, None
    batch, q_heads, kv_heads, head_dim = shape
    q = torch.randn(batch, q_heads, workload.q_len, head_dim, device=device, dtype=dtype)
    k, v = (torch.randn(batch, kv_heads, workload.keys, head_dim, device=device, dtype=dtype) for _ in range(2))
    given = {"impl": "triton", "config": config, "record": True}
    plan = bs.explain(q, k, v, workload.mask, **given)
    _, visits = bs.attention(q, k, v, workload.mask, **given)
    assert plan.tilemap is not None
    where = "Triton's interpreter (what it does, not how fast)" if interpreted() else device_name(device)
    return Record(plan.tilemap, strangest(plan.tilemap, visits.flatten(0, 1).cpu().numpy()), where)


def strangest(tilemap: bs.TileMap, visits: np.ndarray) -> np.ndarray:
    """Of visits uint8 [programs, rows, cols] the program that differs most from the plan; the first if none does."""
    state = np.asarray(tilemap.state)
    wrong = ((visits != 0) != (state != 0)) | ((visits == 2) & (state == 1))
    return visits[int(wrong.sum(axis=(1, 2)).argmax())]


def _config(settings: MaskSettings) -> tuple[int, int, int, int] | None:
    """The explorer's tiles as a kernel configuration, if the kernel supports them: powers of two from 16."""
    tiles = (settings.block_m, settings.block_n)
    return (*tiles, 4, 2) if all(size >= 16 and size & (size - 1) == 0 for size in tiles) else None
