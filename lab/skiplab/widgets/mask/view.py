"""TileCanvas: the tile map in a notebook, drawn from row runs; pointer, click and arrow keys tell what a tile is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import blockskip as bs
import numpy as np
import traitlets

from skiplab.figures import tiles
from skiplab.widgets import controls
from skiplab.widgets.fallback import Pictured

MOST_RUNS = 150_000
"""Maps of more runs (1.8 MB) are sent as shares of pixels instead: what the canvas shows is the same."""


class TileCanvas(Pictured, anywidget.AnyWidget):
    """The picture of one tile map; `show(tilemap)` changes it, `lay_over(visits)` adds a kernel's record.

    Traits shared with the browser: `map` (sizes and runs, binary), `label` (its counts in captions), `focused` (row and
    column of the focused tile, -1 for none), `visits` (uint8 [rows, cols], what a kernel did: 0 left out, 1 masked,
    2 unmasked) and `differences` (int32 [n, 2], tiles where that is not what was planned).
    """

    _esm = controls.script("mask/draw.js", Path(__file__).with_name("view.js"))
    _css = Path(__file__).with_name("view.css")

    map = traitlets.Dict().tag(sync=True)
    label = traitlets.Unicode().tag(sync=True)
    focused = traitlets.List([-1, -1]).tag(sync=True)
    visits = traitlets.Bytes(b"").tag(sync=True)
    differences = traitlets.Bytes(b"").tag(sync=True)

    def __init__(self, tilemap: bs.TileMap, **kwargs: Any):
        super().__init__(**kwargs)
        self.on_msg(self._answer)
        self.show(tilemap)

    def show(self, tilemap: bs.TileMap) -> None:
        """Draw another map, and drop the record laid over the old one."""
        self.tilemap = tilemap
        row, col = self.focused
        with self.hold_sync():
            self.visits = self.differences = b""
            self.focused = [min(row, tilemap.rows - 1), min(col, tilemap.cols - 1)]
            self.map = payload(tilemap)
            self.label = tiles.summary(tilemap)

    def lay_over(self, visits: np.ndarray) -> int:
        """Lay over a kernel's record, uint8 [rows, cols]; return how many tiles differ from the plan."""
        wrong = differences(self.tilemap, visits)
        with self.hold_sync():
            self.visits = np.ascontiguousarray(visits, np.uint8).tobytes()
            self.differences = wrong.astype(np.int32).tobytes()
        return len(wrong)

    def open_tile(self, row: int, col: int) -> None:
        """Show one tile element by element beside the map."""
        content, bits = opened(self.tilemap, row, col)
        self.focused = [row, col]
        self.send({"kind": "tile", **content}, [bits])

    def _answer(self, _: Any, message: dict[str, Any], buffers: list[memoryview]) -> None:
        where = [int(message[name]) for name in ("row", "col", "end_row", "end_col")]
        if where[2] > self.tilemap.rows or where[3] > self.tilemap.cols:
            return  # asked about the map before this one
        if message["kind"] == "part":
            self._send_part(message, *where)
        elif message["kind"] == "about":
            self.send({"kind": "about", "id": message["id"], "text": tiles.describe(self.tilemap, *where) + "."})
        else:
            self.open_tile(*tiles.first_of_interest(self.tilemap, *where))

    def _send_part(self, message: dict[str, Any], row: int, col: int, end_row: int, end_col: int) -> None:
        """Send the runs of a part of the map, of which the browser has pixels alone; nothing if they are too many."""
        start, runs = part(self.tilemap, row, col, end_row, end_col)
        if len(runs) <= MOST_RUNS:
            names = ("row", "col", "rows", "cols")
            place = {name: int(message[name]) for name in names}
            self.send({"kind": "part", **place}, [start.astype("<i4").tobytes(), runs.astype("<i4").tobytes()])

    def still(self) -> tuple[bytes, str]:
        return picture(self.tilemap), tiles.summary(self.tilemap)


def payload(tilemap: bs.TileMap) -> dict[str, Any]:
    """The data that the browser draws: sizes, and runs as int32 (for very many runs pixels' coverage as uint8)."""
    names = ("rows", "cols", "block_m", "block_n", "q_len", "kv_len", "q_start")
    sizes = {name: int(getattr(tilemap, name)) for name in names}
    if len(tilemap.runs) <= MOST_RUNS:
        runs = {"run_start": tilemap.run_start.astype("<i4").tobytes(), "runs": tilemap.runs.astype("<i4").tobytes()}
        return {**sizes, **runs}
    shares = tiles.coverage(tilemap, *tiles.size(tilemap, 440))
    _, height, width = shares.shape
    return {
        **sizes,
        "shares": np.rint(shares * 255).astype(np.uint8).tobytes(),
        "share_width": width,
        "share_height": height,
    }


def part(tilemap: bs.TileMap, row: int, col: int, end_row: int, end_col: int) -> tuple[np.ndarray, np.ndarray]:
    """The runs of a rectangle of tiles, counted from its corner: where each row's begin, and int [n, 3]."""
    start = tilemap.run_start[row : end_row + 1]
    runs = tilemap.runs[start[0] : start[-1]].copy()
    runs[:, :2] = np.clip(runs[:, :2] - col, 0, end_col - col)
    kept = runs[:, 0] < runs[:, 1]
    before = np.concatenate([[0], np.cumsum(kept)])
    return before[start - start[0]], runs[kept]


def opened(tilemap: bs.TileMap, row: int, col: int) -> tuple[dict[str, Any], bytes]:
    """One tile: size, place and captions; and its kept elements as bits, row by row, the highest bit first."""
    kept = tilemap.tile(row, col)
    content = {
        "row": row, "col": col, "height": kept.shape[0], "width": kept.shape[1],
        "first_query": row * tilemap.block_m, "first_key": col * tilemap.block_n,
        "text": tiles.describe(tilemap, row, col) + ".",
    }  # fmt: skip
    return content, np.packbits(kept).tobytes()


def differences(tilemap: bs.TileMap, visits: np.ndarray) -> np.ndarray:
    """int64 [n, 2]: the tiles (row, column) whose record contradicts the plan.

    These are partial tiles run without the mask, visited empty tiles, and other tiles left out. A full tile run with
    the mask costs time but changes no result, and is not counted.
    """
    state = np.asarray(tilemap.state)
    visits = np.asarray(visits)
    if visits.shape != state.shape:
        raise ValueError(f"visits: given shape {visits.shape}; the map has {state.shape[0]} x {state.shape[1]} tiles")
    return np.argwhere(((visits != 0) != (state != 0)) | ((visits == 2) & (state == 1)))


def picture(tilemap: bs.TileMap) -> bytes:
    """The map with its axes, legend and counts as a PNG, for readers without widgets."""
    from skiplab.figures import static

    return static.png(static.tilemap(tilemap), bare=True)
