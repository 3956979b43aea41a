"""From a mask to runs of tiles, without looking at elements.

Along the keys, the answer of a mask for one query changes only at its *edges*: a band's edges move with the query
(k = q + c), all others stand still for a while (k = constant, changing at a chunk's or document's start). Cut the
queries where a tile row begins, where a standing edge changes, and where a moving edge passes a standing one: inside
such a *segment* the edges keep their order, so one look between each two of them, at the segment's first query, answers
for every query of it. What the segment sees is then known from its first and last query alone, whatever &, | and ~ the
mask is made of.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
import torch

from .mask import And, Dense, Dilated, Mask, MaskMod, Not, Or

ELEMENTS_AT_ONCE = 1 << 24
"""How many elements of a `dense` or `mask_mod` mask are looked at in one step: bounds the memory, no L x L tensor."""

ONE_THREAD = 32_000
"""Elements beyond which torch starts threads, which costs more than such work when the cores are busy."""

LONGEST_PERIOD = 1 << 22
"""Where the least common multiple of dilated strides is larger, kept pairs are counted element by element."""


class Grid(NamedTuple):
    """A problem cut into tiles: block_m queries x block_n keys, the first query at position q_start."""

    q_len: int
    kv_len: int
    block_m: int
    block_n: int
    q_start: int

    @property
    def rows(self) -> int:
        return -(-self.q_len // self.block_m)

    @property
    def cols(self) -> int:
        return -(-self.kv_len // self.block_n)


class Runs(NamedTuple):
    """Tiles that are not empty.

    Row r owns runs start[r]:start[r + 1], each (first column, end column, state 1 or 2).
    """

    start: np.ndarray  # int64 [rows + 1]
    runs: np.ndarray  # int32 [n, 3]
    kept_pairs: int


class _Segments(NamedTuple):
    """S runs of queries, first..last, inside which the E edges keep their order; where the edges stand, ascending."""

    first: np.ndarray  # int64 [S]
    last: np.ndarray  # int64 [S]
    row: np.ndarray  # int64 [S], the tile row
    at_first: np.ndarray  # int64 [E, S]
    at_last: np.ndarray  # int64 [E, S]

    @property
    def queries(self) -> np.ndarray:
        return self.last - self.first + 1


def build_runs(mask: Mask, grid: Grid, batch: int = 0, head: int = 0) -> Runs:
    """The runs and the exact number of kept pairs of `mask` over `grid`."""
    leaves = list(mask.leaves())
    if any(isinstance(m, Dense | MaskMod) for m in leaves):
        return _runs_of_elements(mask, grid, batch, head)
    segments = _segments(leaves, grid)
    value = _between_edges(mask, segments)
    kept = _kept_pairs(mask, segments, value, grid)
    if isinstance(mask, Dilated):
        return Runs(*_dilated_runs(mask.stride, grid), kept)
    return Runs(*_sweep(*_tile_ranges(segments, value, grid), np.bincount(segments.row), grid), kept)


def _segments(leaves: list[Mask], grid: Grid) -> _Segments:
    lo, hi = grid.q_start, grid.q_start + grid.q_len
    slopes = sorted({c for m in leaves for c in m.slopes()})
    steps = [(np.array([lo]), np.array([key])) for key in (0, grid.kv_len)]
    steps += [step for m in leaves for step in m.steps(lo, hi)]
    cuts = [np.arange(lo, hi, grid.block_m)]
    for starts, values in steps:
        cuts.append(starts)
        ends = np.append(starts[1:], hi)
        for c in slopes:  # the moving edge stands on the still one at q = value - c: a segment of that query alone
            crossing = values - c
            inside = (crossing >= starts - 1) & (crossing <= ends)
            cuts += [crossing[inside], crossing[inside] + 1]
    first = np.sort(np.concatenate(cuts))
    first = first[(first >= lo) & (first < hi) & np.append(True, first[1:] != first[:-1])]
    last = np.append(first[1:], hi) - 1
    still = [values[np.searchsorted(starts, first, "right") - 1] for starts, values in steps]
    at_first = np.stack([*(first + c for c in slopes), *still]).clip(0, grid.kv_len)
    at_last = np.stack([*(last + c for c in slopes), *still]).clip(0, grid.kv_len)
    order = np.argsort(at_first, axis=0, kind="stable")
    sort = lambda keys: np.take_along_axis(keys, order, 0)  # noqa: E731
    return _Segments(first, last, (first - lo) // grid.block_m, sort(at_first), sort(at_last))


def _between_edges(mask: Mask, segments: _Segments) -> np.ndarray:
    """uint8 [E - 1, S], what the mask keeps between two neighbouring edges: 0 nothing, 2 everything, 1 unknown."""
    q = torch.from_numpy(segments.first)[None]
    k = torch.from_numpy(segments.at_first[:-1])
    return _evaluate(mask, lambda leaf: _leaf_value(leaf, q, k))


def _leaf_value(leaf: Mask, q: torch.Tensor, k: torch.Tensor) -> np.ndarray:
    """uint8 [.., S], 0 or 2 by the first pair (q, k) of each interval; 1 for `dilated`, whose answer varies."""
    if isinstance(leaf, Dilated):
        return np.ones(k.shape, np.uint8)
    pieces = max(1, -(-k.numel() // ONE_THREAD))
    keep = [leaf.keep(*some) for some in zip(q.chunk(pieces, 1), k.chunk(pieces, 1), strict=True)]
    return torch.cat(keep, 1).numpy().view(np.uint8) * np.uint8(2)


def _evaluate(mask: Mask, value_of) -> np.ndarray:
    """The mask from its leaves' values 0 < 1 (unknown) < 2: & is the minimum, | the maximum, ~x is 2 - x."""
    if isinstance(mask, Not):
        return np.uint8(2) - _evaluate(mask.mask, value_of)
    if isinstance(mask, And | Or):
        combine = np.minimum if isinstance(mask, And) else np.maximum
        values = [_evaluate(m, value_of) for m in mask.masks]
        return functools.reduce(combine, values)
    return value_of(mask)


def _tile_ranges(segments: _Segments, value: np.ndarray, grid: Grid):
    """Two tables (tile row, first column, end column): tiles that a segment may see, and those that it sees whole."""
    row, low, _, _, high = _intervals(segments, value >= 1)
    seen = (row, low // grid.block_n, -(-high // grid.block_n))
    row, _, low, high, _ = _intervals(segments, value == 2)
    # a ragged last tile is whole when its real keys are
    end = np.where(high == grid.kv_len, grid.cols, high // grid.block_n)
    first = -(-low // grid.block_n)
    some = first < end
    return seen, (row[some], first[some], end[some])


def _intervals(segments: _Segments, on: np.ndarray):
    """The intervals between edges where `on` holds, neighbours joined: (tile row, low, low, high, high).

    Low and high keys are given twice, for the segment's first and last query.
    """
    a, b = segments.at_first, segments.at_last
    open_ = np.zeros(a.shape[1], bool)
    low_a, low_b = np.zeros_like(a[0]), np.zeros_like(a[0])
    parts = []
    for j in range(len(a)):
        is_last = j == len(a) - 1
        wide = np.zeros_like(open_) if is_last else a[j + 1] > a[j]  # an interval of no width changes nothing
        closes = open_ if is_last else open_ & wide & ~on[j]
        parts.append(tuple(x[closes] for x in (segments.row, low_a, low_b, a[j], b[j])))
        if not is_last:
            opens = wide & on[j] & ~open_
            low_a, low_b = np.where(opens, a[j], low_a), np.where(opens, b[j], low_b)
            open_ = (open_ & ~closes) | opens
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))


def _sweep(seen, whole, segments_in_row: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Runs: a tile is visited where any segment of its row sees it, full where each of them sees it whole."""
    width = grid.cols + 1
    keys = np.concatenate([r * width + c for row, first, end in (seen, whole) for r, c in ((row, first), (row, end))])
    n, m = len(seen[0]), len(whole[0])
    weight = np.concatenate([np.ones(n), -np.ones(n), np.zeros(2 * m)]).astype(np.int64)
    weight_whole = np.concatenate([np.zeros(2 * n), np.ones(m), -np.ones(m)]).astype(np.int64)
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    last = np.append(keys[1:] != keys[:-1], True) if len(keys) else np.zeros(0, bool)
    keys, visits, wholes = keys[last], np.cumsum(weight[order])[last], np.cumsum(weight_whole[order])[last]
    row = np.minimum(keys // width, grid.rows - 1)
    state = np.where(wholes == segments_in_row[row], 2, np.minimum(visits, 1)) if len(keys) else visits
    return _runs_from_changes(keys, state, grid)


def _runs_from_changes(keys: np.ndarray, state: np.ndarray, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """`state` holds from each key (row * (cols + 1) + column) to the next."""
    changed = np.append(True, state[1:] != state[:-1]) if len(keys) else np.zeros(0, bool)
    keys, state = keys[changed], state[changed]
    some = state > 0
    begins, ends = keys[some], keys[1:][some[:-1]]
    width = grid.cols + 1
    row = begins // width
    runs = np.stack([begins - row * width, ends - row * width, state[some]], 1).astype(np.int32)
    return np.searchsorted(row, np.arange(grid.rows + 1)), np.ascontiguousarray(runs)


def _kept_pairs(mask: Mask, segments: _Segments, value: np.ndarray, grid: Grid) -> int:
    whole = _pairs_kept_whole(segments, value)
    return whole + (_kept_of_dilated(mask, segments, value, grid) if (value == 1).any() else 0)


def _pairs_kept_whole(segments: _Segments, value: np.ndarray) -> int:
    """The pairs in intervals where the mask keeps everything."""
    # both edges move by 0 or 1 a query, so the widths over a segment are an arithmetic series
    widths = np.diff(segments.at_first, axis=0) + np.diff(segments.at_last, axis=0)
    return int((widths * segments.queries)[value == 2].sum()) // 2


def _kept_of_dilated(mask: Mask, segments: _Segments, value: np.ndarray, grid: Grid) -> int:
    """Kept pairs in the intervals where the answer depends on q - k modulo the strides' common multiple."""
    leaves = list(dict.fromkeys(mask.leaves()))
    period = math.lcm(*(m.stride for m in leaves if isinstance(m, Dilated)))
    if period > LONGEST_PERIOD:
        return _kept_by_elements(mask, segments, value, grid)
    still = [m for m in leaves if not isinstance(m, Dilated)]
    q, k = torch.from_numpy(segments.first)[None], torch.from_numpy(segments.at_first[:-1])
    gap, segment = np.nonzero(value == 1)
    truth = np.stack([np.zeros(len(gap), np.uint8), *(_leaf_value(m, q, k)[gap, segment] for m in still)], 1)
    kinds, kind = np.unique(truth, axis=0, return_inverse=True)
    residue = np.arange(period)
    total = 0
    for i, known in enumerate(kinds):
        answers = dict(zip(still, known[1:], strict=True))
        pattern = _evaluate(
            mask,
            lambda leaf, answers=answers: (
                np.where(residue % leaf.stride == 0, np.uint8(2), np.uint8(0))
                if isinstance(leaf, Dilated)
                else np.full(period, answers[leaf], np.uint8)
            ),
        )
        chosen = kind.reshape(-1) == i
        total += _count_pattern(pattern == 2, segments, gap[chosen], segment[chosen])
    return total


def _count_pattern(pattern: np.ndarray, segments: _Segments, gap: np.ndarray, segment: np.ndarray) -> int:
    """How many pairs in these intervals have pattern[(q - k) % period], by two look-ups in a running count a query."""
    running = np.concatenate(([0], np.cumsum(pattern)))
    period, per_period = len(pattern), int(running[-1])

    def below(distance):
        return distance // period * per_period + running[distance % period]

    n = segments.queries[segment]
    which = np.repeat(np.arange(len(gap)), n)
    step = np.arange(len(which)) - np.repeat(np.cumsum(n) - n, n)  # 0, 1, .. in each segment
    q = segments.first[segment][which] + step

    def edge(j):
        moves = segments.at_last[j, segment] > segments.at_first[j, segment]
        return segments.at_first[j, segment][which] + np.where(moves[which], step, 0)

    return int((below(q - edge(gap) + 1) - below(q - edge(gap + 1) + 1)).sum())


def _kept_by_elements(mask: Mask, segments: _Segments, value: np.ndarray, grid: Grid) -> int:
    """What `_kept_of_dilated` counts, element by element."""
    everything = sum(int(keep.sum()) for _, keep in _stripes(mask, grid, 0, 0))
    return everything - _pairs_kept_whole(segments, value)


def _dilated_runs(stride: int, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """Runs of a single dilated mask: a tile row sees the keys of its own queries, shifted by multiples of `stride`."""
    lo = grid.q_start + np.arange(grid.rows, dtype=np.int64) * grid.block_m
    hi = np.minimum(lo + grid.block_m, grid.q_start + grid.q_len)
    first = -((hi - 1) // stride)  # smallest t with hi - 1 + t * stride >= 0
    count = np.maximum((grid.kv_len - 1 - lo) // stride - first + 1, 0)
    dense_row = hi - lo >= stride
    count[dense_row] = 1
    row = np.repeat(np.arange(grid.rows), count)
    t = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count) + first[row]
    low = np.where(dense_row[row], 0, np.maximum(lo[row] + t * stride, 0))
    high = np.where(dense_row[row], grid.kv_len, np.minimum(hi[row] + t * stride, grid.kv_len))
    seen = (row, low // grid.block_n, -(-high // grid.block_n))
    # a tile of one query and one key is full when it is visited; no larger one can be, stride being at least 2
    single = (hi - lo == 1)[row]
    width = np.where(seen[1] == grid.cols - 1, grid.kv_len - (grid.cols - 1) * grid.block_n, grid.block_n)
    whole = tuple(x[single & (width == 1)] for x in seen)
    return _sweep(seen, whole, np.ones(grid.rows, np.int64), grid)


def _runs_of_elements(mask: Mask, grid: Grid, batch: int, head: int) -> Runs:
    """The runs of a mask that must be looked at element by element."""
    states, kept = [], 0
    widths = np.full(grid.cols, grid.block_n)
    widths[-1] = grid.kv_len - (grid.cols - 1) * grid.block_n
    for height, keep in _stripes(mask, grid, batch, head):
        tiles = keep.reshape(keep.shape[0], grid.block_m, grid.cols, grid.block_n)
        count = (
            tiles.sum(3, dtype=torch.int32).sum(1).cpu().numpy()
        )  # over both dimensions in one sum it takes 18 times as long on a CPU
        kept += int(count.sum())
        states.append(np.where(count == height[:, None] * widths, 2, np.minimum(count, 1)))
    state = np.concatenate(states)
    keys = np.arange(grid.rows)[:, None] * (grid.cols + 1) + np.arange(grid.cols + 1)
    closed = np.pad(state, ((0, 0), (0, 1)))  # an empty column ends every row's last run
    return Runs(*_runs_from_changes(keys.reshape(-1), closed.reshape(-1), grid), kept)


def _stripes(mask: Mask, grid: Grid, batch: int, head: int):
    """(heights int64 [R], keep bool [R, block_m, cols * block_n]) for some tile rows at a time, padded with False."""
    device = next((m.tensor.device for m in mask.leaves() if isinstance(m, Dense)), torch.device("cpu"))
    at_once = max(1, ELEMENTS_AT_ONCE // (grid.block_m * grid.kv_len))
    keys = torch.arange(grid.kv_len, dtype=torch.int64, device=device)[None]
    for row in range(0, grid.rows, at_once):
        first, end = row * grid.block_m, min((row + at_once) * grid.block_m, grid.q_len)
        rows = torch.arange(first, end, dtype=torch.int64, device=device)[:, None]
        keep = mask.keep(rows + grid.q_start, keys, batch, head, rows)
        padded_rows = -(-len(rows) // grid.block_m) * grid.block_m
        pad = (0, grid.cols * grid.block_n - grid.kv_len, 0, padded_rows - len(rows))
        keep = torch.nn.functional.pad(keep, pad)
        n = padded_rows // grid.block_m
        height = np.minimum(grid.block_m, grid.q_len - (row + np.arange(n)) * grid.block_m)
        yield height, keep.reshape(n, grid.block_m, -1)
