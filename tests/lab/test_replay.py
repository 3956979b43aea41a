"""Replay: what is recorded of a kernel's programs is what they do, by the reference; from a child process."""

from __future__ import annotations

import linecache
import math
import sys
import types

import blockskip as bs
import numpy as np
import pytest
import torch
from skiplab.figures import nibbles
from skiplab.figures.replay import steps
from skiplab.measure.timing import Cancelled
from skiplab.replay import replay
from skiplab.replay.steps import replay_of
from skiplab.widgets.replay.captions import counts
from skiplab.workload import Workload

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Triton is for Linux alone")
MASK = "sliding_window(40) | (sink(8) & causal())"


@pytest.fixture(scope="module")
def made(warm):
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TRITON_INTERPRET", raising=False)  # this process does not interpret, and need not
        for name, value in warm.items():
            patch.setenv(name, value)
        patch.setattr(sys, "executable", warm.get("SKIPLAB_TESTS_PYTHON", sys.executable))
        yield replay(MASK, 100, block_m=32, block_n=16)


def test_every_tile_of_the_map_is_visited_once_and_masked_where_it_is_partial(made):
    state = np.asarray(made.tilemap.state)
    visited = [tile for p in made.programs for step in p.steps for tile in made.tiles(p, step)]
    assert sorted(visited) == sorted(map(tuple, np.argwhere(state != 0)))
    full = (made.visits == 2) & (state != 2)
    assert not full.any() and (made.visits == 1).any() and (made.visits == 2).any()


def test_what_is_loaded_are_the_tiles_keys_and_values(made):
    for program in made.programs:
        for step in program.steps:
            assert [load.tensor for load in step.loads[:2]] == ["k", "v"]
            real = min(step.first_key + 16, 100) - step.first_key
            assert all((one.first, one.last) == (step.first_key, step.first_key + real - 1) for one in step.loads[:2])
            assert all(one.numbers == real * 16 for one in step.loads[:2])


def test_row_maximum_and_sum_grow_as_the_reference_says(made):
    """In base 2 and float64, over the keys that a row has seen so far; float32 rounds each sum of 100 once a key."""
    q, k, _ = (t[0, 0].double() for t in Workload(100, None, bs.causal(), 1, 1, 1, 16, "float32").inputs("cpu", 0))
    scores = q @ k.T * 16**-0.5 * math.log2(math.e)
    kept = bs.Mask.from_spec(MASK).dense(100, 100)
    for program in made.programs:
        rows = range(program.first_query, program.last_query + 1)
        seen = torch.zeros(100, dtype=torch.bool)
        for step in program.steps:
            seen[step.first_key : step.last_key + 1] = True
            for place, row in enumerate(rows):
                own = scores[row][kept[row] & seen]
                largest = own.max().item() if len(own) else float("-inf")
                total = (2 ** (own - largest)).sum().item() if len(own) else 0.0
                assert step.row_max[place] == pytest.approx(largest, rel=1e-5, abs=1e-5)
                assert step.row_sum[place] == pytest.approx(total, rel=100 * 2**-22, abs=0)


def test_its_picture_is_of_the_step(made):
    first, last = steps(made, -1), steps(made, len(made.places) - 1)
    colours = [[cell.fill for cell in picture.cells] for picture in (first, last)]
    assert not any(fill.startswith("#") for fill in colours[0])
    map_cells = made.tilemap.rows * made.tilemap.cols
    assert sum(fill.startswith("#") for fill in colours[1][:map_cells]) == made.tilemap.visited
    shown = nibbles.svg(steps(made, 0), "a step")
    assert "step 1 of program 1" in shown and "comes as step" in shown
    assert made.told(0, -1).endswith("tiles to come.")
    assert "keys 0–15, masked. Loaded: k rows 0–15 (256 numbers)" in made.told(0, 0)


OWN = """
import skiplab, torch, triton
import triton.language as tl

@triton.jit
def mine(q, k, v, out, n, D: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    d = tl.arange(0, D)
    rows = tl.load(q + at[:, None] * D + d[None, :], mask=at[:, None] < n, other=0.0)
    high = tl.full((BLOCK,), float("-inf"), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    acc = tl.zeros((BLOCK, D), tl.float32)
    for first in range(0, n, BLOCK):
        key = first + tl.arange(0, BLOCK)
        keys = tl.load(k + key[:, None] * D + d[None, :], mask=key[:, None] < n, other=0.0)
        values = tl.load(v + key[:, None] * D + d[None, :], mask=key[:, None] < n, other=0.0)
        score = tl.dot(rows, tl.trans(keys), input_precision="ieee") * (D ** -0.5)
        score = tl.where((key[None, :] <= at[:, None]) & (key[None, :] < n), score, float("-inf"))
        new = tl.maximum(high, tl.max(score, 1))
        weight = tl.exp(score - new[:, None])
        total = total * tl.exp(high - new) + tl.sum(weight, 1)
        acc = acc * tl.exp(high - new)[:, None] + tl.dot(weight, values, input_precision="ieee")
        high = new
    tl.store(out + at[:, None] * D + d[None, :], acc / total[:, None], mask=at[:, None] < n)

@skiplab.kernel("attention", name="mine of a cell")
def build(workload, inputs):
    def call(q, k, v):
        out = torch.empty_like(q)
        mine[(-(-workload.q_len // 16),)](q, k, v, out, workload.q_len, D=workload.head_dim, BLOCK=16)
        return out
    return call
"""


@pytest.mark.usefixtures("warm_python")
def test_a_kernel_of_a_cell_is_replayed_too(monkeypatch, own_registry):
    """It visits every tile; what it keeps its maximum and sum in is named."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    name = "/tmp/ipykernel_1/3.py"
    monkeypatch.setitem(linecache.cache, name, (len(OWN), None, OWN.splitlines(keepends=True), name))
    exec(compile(OWN, name, "exec"), vars(module))
    found = replay("causal()", 40, block_m=16, block_n=16, kernel="mine of a cell", watch=("high", "total"))
    assert [len(p.steps) for p in found.programs] == [3, 3, 3]
    assert (found.visits == 1).all() and not found.says_mask
    assert "9 of 9 tiles visited, 3 of which the mask keeps nothing" in counts(found)
    picture = steps(found, len(found.places) - 1)
    assert sum("the mask keeps none of it" in cell.hint for cell in picture.cells) == 3
    assert "a visit in vain" in picture.legend[0]
    last = found.programs[2].steps[-1]
    assert all(one >= 1 for one in last.row_sum[:8]) and len(last.row_max) == 16
    for before, after in zip(found.programs[2].steps, found.programs[2].steps[1:], strict=False):
        assert all(a <= b for a, b in zip(before.row_max, after.row_max, strict=True))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mask": "causal()", "q_len": 100_000}, "tiles may be visited; the interpreter takes 1,024"),
        ({"kernel": "sdpa"}, "sdpa is the lab's own, of which blockskip alone can be replayed"),
        ({"mask": "nonsense"}, "mask: got 'nonsense'"),
    ],
)
def test_what_cannot_be_replayed_is_said(given, message):
    with pytest.raises(ValueError, match=message):
        replay(**given)


def test_it_is_cancelled():
    with pytest.raises(Cancelled):
        replay("causal()", 64, cancelled=lambda: True)


def test_a_row_that_has_seen_no_key_is_told_without_infinity():
    step = {"first": 0, "last": 15, "kind": "", "loads": [["k", 0, 15, 256]], "max": [None, 1.0], "sum": [0.0, 2.0]}
    record = {"programs": [{"index": [0, 0, 0], "first": 0, "last": 1, "steps": [step]}], "label": "x", "source": "y"}
    (program,) = replay_of(record, bs.TileMap.build(bs.causal(), 16, 16, 16, 16)).programs
    assert program.steps[0].row_max == (float("-inf"), 1.0)
