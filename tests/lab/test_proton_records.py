"""Proton's records as they lie in memory: read into seconds, past clocks and rings that run over, and lost ends."""

from __future__ import annotations

import dataclasses
import itertools
import re
import sys
from pathlib import Path

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("Triton's Proton exists for Linux alone", allow_module_level=True)

from skiplab.replay.proton import PREAMBLE, RawRecords, timeline_of, timelines_of

GHZ = 1.98
SCOPES = {0: "item", 1: "copies"}


def ring(*records, capacity):
    """(words written, words) of a warp that wrote these records: (scope, is the end, clock)."""
    words = np.zeros(capacity, np.uint32)
    for number, (scope, is_end, clock) in enumerate(records):
        at = 2 * number % capacity
        words[at : at + 2] = is_end << 31 | scope << 23, clock % (1 << 32)
    return 2 * len(records), words


def launch(blocks, capacity=16):
    """Records of blocks: (block, SM, begin in ns, end in ns, rings of its warps)."""
    headers, counts, rings = [], [], []
    for block, sm, begin, end, warps in blocks:
        times = [part for ns in (begin, end, end + 500) for part in (ns & 0xFFFFFFFF, ns >> 32)]
        headers.append([PREAMBLE, block, sm, 4 * capacity * len(warps), *times])
        made = [ring(*one, capacity=capacity) for one in warps]
        counts.append([count for count, _ in made])
        rings.append([words for _, words in made])
    made = [np.array(one, np.uint32) for one in (headers, counts, rings)]
    return RawRecords("prefill", SCOPES, made[0], made[1], made[2], capacity)


def span(scope, first, last):
    return (scope, 0, first), (scope, 1, last)


def cycles(ns):
    return round(ns * GHZ)


ZERO = (1 << 32) - 3000
"""A clock that runs over in the course of a block, and a timer beyond 32 bits."""
BEGIN = 7 << 32


def two_blocks():
    return launch([
        (5, 12, BEGIN, BEGIN + 20_000, [
            [*span(0, ZERO, ZERO + cycles(8_000)), *span(0, ZERO + cycles(9_000), ZERO + cycles(20_000))],
            [*span(1, ZERO + cycles(1_000), ZERO + cycles(2_000))],
        ]),
        (6, 12, BEGIN + 20_992, BEGIN + 30_992, [span(0, 100, 100 + cycles(10_000)), []]),
    ])  # fmt: skip


def test_blocks_begin_by_the_timer_and_last_by_their_cycles():
    made = timeline_of(two_blocks())
    found = [(one.sm, one.block, one.warp, one.name) for one in made.spans]
    assert found == [(12, 5, 0, "item"), (12, 5, 0, "item"), (12, 5, 1, "copies"), (12, 6, 0, "item")]
    times = [(one.start * 1e9, one.end * 1e9) for one in made.spans]
    expected = [(0, 8_000), (9_000, 20_000), (1_000, 2_000), (20_992, 30_992)]
    assert np.array(times) == pytest.approx(np.array(expected), abs=1.0)  # a cycle takes half a nanosecond
    assert [one.block for one in made.blocks] == [5, 6]
    assert made.clock == "cycles at 1,980 MHz, by the GPU's timer"
    assert made.lost == 0


def test_warps_whose_records_were_written_over_keep_the_last_ones():
    many = [one for i in range(6) for one in span(0, cycles(1000 * i), cycles(1000 * i + 500))]
    made = timeline_of(launch([(0, 0, 0, 5_500, [many, [*span(1, 0, cycles(5_500))]])], capacity=8))
    kept = [one for one in made.spans if one.warp == 0]
    assert [round(one.start * 1e9) for one in kept] == [4_000, 5_000]
    assert made.lost == 8  # 12 records were written, 4 have room
    assert "8 records lost" in str(made)


def test_a_record_without_its_other_end_is_left_out():
    half = [(0, 1, 50), *span(0, 100, cycles(1000) + 100), (0, 0, cycles(1100))]
    made = timeline_of(launch([(0, 3, 0, 1000, [half])]))
    assert len(made.spans) == 1 and made.seconds == pytest.approx(1e-6, rel=1e-3)


def test_memory_that_no_block_wrote_is_left_out():
    raw = two_blocks()
    headers = raw.headers.copy()
    headers[0, 0] = 0x7F7F7F7F
    made = timeline_of(dataclasses.replace(raw, headers=headers))
    assert [one.block for one in made.blocks] == [6] and made.spans[0].start == 0


def test_a_kernel_that_is_launched_again_has_a_number():
    assert list(timelines_of([two_blocks(), two_blocks()])) == ["prefill", "prefill 2"]
    with pytest.raises(ValueError, match="launched no Triton kernel that names parts of itself"):
        timelines_of([])
    with pytest.raises(ValueError, match="hold no block that took any time"):
        timeline_of(launch([(0, 0, 0, 0, [[]])]))


@pytest.fixture(scope="module")
def recorded():
    """kind -> what Triton 3.6.0 recorded of our prefill kernel on an NVIDIA H200: some SMs of one launch.

    8,192 queries of 8 heads of 128, a window of 1,024. Launches of seconds after the last: clocks were not up.
    """
    held = np.load(Path(__file__).with_name("records") / "h200.npz")

    def of(kind, scopes):
        headers, counts, rings = (held[f"{kind}_{name}"] for name in ("headers", "counts", "rings"))
        return RawRecords("prefill", scopes, headers, counts, rings, int(held[f"{kind}_capacity"]))

    return of


def test_blocks_of_an_h200_follow_each_other_on_their_multiprocessors(recorded):
    """Tiles of 128 x 64: a program a block of queries; three or four on an SM, one after the other."""
    made = timeline_of(recorded("plain", {0: "program"}))
    assert made.sms == (0, 1, 124) and len(made.spans) == 8 * len(made.blocks)
    for sm in made.sms:
        own = [one for one in made.blocks if one.sm == sm]
        assert 3 <= len(own) <= 4
        assert all(before.end < after.start for before, after in itertools.pairwise(own))
    assert 1_600 < clock_of(made) < 1_985
    assert 50e-6 < made.seconds < 120e-6


def test_warps_of_an_h200_do_what_they_are_specialized_for(recorded):
    """12 warps: two groups of four compute item after item, one copies for them."""
    made = timeline_of(recorded("hopper", {0: "item", 1: "item", 2: "copies"}))
    assert {one.name for one in made.spans if one.warp < 8} == {"item"}
    assert {(one.name, one.warp) for one in made.spans if one.warp >= 8} == {("copies", 10)}
    for block in made.blocks:
        items = [one for one in made.spans if (one.sm, one.warp) == (block.sm, 0)]
        assert 3 <= len(items) <= 5
        assert all(before.end <= after.start for before, after in itertools.pairwise(items))


def clock_of(made):
    return int(re.sub(r"\D", "", made.clock))
