"""The number of splits: a table, and FlashAttention-3's rule beside it."""

import pytest
from blockskip.attention.decode.splits import choose_splits, flash_attention_3_splits, tiles_at_most

MANY = 4096

# (programs without splits, tiles at most, multiprocessors) -> ours, FlashAttention-3's
TABLE = [
    ((16, MANY, 132), 8, 8),  # 16 KV heads on an H100 or H200
    ((4, MANY, 132), 33, 29),  # 4 KV heads
    ((2, MANY, 132), 66, 57),
    ((1, MANY, 132), 132, 109),
    ((8, MANY, 132), 16, 15),
    ((64, MANY, 132), 2, 2),  # a batch of 4
    ((67, MANY, 132), 7, 7),  # one wave would leave half of the multiprocessors idle
    ((106, MANY, 132), 1, 1),
    ((132, MANY, 132), 1, 1),
    ((1000, MANY, 132), 1, 1),
    ((16, MANY, 108), 6, 6),  # A100
    ((4, MANY, 108), 27, 23),
    ((16, 17, 132), 8, 7),  # a window of 1024, tiles of 64
    ((4, 17, 132), 17, 15),
    ((16, 3, 132), 1, 1),
    ((16, 4, 132), 4, 1),
    ((16, 1, 132), 1, 1),
    ((16, 5, 132), 5, 5),
    ((1, MANY, 1), 1, 1),
]


@pytest.mark.parametrize(("given", "ours", "theirs"), TABLE)
def test_the_table(given, ours, theirs):
    assert choose_splits(*given) == ours
    assert flash_attention_3_splits(*given) == theirs


@pytest.mark.parametrize("multiprocessors", [1, 46, 108, 132, 170])
def test_splits_are_at_least_one_at_most_the_tiles_and_keep_the_device_busy(multiprocessors):
    for programs in range(1, 300):
        for tiles in (1, 4, 5, 8, 64, MANY):
            splits = choose_splits(programs, tiles, multiprocessors)
            assert 1 <= splits <= max(tiles, 1)
            if tiles == MANY and programs < 0.8 * multiprocessors:
                waves = programs * splits / multiprocessors
                assert waves / -(-programs * splits // multiprocessors) >= 0.8, (programs, multiprocessors)


def test_tiles_that_a_window_can_touch():
    assert tiles_at_most(4096, 1, None, 64) == 64
    assert tiles_at_most(4097, 1, None, 64) == 65
    assert tiles_at_most(100_000, 1, 1, 64) == 1
    assert tiles_at_most(100_000, 1, 64, 64) == 2
    assert tiles_at_most(100_000, 1, 1024, 64) == 17
    assert tiles_at_most(100_000, 8, 1024, 64) == 18
    assert tiles_at_most(100, 8, 1024, 64) == 2


@pytest.mark.parametrize(
    ("q_len", "window", "block_n"), [(1, 1, 16), (1, 16, 16), (3, 17, 16), (8, 40, 32), (5, 33, 64)]
)
def test_tiles_at_most_is_reached_and_never_passed(q_len, window, block_n):
    touched = [(n - 1) // block_n - max(n - q_len - window + 1, 0) // block_n + 1 for n in range(1, 500)]
    assert max(touched) == tiles_at_most(500, q_len, window, block_n)


def test_a_large_buffer_with_few_keys_takes_as_many_splits_as_any():
    assert choose_splits(16, tiles_at_most(131_072, 1, None, 64), 132) == 8  # all of them share the keys, however few
