"""Masks: what each keeps, how they combine, and that they survive being written as text."""

import pickle

import blockskip as bs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

limit = st.one_of(st.none(), st.integers(-6, 20))
edge_masks = st.one_of(
    st.builds(bs.band, limit, limit),
    st.builds(bs.sliding_window, st.integers(1, 30)),
    st.builds(bs.prefix_lm, st.integers(0, 20)),
    st.builds(bs.sink, st.integers(0, 9)),
    st.builds(bs.chunked, st.integers(1, 12)),
    st.builds(bs.document, st.lists(st.integers(1, 12), min_size=1, max_size=5)),
)


def composed(leaves):
    return st.recursive(
        leaves,
        lambda m: st.one_of(
            st.builds(lambda a, b: a & b, m, m), st.builds(lambda a, b: a | b, m, m), st.builds(lambda a: ~a, m)
        ),
        max_leaves=6,
    )


masks = composed(st.one_of(edge_masks, st.builds(bs.dilated, st.integers(1, 9))))
Q = torch.arange(-5, 40)[:, None]
K = torch.arange(0, 37)[None]


@pytest.mark.parametrize(
    ("mask", "rule"),
    [
        (bs.band(5, 2), lambda q, k: -2 <= q - k <= 5),
        (bs.band(None, -3), lambda q, k: q - k >= 3),
        (bs.causal(), lambda q, k: k <= q),
        (bs.sliding_window(4), lambda q, k: 0 <= q - k < 4),
        (bs.prefix_lm(6), lambda q, k: k <= q or k < 6),
        (bs.sink(3), lambda q, k: k < 3),
        (bs.chunked(8), lambda q, k: q // 8 == k // 8),
        (bs.dilated(3), lambda q, k: (q - k) % 3 == 0),
        (bs.document([4, 6, 3]), lambda q, k: any(a <= q < b and a <= k < b for a, b in ((0, 4), (4, 10), (10, 13)))),
    ],
)
def test_each_kind_keeps_what_its_sentence_says(mask, rule):
    expected = torch.tensor([[rule(q, k) for k in K[0].tolist()] for q in Q[:, 0].tolist()])
    assert torch.equal(mask.keep(Q, K), expected)


@pytest.mark.parametrize(
    "mask", [bs.band(1 << 40, 1 << 40), bs.prefix_lm(1 << 40), bs.sink(1 << 40), bs.chunked(1 << 40)]
)
def test_positions_of_32_bits_are_compared_with_larger_limits(mask):
    q, k = Q.clamp(min=0), K
    assert mask.keep(q.int(), k.int()).all() and torch.equal(mask.keep(q.int(), k.int()), mask.keep(q, k))


@given(masks, masks)
@settings(max_examples=200, deadline=None)
def test_algebra_is_that_of_sets(a, b):
    ka, kb = a.keep(Q, K), b.keep(Q, K)
    assert torch.equal((a & b).keep(Q, K), ka & kb)
    assert torch.equal((a | b).keep(Q, K), ka | kb)
    assert torch.equal((~a).keep(Q, K), ~ka)


@given(masks)
@settings(max_examples=200, deadline=None)
def test_text_and_pickle_give_the_same_mask_back(mask):
    assert bs.Mask.from_spec(mask.spec()) == mask
    assert pickle.loads(pickle.dumps(mask)) == mask
    assert hash(bs.Mask.from_spec(mask.spec())) == hash(mask)


def test_bands_combine_into_bands():
    assert bs.causal() & bs.band(9, None) == bs.sliding_window(10)
    assert isinstance(bs.causal() & bs.sliding_window(7), bs.Band)
    assert bs.band(5, 0) | bs.band(9, -6) == bs.band(9, 0)  # they touch
    assert not isinstance(bs.band(5, 0) | bs.band(9, -7), bs.Band)  # a diagonal between them stays out
    assert ~bs.causal() == bs.band(-1, None)
    assert ~~bs.sliding_window(4) == bs.sliding_window(4)
    assert bs.band(None, None) & bs.sink(2) == bs.sink(2)
    assert bs.dilated(1) == bs.band(None, None)


def test_names_are_short():
    assert repr(bs.sliding_window(8) | (bs.sink(4) & bs.causal())) == "sliding_window(8) | (sink(4) & causal())"
    assert len(repr(bs.document([7] * 1000))) < 60
    assert repr(bs.dense(torch.ones(3, 5, dtype=torch.bool))) == "dense(1x1x3x5)"


def test_a_dense_mask_is_indexed_by_the_calls_rows_and_copied():
    tensor = torch.rand(6, 9) < 0.5
    mask = bs.dense(tensor)
    kept = tensor.clone()
    tensor.zero_()
    assert torch.equal(mask.dense(6, 9, q_start=100), kept)
    assert mask == bs.dense(kept) and mask != bs.dense(~kept)
    text, tensors = (mask & bs.causal()).spec()
    assert bs.Mask.from_spec((text, tensors)) == mask & bs.causal()
    with pytest.raises(ValueError, match="dense has 6 query rows"):
        mask.dense(5, 9)


def test_a_mask_mod_says_what_it_depends_on():
    assert bs.mask_mod(lambda b, h, q, k: q >= k).varies == (False, False)
    assert bs.mask_mod(lambda b, h, q, k: (q >= k) & (h > 0)).varies == (False, True)
    assert bs.mask_mod(lambda b, h, q, k: (lambda: b)() == q).varies == (True, False)
    assert bs.mask_mod(lambda *args: args[2] >= args[3]).varies == (True, True)
    with pytest.raises(ValueError, match="no text"):
        bs.mask_mod(lambda b, h, q, k: q >= k).spec()


@given(masks, st.integers(-4, 9))
@settings(max_examples=50, deadline=None)
def test_the_mask_mod_of_a_mask_is_the_mask(mask, q_start):
    mod = mask.mod(q_start)
    rows = torch.arange(12)[:, None]
    kept = mod(torch.tensor(0), torch.tensor(0), rows, torch.arange(20)[None]).expand(12, 20)
    assert torch.equal(kept, mask.dense(12, 20, q_start))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: bs.sliding_window(0), ValueError, "window: given 0; must be at least 1"),
        (lambda: bs.sliding_window(2.5), TypeError, "window: given 2.5; an int is needed"),
        (lambda: bs.sink(-1), ValueError, "count: given -1"),
        (lambda: bs.document([]), ValueError, "lengths"),
        (lambda: bs.document([3, 0]), ValueError, "lengths: given 0"),
        (lambda: bs.dense(torch.ones(3, 3)), TypeError, "float32; a bool tensor"),
        (lambda: bs.dense(torch.ones(3, dtype=torch.bool)), ValueError, r"shape \(3,\)"),
        (lambda: bs.mask_mod(3), TypeError, "fn: given int"),
        (lambda: bs.causal() & 3, TypeError, "unsupported operand"),
        (lambda: bs.Mask.from_spec("__import__('os')"), ValueError, "cannot read"),
        (lambda: bs.Mask.from_spec("causal() &"), ValueError, "is not a mask"),
        (lambda: bs.Mask.from_spec("sliding_window(0)"), ValueError, "must be at least 1"),
    ],
)
def test_errors_name_the_argument(make, error, message):
    with pytest.raises(error, match=message):
        make()
