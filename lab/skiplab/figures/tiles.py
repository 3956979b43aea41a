"""The tile map as a picture, made from row runs, without an array of all tiles."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Literal

import numpy as np

from skiplab.figures import theme

if TYPE_CHECKING:
    import blockskip as bs

FAINTEST = 0.7
"""Opacity of a pixel of which the least bit is visited: a thin band must not vanish from a large map."""


def coverage(tilemap: bs.TileMap, width: int, height: int) -> np.ndarray:
    """float64 [2, h, w], h <= height, w <= width: the share of each pixel that partial [0] and full [1] tiles cover.

    If the map has fewer rows or columns than the picture has pixels, a pixel is one tile. Exact: every tile
    counts by the area it covers, so the picture's sum is the number of tiles.
    """
    rows, cols = tilemap.rows, tilemap.cols
    h, w = min(height, rows), min(width, cols)
    run_row = np.repeat(np.arange(rows), np.diff(tilemap.run_start))
    first, end, state = (tilemap.runs[:, i] for i in range(3))
    shares = np.empty((2, h, w))
    for index in range(2):
        chosen = state == index + 1
        shares[index] = _area(
            run_row[chosen] * (h / rows), h / rows, first[chosen] * (w / cols), end[chosen] * (w / cols), h, w
        )
    return shares


def _area(top: np.ndarray, tall: float, left: np.ndarray, right: np.ndarray, h: int, w: int) -> np.ndarray:
    """The area of each pixel that the rectangles (top, top + tall) x (left, right) cover; tall <= 1."""
    upper = np.minimum(top.astype(np.int64), h - 1)
    below = np.clip(top + tall - upper - 1, 0, tall)
    flat = np.zeros(h * (w + 2))
    for row, weight in ((upper, tall - below), (np.minimum(upper + 1, h - 1), below)):
        for edge, sign in ((left, 1.0), (right, -1.0)):
            # the line [edge, infinity): its pixel gets the part right of the edge, the next one the rest
            pixel = np.minimum(edge.astype(np.int64), w)
            part = edge - pixel
            for offset, amount in ((0, 1 - part), (1, part)):
                flat += np.bincount(row * (w + 2) + pixel + offset, sign * weight * amount, h * (w + 2))
    return np.clip(np.cumsum(flat.reshape(h, w + 2), axis=1)[:, :w], 0, 1)


def rgba(shares: np.ndarray) -> np.ndarray:
    """uint8 [h, w, 4]: the mix of the tiles' colours, transparent where nothing is visited."""
    partial, full = shares[..., None]
    visited = partial + full
    colour = partial * _rgb(theme.PARTIAL) + full * _rgb(theme.FULL)
    colour = np.divide(colour, visited, out=np.zeros_like(colour), where=visited > 1e-9)
    alpha = np.where(visited > 1e-9, np.maximum(visited, FAINTEST), 0)
    return np.rint(np.concatenate([colour, alpha * 255], axis=-1)).clip(0, 255).astype(np.uint8)


def _rgb(colour: str) -> np.ndarray:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)], dtype=np.float64)


def size(tilemap: bs.TileMap, longest: int) -> tuple[int, int]:
    """(width, height) in pixels of a picture true to the numbers of keys and queries, no side below an eighth."""
    most = max(tilemap.q_len, tilemap.kv_len)
    width, height = (max(longest * n // most, longest // 8) for n in (tilemap.kv_len, tilemap.q_len))
    return width, height


def pixels(tilemap: bs.TileMap, longest: int = 512) -> np.ndarray:
    """uint8 [height, width, 4]: the map, its longer side `longest` pixels."""
    width, height = size(tilemap, longest)
    image = rgba(coverage(tilemap, width, height))
    y = np.arange(height) * image.shape[0] // height
    x = np.arange(width) * image.shape[1] // width
    return image[y[:, None], x]


def png(tilemap: bs.TileMap, longest: int = 512) -> bytes:
    """The map alone as a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels(tilemap, longest), "RGBA").save(file, "PNG")
    return file.getvalue()


def summary(tilemap: bs.TileMap) -> str:
    """`702 of 4,096 tiles visited, 83 % skipped`."""
    tiles = tilemap.rows * tilemap.cols
    skipped = 100 * (1 - tilemap.visited / tiles)
    share = f"{skipped:.0f}" if 1 <= skipped <= 99 or tilemap.visited in (0, tiles) else f"{skipped:.2f}"
    return f"{tilemap.visited:,} of {tiles:,} tiles visited, {share} % skipped"


def scale_text(tilemap: bs.TileMap, longest: int = 512) -> str:
    """How many tiles one pixel of the picture stands for; empty if it is one."""
    width, height = size(tilemap, longest)
    down, across = tilemap.rows / height, tilemap.cols / width
    if max(down, across) <= 1:
        return ""
    return f"a pixel covers {max(down, 1):.3g} × {max(across, 1):.3g} tiles and shows their mix"


def describe(tilemap: bs.TileMap, row: int, col: int, end_row: int | None = None, end_col: int | None = None) -> str:
    """The text for a tile (or a rectangle of tiles, ends exclusive): its queries and keys, and what the mask keeps."""
    end_row, end_col = end_row or row + 1, end_col or col + 1
    where = (
        f"queries {row * tilemap.block_m:,}–{min(end_row * tilemap.block_m, tilemap.q_len) - 1:,}, "
        f"keys {col * tilemap.block_n:,}–{min(end_col * tilemap.block_n, tilemap.kv_len) - 1:,}"
    )
    if (end_row - row) * (end_col - col) == 1:
        state = state_at(tilemap, row, col)
        pairs = (min(end_row * tilemap.block_m, tilemap.q_len) - row * tilemap.block_m) * (
            min(end_col * tilemap.block_n, tilemap.kv_len) - col * tilemap.block_n
        )
        kept = {0: 0, 2: pairs}.get(state)
        kept = int(tilemap.tile(row, col).sum()) if kept is None else kept
        name = ("empty: skipped", "partial: the mask is applied", "full: no mask needed")[state]
        return f"Tile ({row:,}, {col:,}), {where}: {name}; {kept:,} of {pairs:,} pairs kept"
    partial, full = counts(tilemap, row, col, end_row, end_col)
    empty = (end_row - row) * (end_col - col) - partial - full
    return (
        f"{end_row - row} × {end_col - col} tiles from ({row:,}, {col:,}), {where}: "
        f"{full:,} full, {partial:,} partial, {empty:,} empty"
    )


def state_at(tilemap: bs.TileMap, row: int, col: int) -> Literal[0, 1, 2]:
    """The state of one tile: 0 empty, 1 partial, 2 full."""
    partial, full = counts(tilemap, row, col, row + 1, col + 1)
    return 1 if partial else 2 if full else 0


def counts(tilemap: bs.TileMap, row: int, col: int, end_row: int, end_col: int) -> tuple[int, int]:
    """(partial, full) tiles of a rectangle of tiles, ends exclusive."""
    runs = tilemap.runs[tilemap.run_start[row] : tilemap.run_start[end_row]]
    length = np.minimum(runs[:, 1], end_col) - np.maximum(runs[:, 0], col)
    inside = np.maximum(length, 0)
    return int(inside[runs[:, 2] == 1].sum()), int(inside[runs[:, 2] == 2].sum())


def first_of_interest(tilemap: bs.TileMap, row: int, col: int, end_row: int, end_col: int) -> tuple[int, int]:
    """The tile of a rectangle to open: its first partial one, else its first full one, else a corner."""
    for wanted in (1, 2):
        for r in range(row, end_row):
            runs = tilemap.runs[tilemap.run_start[r] : tilemap.run_start[r + 1]]
            for first, end, state in runs.tolist():
                if state == wanted and first < end_col and end > col:
                    return r, max(first, col)
    return row, col
