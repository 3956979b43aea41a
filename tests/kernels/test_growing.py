"""Calls whose number of keys grows: one launch serves all numbers that a plan does not tell apart, and no other."""

import blockskip as bs
import pytest
import torch
from blockskip.attention.decode import launch as decode_launch
from blockskip.attention.decode import plan as decode_plan
from blockskip.attention.prefill import launch, mask_bits, schedule
from blockskip.launching import repeated
from blockskip.launching.guards import GuardedInt
from blockskip.launching.ready import Ready
from blockskip.launching.repeated import REPEATED, RepeatedCalls, kind_of
from changed_calls import draw, outcome


@pytest.fixture(autouse=True)
def nothing_is_ready():
    REPEATED.clear()


GROWING = {
    "decode": ("decode", 1, {}),
    "decode, window": ("decode", 2, {"window": 70}),
    "decode, splits": ("decode", 8, {"splits": 3}),
    "decode, ring": ("decode", 2, {"window": 63, "ring": True}),
    "decode, a ring that is written over": ("decode", 2, {"window": 200, "ring": True}),
    "attention, one query": ("attention", 1, {"mask": bs.causal()}),
    "attention, one query without a mask": ("attention", 1, {}),
    "attention, few queries, ExecuTorch's rule": ("attention", 1, {"mask": bs.causal(), "route": "executorch"}),
    "attention, prefill's kernel": ("attention", 1, {"mask": bs.sliding_window(40), "route": "prefill"}),
    "attention, decode's kernel": ("attention", 2, {"mask": bs.sliding_window(40), "route": "decode"}),
    "attention, many queries": ("attention", 33, {"mask": bs.sliding_window(30)}),
    "attention, many queries, a ring": ("attention", 16, {"mask": bs.sliding_window(40), "ring": True}),
    "attention, a ring that is written over": ("attention", 16, {"mask": bs.causal(), "ring": True}),
    "attention, one query by a tile map": ("attention", 1, {"mask": bs.sliding_window(30) | bs.sink(4)}),
    "attention, bounds": ("attention", 16, {"skip": "bounds"}),
}


@pytest.mark.parametrize("name", GROWING)
def test_calls_with_a_growing_int_kv_len_launch_what_new_ones_would(device, name, launched, monkeypatch):
    """All launches, their grids, constants, traits and arguments; and the errors, too."""
    operation, q_len, options = GROWING[name]
    call, slots = getattr(bs, operation), 300
    q, k = draw(device, 1, 4, q_len, 16), draw(device, 1, 2, slots, 16)
    alone, made = [], []
    numbers = [n for n in range(-1, slots + 70) if n <= slots + 3 or options.get("ring")] + [1 << 29, (1 << 29) + 1]
    for n in numbers:
        REPEATED.clear()
        alone.append(outcome(call, {"q": q, "k": k, "v": k, "kv_len": n, "impl": "triton", **options}, launched))
    REPEATED.clear()
    for module in (decode_launch, launch):
        monkeypatch.setattr(module, "Ready", lambda *given, **named: made.append(1) or Ready(*given, **named))
    for n, wanted in zip(numbers, alone, strict=True):
        assert outcome(call, {"q": q, "k": k, "v": k, "kv_len": n, "impl": "triton", **options}, launched) == wanted, n
    # splits 1 and 4 to 10, each for numbers that 16 divides and for others; and a ring before and after it is full
    assert len(made) <= 18 and sum(isinstance(wanted[0], list) for wanted in alone) >= 250


def test_a_loop_over_growing_lengths_gives_what_the_reference_gives(device):
    q, k, v = draw(device, 1, 2, 2, 16), draw(device, 1, 1, 300, 16, seed=1), draw(device, 1, 1, 300, 16, seed=2)
    for n in range(1, 301, 3):
        got, want = (bs.decode(q, k, v, kv_len=n, window=250, impl=impl) for impl in ("triton", "reference"))
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


def test_the_cache_honours_a_predicate_that_is_added_to_a_plan(device, launched, monkeypatch):
    """Whatever a plan asks of kv_len tells calls apart, though nothing but the plan knows of it."""
    q, k = draw(device, 1, 4, 40, 16), draw(device, 1, 2, 300, 16)
    arguments = {"q": q, "k": k, "v": k, "mask": bs.sliding_window(30), "impl": "triton"}
    interleaved = schedule.interleaved_heads

    def made_up(call, plan, heads):
        return 4 if plan.kv_len % 7 == 3 or 120 <= plan.kv_len < 130 else interleaved(call, plan, heads)

    monkeypatch.setattr(schedule, "interleaved_heads", made_up)
    check_growing(bs.attention, arguments, range(40, 301), launched)
    grids = {made[0][0][1] for made in growing_outcomes(bs.attention, arguments, range(40, 301), launched)}
    assert len(grids) == 2


def test_the_cache_honours_a_predicate_that_is_added_to_the_splits(device, launched, monkeypatch):
    q, k = draw(device, 1, 4, 1, 16), draw(device, 1, 2, 300, 16)
    chosen = decode_plan.choose_splits
    monkeypatch.setattr(
        decode_plan, "choose_splits", lambda programs, tiles, sms: 2 if tiles % 3 == 1 else chosen(programs, tiles, sms)
    )
    check_growing(bs.decode, {"q": q, "k": k, "v": k, "impl": "triton"}, range(1, 301), launched)


def growing_outcomes(call, arguments, numbers, launched):
    return [outcome(call, {**arguments, "kv_len": n}, launched) for n in numbers]


def check_growing(call, arguments, numbers, launched):
    """Each number alone, and then one after the other, there and back: the same launches."""
    alone = []
    for n in numbers:
        REPEATED.clear()
        alone += growing_outcomes(call, arguments, [n], launched)
    REPEATED.clear()
    for _ in range(2):
        assert growing_outcomes(call, arguments, numbers, launched) == alone


def test_what_a_plan_takes_the_value_of_serves_that_value_alone():
    kept, kind = RepeatedCalls(), kind_of((torch.zeros(2),), ("decode",), "triton")

    def plan(number):
        """A limit, tiles by value in the middle, nothing else."""
        guarded = GuardedInt(number)
        tiles = -(-guarded // 16)
        return (int(tiles) if 100 < guarded <= 200 else 0), guarded.guards

    for number in [*range(1, 400), *range(399, 0, -1)]:
        wanted, guards = plan(number)
        found = kept.get(kind, number)
        if found is None:
            kept.put(kind, lambda wanted=wanted: wanted, guards)
        else:
            assert found() == wanted
    assert kept._by_kind[kind[0]].count == 2 + len({-(-n // 16) for n in range(101, 201)})


def test_a_kind_with_a_plan_for_each_number_stays_bounded():
    kept, kind = RepeatedCalls(), kind_of((torch.zeros(2),), ("decode",), "triton")
    for number in range(3 * repeated.MOST_PREPARED):
        guarded = GuardedInt(number)
        int(guarded)
        kept.put(kind, print, guarded.guards)
        assert kept.get(kind, number) is print and kept._by_kind[kind[0]].count <= repeated.MOST_PREPARED


SINGLE_QUERY_MASKS = {
    "sinks": bs.sliding_window(30) | (bs.sink(4) & bs.causal()),
    "documents": bs.document([50, 70, 60]) & bs.causal(),
    "chunks": bs.chunked(70),
    "prefix": bs.prefix_lm(20) & bs.sliding_window(100),
    "all but chunks": ~bs.chunked(40),
}


@pytest.fixture
def small_tables(monkeypatch):
    """Tables of 64 positions: a few of them serve a test's calls."""
    for module in (mask_bits, launch):
        monkeypatch.setattr(module, "POSITIONS", 64)


@pytest.mark.parametrize("name", SINGLE_QUERY_MASKS)
def test_a_single_query_of_any_position_reads_tables_of_many(device, name, small_tables):
    """Bit for bit what the same kernel gives by a table for that number of keys alone, and the reference's result."""
    mask = SINGLE_QUERY_MASKS[name]
    q, k, v = draw(device, 1, 2, 1, 16), draw(device, 1, 1, 200, 16, seed=1), draw(device, 1, 1, 200, 16, seed=2)
    for n in (1, 16, 63, 64, 65, 129, 200):
        out, lse = bs.attention(q, k, v, mask, kv_len=n, impl="triton", return_lse=True)
        alone, alone_lse = bs.attention(q, k, v, mask, kv_len=n, q_start=n - 1, impl="triton", return_lse=True)
        assert torch.equal(out, alone) and torch.equal(lse, alone_lse), n
        wanted = bs.attention(q, k, v, mask, kv_len=n, impl="reference")
        torch.testing.assert_close(out, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("block_n", [16, 32, 64, 128])
def test_tables_of_positions_serve_tiles_of_any_width(device, block_n, small_tables):
    mask, config = SINGLE_QUERY_MASKS["sinks"], (16, block_n, 4, 1)
    q, k, v = draw(device, 1, 2, 1, 16), draw(device, 1, 2, 200, 16, seed=1), draw(device, 1, 2, 200, 16, seed=2)
    for n in (17, 64, 65, 200):
        out = bs.attention(q, k, v, mask, kv_len=n, impl="triton", config=config)
        assert torch.equal(out, bs.attention(q, k, v, mask, kv_len=n, q_start=n - 1, impl="triton", config=config)), n


@pytest.mark.parametrize("name", SINGLE_QUERY_MASKS)
def test_a_new_kv_len_of_a_single_query_plans_no_tile_map(device, name, launched, monkeypatch):
    """Of a mask that is no band: only the first position in a table makes one."""
    mask = eval(repr(SINGLE_QUERY_MASKS[name]), vars(bs))  # an equal one, which owns nothing
    built = []
    build = mask_bits.TileMap.build
    monkeypatch.setattr(mask_bits.TileMap, "build", lambda *given, **named: built.append(1) or build(*given, **named))
    q, k = draw(device, 1, 4, 1, 16), draw(device, 1, 2, 3000, 16)
    for n in range(1, 3001):
        bs.attention(q, k, k, mask, kv_len=n, impl="triton")
    assert len(launched) == 3000
    assert (
        len(built) <= 3 * 4
    )  # three tables; a launch each for kv_len and q_start that 16 divides, or are 1, or neither


def test_masks_asked_by_the_calls_row_get_a_table_for_each_number(device):
    """A dense mask and a mask_mod look at row 0 of the call, wherever the query stands."""
    q, k, v = draw(device, 1, 2, 1, 16), draw(device, 1, 2, 60, 16, seed=1), draw(device, 1, 2, 60, 16, seed=2)
    keeps = torch.arange(60, device=device) % 3 == 0
    masks = bs.dense(keeps[None]), bs.mask_mod(lambda b, h, q, k: (k >= q) & (k % 3 == 0)), bs.dilated(3)
    for mask in (*masks, bs.dense(keeps[None]) & bs.causal(), bs.dilated(3) | bs.sink(2)):
        assert not mask.is_of_positions
        for n in (1, 2, 17, 60):
            got, want = (bs.attention(q, k, v, mask, kv_len=n, impl=impl) for impl in ("triton", "reference"))
            torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
