"""Records which tiles the Triton kernel visited, to be laid over the planned tile map.

Without a GPU the kernel runs in Triton's interpreter, which has to be chosen before Triton is imported: in a child
process, `python -m skiplab.widgets.mask.record`, which reads settings as JSON and writes the record as JSON.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import blockskip as bs
import numpy as np
import torch

from skiplab.machine import device_name
from skiplab.measure.fresh import interpreting_here, run_fresh
from skiplab.widgets.mask.settings import MaskSettings

INTERPRETED_TILES = 1024
"""The interpreter runs tile by tile in Python: so many take half a minute."""


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


def why_not() -> str | None:
    """None if a kernel can be recorded, else the reason and what to do."""
    if importlib.util.find_spec("triton") is None:
        return "Recording needs Triton, which is not installed (it exists for Linux alone)."
    return None


def record(settings: MaskSettings, cancelled: Callable[[], bool] = lambda: False) -> Record:
    """Run the kernel on this mask and problem with `record=True`; without a GPU in the interpreter of a child process.

    RuntimeError(what, advice) where it is too large for that; Cancelled when cancelled.
    """
    if not torch.cuda.is_available() and settings.tilemap.visited > INTERPRETED_TILES:
        raise RuntimeError(
            f"{settings.tilemap.visited:,} tiles to visit are too many for Triton's interpreter, which this machine "
            f"without a GPU needs: {INTERPRETED_TILES:,} at most.",
            "Shorten the prompt or choose larger tiles, or run on a CUDA GPU, where any length goes.",
        )
    if torch.cuda.is_available() or interpreting_here():
        return _record_here(settings)
    return _record_in_child(settings, cancelled)


def _record_here(settings: MaskSettings) -> Record:
    workload = settings.workload
    if interpreting_here():
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
    where = "Triton's interpreter (what it does, not how fast)" if interpreting_here() else device_name(device)
    return Record(plan.tilemap, strangest(plan.tilemap, visits.flatten(0, 1).cpu().numpy()), where)


def _record_in_child(settings: MaskSettings, cancelled: Callable[[], bool]) -> Record:
    """The record that a child process makes with Triton's interpreter."""
    told = run_fresh(__name__, asdict(settings), cancelled)
    sizes = {name: told[name] for name in ("block_m", "block_n")}
    tilemap = bs.TileMap.build(settings.mask, settings.q_len, settings.keys, **sizes)
    visits = np.frombuffer(base64.b64decode(told["visits"]), np.uint8).reshape(tilemap.rows, tilemap.cols)
    return Record(tilemap, visits, told["device"])


def told(made: Record) -> dict[str, Any]:
    """A record as the child process tells it."""
    sizes = {"block_m": made.tilemap.block_m, "block_n": made.tilemap.block_n}
    return {**sizes, "visits": base64.b64encode(made.visits.tobytes()).decode(), "device": made.device}


def strangest(tilemap: bs.TileMap, visits: np.ndarray) -> np.ndarray:
    """Of visits uint8 [programs, rows, cols] the program that differs most from the plan; the first if none does."""
    state = np.asarray(tilemap.state)
    wrong = ((visits != 0) != (state != 0)) | ((visits == 2) & (state == 1))
    return visits[int(wrong.sum(axis=(1, 2)).argmax())]


def _config(settings: MaskSettings) -> tuple[int, int, int, int] | None:
    """The explorer's tiles as a kernel configuration, if the kernel supports them: powers of two from 16."""
    tiles = (settings.block_m, settings.block_n)
    return (*tiles, 4, 2) if all(size >= 16 and size & (size - 1) == 0 for size in tiles) else None


if __name__ == "__main__":
    print(json.dumps(told(_record_here(MaskSettings(**json.load(sys.stdin))))))
