"""Any mask and any tiles: what is kept, what the tile map says of it, and that text says all of a mask."""

import math

import blockskip as bs
import numpy as np
import oracle
from draws import dense_tables, dilated, examples, kinds, leaves, mask_of, masks, mods, trees
from hypothesis import given
from hypothesis import strategies as st

size = st.integers(1, 70)
tile = st.integers(1, 33)
EXACT = {"band", "causal", "window", "prefix", "sink", "chunked", "document"}


@st.composite
def problems(draw):
    q_len, kv_len = draw(size), draw(size)
    start = draw(st.none() | st.integers(-80, 200))
    return draw(masks(2, 3, q_len, kv_len)), q_len, kv_len, start


@examples(150)
@given(problems(), tile, tile, st.integers(0, 1), st.integers(0, 2))
def test_elements_and_tiles(problem, block_m, block_n, batch, head):
    tree, q_len, kv_len, start = problem
    mask, begin = mask_of(tree), kv_len - q_len if start is None else start
    keep = oracle.kept(tree, 2, 3, q_len, np.arange(kv_len), [begin] * 2)[batch, head]
    assert np.array_equal(mask.dense(q_len, kv_len, start, batch, head).numpy(), keep)

    tm = bs.TileMap.build(mask, q_len, kv_len, block_m, block_n, start, batch, head)
    wanted, found = oracle.states(keep, block_m, block_n), tm.state.numpy()
    exact = kinds(tree) <= EXACT or tree[0] == "dilated"
    assert np.array_equal(found, wanted) if exact else ((found == wanted) | (found == 1)).all()
    assert (tm.rows, tm.cols) == wanted.shape
    assert (tm.visited, tm.full, tm.partial) == ((found > 0).sum(), (found == 2).sum(), (found == 1).sum())
    seen = np.repeat(np.repeat(found > 0, block_m, 0), block_n, 1)[:q_len, :kv_len]
    assert (tm.kept_pairs, tm.visited_pairs) == (keep.sum(), seen.sum())
    assert tm.sparsity == 1 - keep.sum() / keep.size
    assert tm.waste == seen.sum() / keep.sum() if keep.any() else math.isnan(tm.waste)
    row_start, col, is_full = (x.numpy() for x in tm.to_csr())
    again = np.zeros_like(found)
    again[np.repeat(np.arange(tm.rows), np.diff(row_start)), col] = np.where(is_full, 2, 1)
    assert np.array_equal(again, found)


@examples(60)
@given(trees(leaves | dilated | dense_tables(2, 3, 5, 7)), st.integers(-9, 60), st.integers(-9, 60))
def test_text_says_all_of_a_mask(tree, q_start, wide):
    mask = mask_of(tree)
    again = bs.Mask.from_spec(mask.spec())
    assert again == mask and hash(again) == hash(mask) and repr(again) == repr(mask)
    keep = oracle.kept(tree, 2, 3, 5, np.arange(7), [q_start] * 2)
    for b, h in np.ndindex(2, 3):
        assert np.array_equal(again.dense(5, 7, q_start, b, h).numpy(), keep[b, h])


@examples(40)
@given(trees(leaves | dilated | mods), st.integers(1, 50), st.integers(1, 50))
def test_flex_attention_gets_the_same_mask(tree, q_len, kv_len):
    mask = mask_of(tree)
    tm = bs.TileMap.build(mask, q_len, kv_len, 16, 16)
    block = tm.to_block_mask((16, 16))
    keep = oracle.kept(tree, 1, 1, q_len, np.arange(kv_len), [kv_len - q_len])[0, 0]
    visited = block.to_dense()[0, 0].numpy().astype(bool)
    wanted = oracle.states(keep, 16, 16)
    assert visited[wanted > 0].all()
