"""FLOPs and bytes against formulas written out by hand."""

import blockskip as bs
import pytest

LENGTH, WINDOW = 4096, 512
TILES = bs.TileMap.build(bs.sliding_window(WINDOW), LENGTH, LENGTH, 64, 64)
SHAPE = {"batch": 2, "q_heads": 8, "kv_heads": 4, "head_dim": 128, "element_bytes": 2}


@pytest.mark.parametrize("skip", ["none", "mask", "bounds", "map"])
def test_flops(skip):
    work = bs.attention_work(TILES, **SHAPE, skip=skip)
    pair = 4 * 2 * 8 * 128
    assert work.useful_flops == pair * (WINDOW * LENGTH - WINDOW * (WINDOW - 1) // 2)
    assert work.dense_flops == pair * LENGTH * LENGTH
    # a row of 64 queries visits its own tile and the eight before it; the first eight rows have fewer
    tiles = sum(min(r, WINDOW // 64) + 1 for r in range(LENGTH // 64))
    assert work.executed_flops == (work.dense_flops if skip == "none" else pair * tiles * 64 * 64)


def test_bytes_count_what_each_mode_reads():
    moved = {skip: bs.attention_work(TILES, **SHAPE, skip=skip).bytes for skip in ("none", "mask", "bounds", "map")}
    tensors = 2 * 2 * 2 * 128 * LENGTH * (8 + 4)  # 2 e B D L (Hq + Hkv)
    assert moved["bounds"] == tensors
    assert moved["none"] == moved["mask"] == tensors + LENGTH * LENGTH // 8
    assert tensors < moved["map"] < tensors + 65536


def test_keys_that_no_query_sees_are_not_moved():
    tiles = bs.TileMap.build(bs.sliding_window(64), 64, 4096, 64, 64)
    work = bs.attention_work(tiles, 1, 1, 1, 64, 2, skip="bounds")
    assert work.bytes == 2 * 2 * 64 * (64 + 128)  # two tiles of 64 keys hold the windows


def test_an_unknown_skip_is_an_error():
    with pytest.raises(ValueError, match="skip: given 'magic'; allowed are none, mask, bounds, map"):
        bs.attention_work(TILES, **SHAPE, skip="magic")
