"""Records what a kernel's programs do with a mask, without a GPU and in any notebook."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable

import blockskip as bs

from skiplab.contenders import contender
from skiplab.contenders.source import source_of, why_no_source
from skiplab.measure.fresh import run_fresh
from skiplab.replay.steps import Replay, replay_of
from skiplab.sweep import mask_text

MOST_TILES = 1024
"""The interpreter runs tile by tile in Python: so many take half a minute."""
OURS = "blockskip"


def replay(
    mask: bs.Mask | str = "causal()",
    q_len: int = 256,
    kv_len: int | None = None,
    *,
    block_m: int = 64,
    block_n: int = 64,
    kernel: str = OURS,
    skip: str = "auto",
    watch: tuple[str, str] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Replay:
    """Run an attention kernel over one head in Triton's interpreter, in a child process, and return what it did.

    mask: by text, or a Mask that has a text. block_m, block_n: the tiles of our kernel, and of the map; where `kernel`
    is your own (a contender with a source), say those that it has. skip: how ours skips. watch: the names of the
    variables in which your kernel keeps a row's maximum and sum; m_i and l_i, row_max and row_sum are found without.

    ValueError for a mask without a text, too many tiles, or a kernel without a source; RuntimeError(what, advice) where
    the kernel fails; Cancelled when cancelled.
    """
    if importlib.util.find_spec("triton") is None:
        raise ValueError("replay: needs Triton, which is not installed (it exists for Linux alone)")
    text = mask_text(mask)
    tilemap = bs.TileMap.build(bs.Mask.from_spec(text), q_len, kv_len or q_len, block_m, block_n)
    tiles = tilemap.rows * tilemap.cols if skip == "none" or kernel != OURS else tilemap.visited
    if tiles > MOST_TILES:
        raise ValueError(
            f"q_len: got {q_len:,}, where {tiles:,} tiles may be visited; the interpreter takes {MOST_TILES:,}: "
            "shorten it, or choose larger tiles"
        )
    request = {
        "mask": text, "q_len": q_len, "kv_len": kv_len or q_len, "block_m": block_m, "block_n": block_n, "skip": skip,
        "name": kernel, "source": None if kernel == OURS else _source(kernel), "watch": watch,
    }  # fmt: skip
    return replay_of(run_fresh("skiplab.replay.recorder", request, cancelled), tilemap)


def _source(name: str) -> str:
    entry = contender(name)
    source = source_of(entry)
    if source is None:
        what = why_no_source(entry) if entry.user else f"{name} is the lab's own, of which {OURS} alone can be replayed"
        raise ValueError(f"kernel: {what}")
    return source.text
