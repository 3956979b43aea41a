"""Tile maps against the mask's own elements: states, counts, runs, and what is made of them."""

import math

import blockskip as bs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_mask import composed, edge_masks

size = st.integers(1, 40)
tile = st.integers(1, 12)
start = st.one_of(st.none(), st.integers(-20, 40))


def truth(mask, q_len, kv_len, block_m, block_n, q_start):
    kept = mask.dense(q_len, kv_len, q_start).numpy()
    state = np.zeros((-(-q_len // block_m), -(-kv_len // block_n)), np.uint8)
    for r, c in np.ndindex(state.shape):
        part = kept[r * block_m : (r + 1) * block_m, c * block_n : (c + 1) * block_n]
        state[r, c] = 2 if part.all() else int(part.any())
    return state, int(kept.sum())


def check_counts(tm, state, kept):
    assert tm.kept_pairs == kept
    assert tm.sparsity == 1 - kept / (tm.q_len * tm.kv_len)
    assert (tm.full, tm.partial, tm.visited) == ((tm.state == 2).sum(), (tm.state == 1).sum(), (tm.state != 0).sum())
    real = np.ones((tm.q_len, tm.kv_len))
    rows, cols = np.arange(tm.q_len) // tm.block_m, np.arange(tm.kv_len) // tm.block_n
    visited = int((real * (tm.state.numpy() != 0)[rows][:, cols]).sum())
    assert tm.visited_pairs == visited
    assert tm.waste == visited / kept if kept else math.isnan(tm.waste)
    row_start, col, is_full = tm.to_csr()
    again = np.zeros_like(state)
    for r in range(tm.rows):
        for i in range(row_start[r], row_start[r + 1]):
            again[r, col[i]] = 2 if is_full[i] else 1
    assert np.array_equal(again, tm.state.numpy())


@given(composed(edge_masks), size, size, tile, tile, start)
@settings(max_examples=400, deadline=None)
def test_states_and_counts_are_exact(mask, q_len, kv_len, block_m, block_n, q_start):
    state, kept = truth(mask, q_len, kv_len, block_m, block_n, q_start)
    tm = bs.TileMap.build(mask, q_len, kv_len, block_m, block_n, q_start)
    assert np.array_equal(tm.state.numpy(), state)
    check_counts(tm, state, kept)


@given(st.integers(1, 30), size, size, tile, tile, start)
@settings(max_examples=200, deadline=None)
def test_one_dilated_is_exact(stride, q_len, kv_len, block_m, block_n, q_start):
    mask = bs.dilated(stride)
    state, kept = truth(mask, q_len, kv_len, block_m, block_n, q_start)
    tm = bs.TileMap.build(mask, q_len, kv_len, block_m, block_n, q_start)
    assert np.array_equal(tm.state.numpy(), state)
    check_counts(tm, state, kept)


@given(composed(st.one_of(edge_masks, st.builds(bs.dilated, st.integers(2, 9)))), size, size, tile, tile, start)
@settings(max_examples=200, deadline=None)
def test_dilated_among_others_may_be_partial_but_counts_are_exact(mask, q_len, kv_len, block_m, block_n, q_start):
    state, kept = truth(mask, q_len, kv_len, block_m, block_n, q_start)
    tm = bs.TileMap.build(mask, q_len, kv_len, block_m, block_n, q_start)
    found = tm.state.numpy()
    assert ((found == state) | (found == 1)).all()
    check_counts(tm, state, kept)


@given(st.integers(0, 99), st.sampled_from([0.02, 0.5, 0.98]), edge_masks, size, size, tile, tile)
@settings(max_examples=100, deadline=None)
def test_masks_by_elements_are_exact(seed, share, other, q_len, kv_len, block_m, block_n):
    kept = torch.rand(q_len, kv_len, generator=torch.Generator().manual_seed(seed)) < share
    mod = bs.mask_mod(lambda b, h, q, k: kept[q, k])
    for mask in (bs.dense(kept) | other, mod & other):
        state, pairs = truth(mask, q_len, kv_len, block_m, block_n, None)
        tm = bs.TileMap.build(mask, q_len, kv_len, block_m, block_n)
        assert np.array_equal(tm.state.numpy(), state)
        check_counts(tm, state, pairs)


def test_a_dense_mask_has_a_map_for_each_batch_and_head():
    kept = torch.rand(2, 3, 20, 30) < 0.1
    for b in range(2):
        for h in range(3):
            tm = bs.TileMap.build(bs.dense(kept), 20, 30, 4, 4, batch=b, head=h)
            assert tm.kept_pairs == kept[b, h].sum()


def test_strides_whose_pattern_is_too_long_to_tabulate_are_still_counted():
    mask = (bs.dilated(2**13) | bs.dilated(3**8)) & bs.causal()
    tm = bs.TileMap.build(mask, 300, 9000, 64, 64)
    assert tm.kept_pairs == mask.dense(300, 9000).sum()


def test_a_ragged_edge_tile_whose_real_elements_are_kept_is_full():
    tm = bs.TileMap.build(bs.band(None, None), 130, 130, 64, 64)
    assert (tm.state == 2).all() and tm.sparsity == 0 and tm.waste == 1


@pytest.mark.parametrize("length", [131_072, 1_048_576])
def test_long_maps_know_their_counts_without_looking_at_elements(length):
    window, count = 1024, 4
    tm = bs.TileMap.build(bs.sliding_window(window), length, length, 64, 64)
    band = window * length - window * (window - 1) // 2
    assert tm.kept_pairs == band
    tm = bs.TileMap.build(bs.sliding_window(window) | (bs.sink(count) & bs.causal()), length, length, 64, 64)
    # query q sees sink key s beside its window once s is older than the window: q >= s + window
    assert tm.kept_pairs == band + sum(length - (s + window) for s in range(count))


@given(edge_masks, size, size)
@settings(max_examples=50, deadline=None)
def test_a_tile_opened_is_the_masks_own(mask, q_len, kv_len):
    tm = bs.TileMap.build(mask, q_len, kv_len, 7, 5)
    kept = mask.dense(q_len, kv_len).numpy()
    r, c = tm.rows - 1, tm.cols - 1
    assert np.array_equal(tm.tile(r, c), kept[r * 7 :, c * 5 :])


def test_the_picture_tells_empty_partial_and_full_apart():
    picture = str(bs.TileMap.build(bs.sliding_window(100), 400, 400, 16, 16))
    assert {"·", "▒", "█"} <= set(picture)
    assert "125 of 625" not in picture and "tiles visited" in picture
    html = bs.TileMap.build(bs.sliding_window(100), 400, 400, 16, 16)._repr_html_()
    assert "<svg" in html and "aria-label" in html
    assert len(str(bs.TileMap.build(bs.causal(), 100_000, 100_000, 64, 64))) < 5000


@pytest.mark.parametrize("block", [None, (32, 16)])
def test_the_block_mask_is_flex_attentions_own(block):
    from torch.nn.attention.flex_attention import create_block_mask

    mask = bs.sliding_window(40) | (bs.sink(4) & bs.causal())
    tm = bs.TileMap.build(mask, 128, 192, 32, 32)
    ours = tm.to_block_mask(block)
    m, n = block or (32, 32)
    theirs = create_block_mask(mask.mod(64), None, None, 128, 192, device="cpu", BLOCK_SIZE=(m, n))
    assert torch.equal(ours.to_dense(), theirs.to_dense())
    assert ours.sparsity() == pytest.approx(theirs.sparsity())
    for name in ("kv_num_blocks", "full_kv_num_blocks"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_flex_attention_computes_with_our_block_mask():
    from torch.nn.attention.flex_attention import flex_attention

    mask = bs.document([50, 78]) & bs.causal()
    q, k, v = (torch.randn(1, 2, 128, 16) for _ in range(3))
    block_mask = bs.TileMap.build(mask, 128, 128, 32, 32).to_block_mask()
    out = flex_attention(q, k, v, block_mask=block_mask)
    torch.testing.assert_close(out, bs.attention(q, k, v, mask, impl="reference"), atol=1e-5, rtol=1e-5)


def test_the_same_question_is_answered_once():
    assert bs.TileMap.build(bs.causal(), 999, 999) is bs.TileMap.build(bs.causal(), 999, 999)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((bs.causal(), 0, 8), ValueError, "q_len: given 0; must be at least 1"),
        ((bs.causal(), 8, 8, 0), ValueError, "block_m: given 0"),
        ((bs.causal(), 8, 8.5), TypeError, "kv_len: given 8.5"),
        (("causal", 8, 8), TypeError, "mask: given str"),
    ],
)
def test_errors_name_the_argument(arguments, error, message):
    with pytest.raises(error, match=message):
        bs.TileMap.build(*arguments)
