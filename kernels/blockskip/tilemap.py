"""TileMap: which tiles of a masked attention problem are empty, partial and full."""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass, field

import numpy as np
import torch

from .arguments import integer
from .mask import Mask, kept_by_mask
from .mask_runs import Grid, Runs, build_runs

OVERHEAD_BYTES = 2048  # what a kept tile map takes beside its arrays, its mask included

PICTURE = {0: "·", 1: "▒", 2: "█"}


@dataclass(frozen=True, eq=False, repr=False)
class TileMap:
    """The tiles of `mask` over q_len queries x kv_len keys, cut into block_m x block_n; build it with `TileMap.build`.

    Tile row r holds the queries r * block_m .. of the call (positions q_start + that), column c the keys c * block_n ..
    A tile is empty if no real element of it is kept, full if all are, partial otherwise. Rows are held as runs:
    row r owns `runs[run_start[r]:run_start[r + 1]]`, each (first column, end column, state 1 or 2), ascending.
    """

    mask: Mask
    q_len: int
    kv_len: int
    block_m: int
    block_n: int
    q_start: int
    batch: int
    head: int
    kept_pairs: int
    run_start: np.ndarray = field(repr=False)  # int64 [rows + 1]
    runs: np.ndarray = field(repr=False)  # int32 [n, 3]

    @staticmethod
    def build(
        mask: Mask,
        q_len: int,
        kv_len: int,
        block_m: int = 128,
        block_n: int = 64,
        q_start: int | None = None,
        batch: int = 0,
        head: int = 0,
    ) -> TileMap:
        """The tile map of `mask`. It is kept; equal masks without a tensor or function share one object.

        `q_start` is the position of the first query, kv_len - q_len by default (the queries are the last positions).
        States are exact for bands, prefix, sink, chunked, document, one dilated, dense, mask_mod and every &, |, ~ of
        all but dilated; with a dilated among others a tile may be called partial that is empty or full, never the
        reverse. Raises TypeError for a mask that is none, ValueError for a length or tile below 1.
        """
        if not isinstance(mask, Mask):
            raise TypeError(f"mask: given {type(mask).__name__}; a blockskip mask such as causal() is needed")
        sizes = {"q_len": q_len, "kv_len": kv_len, "block_m": block_m, "block_n": block_n}
        q_len, kv_len, block_m, block_n = (integer(name, value, 1) for name, value in sizes.items())
        start = kv_len - q_len if q_start is None else integer("q_start", q_start)
        batch, head = integer("batch", batch, 0), integer("head", head, 0)
        grid = Grid(q_len, kv_len, block_m, block_n, start)
        if mask.is_value:
            return _shared(mask, grid, batch, head)
        # what a mask owns does not refer to it, so only the runs are kept
        return _tilemap(mask, grid, batch, head, _runs(mask, grid, batch, head))

    @property
    def rows(self) -> int:
        return -(-self.q_len // self.block_m)

    @property
    def cols(self) -> int:
        return -(-self.kv_len // self.block_n)

    @functools.cached_property
    def full(self) -> int:
        return int(self._run_lengths[self.runs[:, 2] == 2].sum())

    @functools.cached_property
    def partial(self) -> int:
        return int(self._run_lengths[self.runs[:, 2] == 1].sum())

    @property
    def visited(self) -> int:
        return self.full + self.partial

    @functools.cached_property
    def visited_pairs(self) -> int:
        """Real (query, key) pairs in the visited tiles."""
        height = np.minimum(self.block_m, self.q_len - self._run_row * self.block_m)
        keys = np.minimum(self.runs[:, 1].astype(np.int64) * self.block_n, self.kv_len)
        return int((height * (keys - self.runs[:, 0].astype(np.int64) * self.block_n)).sum())

    @property
    def sparsity(self) -> float:
        """Share of all pairs that the mask drops."""
        return 1 - self.kept_pairs / (self.q_len * self.kv_len)

    @property
    def waste(self) -> float:
        """Visited pairs for each kept pair; nan where nothing is kept."""
        return self.visited_pairs / self.kept_pairs if self.kept_pairs else math.nan

    @property
    def state(self) -> torch.Tensor:
        """uint8 [rows, cols]: 0 empty, 1 partial, 2 full. Made on demand: rows x cols bytes."""
        change = np.zeros((self.rows, self.cols + 1), np.int8)
        first, end, state = self.runs.T
        # runs of a row do not overlap, but one may end where the next begins
        np.add.at(change, (self._run_row, first), state.astype(np.int8))
        np.add.at(change, (self._run_row, end), -state.astype(np.int8))
        np.cumsum(change, axis=1, out=change)
        return torch.from_numpy(change[:, :-1].view(np.uint8).copy())

    def tile(self, row: int, col: int) -> np.ndarray:
        """bool [<= block_m, <= block_n]: the kept elements of one tile, real elements only."""
        row, col = integer("row", row), integer("col", col)
        if not (0 <= row < self.rows and 0 <= col < self.cols):
            raise ValueError(f"row, col: given ({row}, {col}); the map has {self.rows} x {self.cols} tiles")
        arange = functools.partial(torch.arange, dtype=torch.int64, device="cpu")
        q = arange(row * self.block_m, min((row + 1) * self.block_m, self.q_len))[:, None]
        k = arange(col * self.block_n, min((col + 1) * self.block_n, self.kv_len))[None]
        return self.mask.keep(q + self.q_start, k, self.batch, self.head, q).cpu().numpy()

    def to_csr(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(row_start int32 [rows + 1], col int32 [visited], is_full bool [visited]): the visited tiles, row by row."""
        length = self._run_lengths
        before = np.concatenate(([0], np.cumsum(length)))
        col = np.arange(before[-1]) - np.repeat(before[:-1] - self.runs[:, 0], length)
        row_start = before[self.run_start].astype(np.int32)
        is_full = np.repeat(self.runs[:, 2] == 2, length)
        return torch.from_numpy(row_start), torch.from_numpy(col.astype(np.int32)), torch.from_numpy(is_full)

    def to_block_mask(self, block: tuple[int, int] | None = None, device=None):
        """FlexAttention's BlockMask [1, 1, rows, cols], without an L x L pass.

        `block` = (m, n), this map's tiles if None.
        """
        from torch.nn.attention.flex_attention import BlockMask

        if block is not None and not (isinstance(block, tuple | list) and len(block) == 2):
            raise TypeError(f"block: given {block!r}; (m, n) or None is needed")
        if block is not None and tuple(block) != (self.block_m, self.block_n):
            q_start, batch, head = self.q_start, self.batch, self.head
            return TileMap.build(
                self.mask, self.q_len, self.kv_len, *block, q_start=q_start, batch=batch, head=head
            ).to_block_mask(device=device)
        row_start, col, is_full = self.to_csr()
        row = torch.repeat_interleave(torch.arange(self.rows, dtype=torch.int64, device="cpu"), row_start.diff())
        tables = [table for chosen in (~is_full, is_full) for table in self._columns(row[chosen], col[chosen])]
        return BlockMask.from_kv_blocks(
            *(t[None, None].to(device) for t in tables),
            BLOCK_SIZE=(self.block_m, self.block_n),
            mask_mod=self.mask.mod(self.q_start, device),
            seq_lengths=(self.q_len, self.kv_len),
        )

    def _columns(self, row: torch.Tensor, col: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """FlexAttention's layout: how many tiles a row has, int32 [rows], and which, int32 [rows, cols]."""
        count = torch.bincount(row, minlength=self.rows)
        place = torch.arange(len(row), dtype=torch.int64, device="cpu") - (count.cumsum(0) - count)[row]
        index = torch.zeros(self.rows, self.cols, dtype=torch.int32, device="cpu")
        index[row, place] = col
        return count.int(), index

    @property
    def _run_lengths(self) -> np.ndarray:
        return (self.runs[:, 1] - self.runs[:, 0]).astype(np.int64)

    @property
    def _run_row(self) -> np.ndarray:
        return np.repeat(np.arange(self.rows), np.diff(self.run_start))

    def summary(self) -> str:
        """One line: how many tiles are visited, how many full and partial, and the waste."""
        tiles = self.rows * self.cols
        left_out = 100 * (1 - self.visited / tiles)
        share = f"{left_out:.0f}" if left_out < 99 or not self.visited else f"{min(left_out, 99.99):.2f}"
        waste = f"{self.waste:.2f} pairs computed for each kept" if self.kept_pairs else "nothing is kept"
        return (
            f"{self.visited:,} of {tiles:,} tiles visited, {share} % skipped "
            f"({self.full:,} full, {self.partial:,} partial); {waste}"
        )

    def _picture(self, most_rows: int, most_cols: int) -> tuple[np.ndarray, int, int]:
        """State of cells of r x c tiles, few enough to look at: full or empty if all their tiles are."""
        r, c = -(-self.rows // most_rows), -(-self.cols // most_cols)
        rows, cols = -(-self.rows // r), -(-self.cols // c)
        lowest, highest = np.full((rows, cols), 2, np.uint8), np.zeros((rows, cols), np.uint8)
        state = self.state.numpy()
        for i in range(rows):
            cells = np.arange(0, self.cols, c)
            part = state[i * r : (i + 1) * r]
            lowest[i] = np.minimum.reduceat(part.min(0), cells)
            highest[i] = np.maximum.reduceat(part.max(0), cells)
        return np.where(lowest == 2, 2, np.minimum(highest, 1)), r, c

    def __repr__(self) -> str:
        return (
            f"TileMap({self.mask!r}, q_len={self.q_len}, kv_len={self.kv_len}, tiles {self.block_m}x{self.block_n}, "
            f"q_start={self.q_start}, visited {self.visited} of {self.rows * self.cols})"
        )

    def __str__(self) -> str:
        picture, r, c = self._picture(32, 64)
        cell = "a character is one tile" if r == c == 1 else f"a character is {r} x {c} tiles"
        lines = ["".join(PICTURE[s] for s in row) for row in picture.tolist()]
        head = f"{self.mask!r}: {self.q_len} queries x {self.kv_len} keys, tiles {self.block_m} x {self.block_n}"
        legend = (
            f"{PICTURE[0]} empty  {PICTURE[1]} partial  {PICTURE[2]} full; {cell}; keys run to the right, queries down"
        )
        return "\n".join([head, *lines, legend, self.summary()])

    def _repr_html_(self) -> str:
        from html import escape

        picture, r, c = self._picture(128, 128)
        size = max(3, min(12, 480 // max(picture.shape)))
        colours = {1: "#E69F00", 2: "#0072B2"}  # Okabe-Ito orange and blue
        cells = "".join(
            f'<rect x="{x}" y="{y}" width="{n}" height="1" fill="{colours[s]}"/>' for y, x, n, s in _rectangles(picture)
        )
        rows, cols = picture.shape
        return (
            f'<figure style="margin:0"><svg role="img" aria-label="{escape(self.summary())}" width="{cols * size}" '
            f'height="{rows * size}" viewBox="0 0 {cols} {rows}" preserveAspectRatio="none" '
            f'style="background:#88888822">{cells}</svg>'
            f"<figcaption>{escape(repr(self.mask))}: {escape(self.summary())}. "
            f"Blue full, orange partial, grey empty; a cell is {r} x {c} tiles of {self.block_m} x {self.block_n}."
            "</figcaption></figure>"
        )


def _build(mask: Mask, grid: Grid, batch: int, head: int) -> Runs:
    mask.check_shape(grid.q_len, grid.kv_len)
    built = build_runs(mask, grid, batch, head)
    for array in (built.start, built.runs):
        array.flags.writeable = False
    return built


_runs = kept_by_mask(lambda runs: runs.start.nbytes + runs.runs.nbytes + OVERHEAD_BYTES)(_build)


def _tilemap(mask: Mask, grid: Grid, batch: int, head: int, built: Runs) -> TileMap:
    return TileMap(mask, *grid, batch, head, built.kept_pairs, built.start, built.runs)


@kept_by_mask(lambda tilemap: tilemap.run_start.nbytes + tilemap.runs.nbytes + OVERHEAD_BYTES)
def _shared(mask: Mask, grid: Grid, batch: int, head: int) -> TileMap:
    return _tilemap(mask, grid, batch, head, _build(mask, grid, batch, head))


def _rectangles(picture: np.ndarray):
    """(row, first column, width, state) of each horizontal run of one state that is not empty."""
    for y, row in enumerate(picture):
        cuts = np.flatnonzero(np.diff(row, prepend=-1, append=-1))
        for first, end in itertools.pairwise(cuts):
            if row[first]:
                yield y, int(first), int(end - first), int(row[first])
