"""A cache that is a ring: equal, bit for bit, to the same call on an endless cache, and right against float64."""

import math

import blockskip as bs
import pytest
import torch
from blockskip.attention import ring

IMPLS = ["tiled", "triton"]
SMALL = (16, 16, 1, 1)
STARTS = (0, 100, 374, 750, 812, 1000, 1496)  # the reference system's, with a buffer of 1500 and a window of 750
SLOTS, WINDOW = 1500, 750


def draw(device, kv_len, *, q_len=1, batch=1, heads=(2, 1), head_dim=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(kv_len)
    sizes = ((heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len))
    made = (torch.randn((batch, h, n, head_dim), generator=generator) for h, n in sizes)
    return tuple(t.to(device, dtype) for t in made)


def rolled(x, slots):
    """[.., slots, D]: the ring after all of x's positions [.., kv_len, D] were written to it; NaN where none was."""
    out = torch.full((*x.shape[:2], slots, x.shape[3]), math.nan, dtype=x.dtype, device=x.device)
    for first in range(0, x.shape[2], slots):
        piece = x[:, :, first : first + slots]
        out[:, :, : piece.shape[2]] = piece
    return out


def error(out, q, k, v, mask, **sizes):
    """The largest difference from the float64 reference on the endless cache."""
    truth = bs.attention(*(t.double().cpu() for t in (q, k, v)), mask, impl="reference", **sizes)
    return (out.double().cpu() - truth).abs().max().item()


def same(call, q, k, v, slots, *arguments, **named):
    """The call on the ring, having checked that out and lse are those on the endless cache, bit for bit."""
    expected = call(q, k, v, *arguments, return_lse=True, **named)
    ringed = (rolled(x, slots) for x in (k, v))
    got = call(q, *ringed, *arguments, return_lse=True, ring=True, kv_len=k.shape[2], **named)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert got[0].isfinite().all()
    return got[0]


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("q_len", [1, 5, 8, 64, 374])
def test_prefill_chunks_at_the_reference_systems_start_positions(device, impl, q_len):
    """The interpreter is slow: it takes the starts before, across and behind the wrap."""
    config = (64, 64, 4, 1) if impl == "triton" else None
    starts = STARTS if impl == "tiled" or device == "cuda" else (1496,) if q_len > 64 else (0, 812, 1496)
    for start in starts:
        q, k, v = draw(device, start + q_len, q_len=q_len)
        out = same(bs.attention, q, k, v, SLOTS, bs.sliding_window(WINDOW), impl=impl, config=config, route="prefill")
        assert error(out, q, k, v, bs.sliding_window(WINDOW)) < 1e-5


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("start", STARTS)
def test_decode_at_the_reference_systems_start_positions(device, impl, start):
    for q_len in (1, 8):
        q, k, v = draw(device, start + q_len, q_len=q_len, heads=(3, 1))
        out = same(bs.decode, q, k, v, SLOTS, window=WINDOW, impl=impl, splits=3)
        assert error(out, q, k, v, bs.sliding_window(WINDOW)) < 1e-5


@pytest.mark.parametrize(("slots", "kv_len"), [(40, 40), (40, 41), (40, 80), (40, 131), (7, 50), (16, 50), (17, 17)])
def test_every_way_to_skip_in_awkward_rings(device, slots, kv_len):
    """Rings shorter than a tile of 16 keys as well, exactly full, one more, twice full."""
    q_len = min(5, slots - 2)
    q, k, v = draw(device, kv_len, q_len=q_len, heads=(3, 1))
    mask = bs.sliding_window(slots - q_len + 1)
    expected = bs.attention(q, k, v, mask, impl="triton", config=SMALL)
    assert error(expected, q, k, v, mask) < 1e-5
    sizes = {"kv_len": kv_len, "ring": True}
    for skip in ("none", "mask", "bounds", "map"):
        out = bs.attention(q, rolled(k, slots), rolled(v, slots), mask, impl="triton", skip=skip, config=SMALL, **sizes)
        assert torch.equal(out, expected), skip


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("slots", "kv_len"), [(1, 9), (7, 50), (31, 32), (32, 64), (40, 40), (40, 41), (70, 203)])
def test_decode_in_awkward_rings(device, impl, slots, kv_len):
    for q_len in (1, 2, 8):
        window = slots - q_len + 1
        if window >= 1:
            q, k, v = draw(device, kv_len, q_len=q_len, heads=(3, 1), head_dim=24)
            out = same(bs.decode, q, k, v, slots, window=window, impl=impl, splits=2)
            assert error(out, q, k, v, bs.sliding_window(window)) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(device, dtype):
    q, k, v = draw(device, 203, q_len=5, heads=(4, 2), dtype=dtype)
    for impl in IMPLS:
        same(bs.attention, q, k, v, 70, bs.sliding_window(60), impl=impl, route="prefill")
        same(bs.decode, q, k, v, 70, window=60, impl=impl)


@pytest.mark.parametrize("impl", IMPLS)
def test_before_the_ring_is_full_any_mask_goes_and_unwritten_slots_hold_nan(device, impl):
    q, k, v = draw(device, 33, q_len=20)
    config = SMALL if impl == "triton" else None
    for mask in (None, bs.causal(), bs.sliding_window(9) | bs.sink(3), ~bs.sliding_window(4), bs.dilated(3)):
        out = same(bs.attention, q, k, v, 40, mask, impl=impl, config=config)
        assert error(out, q, k, v, mask) < 1e-5


@pytest.mark.parametrize("impl", IMPLS)
def test_any_mask_that_sees_no_overwritten_key(device, impl):
    q, k, v = draw(device, 101, q_len=5, heads=(4, 2))
    config = SMALL if impl == "triton" else None
    table = torch.zeros(1, 4, 5, 101, dtype=torch.bool)
    table[0, :2, :, 70:90], table[0, 2:, :, 61:] = True, True
    document = bs.document([64, 20, 17]) & bs.causal()
    for mask in (bs.chunked(32) & bs.causal(), document, bs.dense(table), bs.sliding_window(30) & bs.dilated(2)):
        out = same(bs.attention, q, k, v, 40, mask, impl=impl, config=config)
        assert error(out, q, k, v, mask) < 1e-5


@pytest.mark.parametrize("mask", [bs.causal(), bs.band(30, -2), bs.band(None, -3)], ids=repr)
def test_a_query_that_sees_no_key_at_all_sees_no_overwritten_one(mask):
    q, k, v = draw("cpu", 40, q_len=3, heads=(1, 1))
    for impl in ("reference", "tiled"):
        words = {"kv_len": 60, "ring": True, "impl": impl, "return_lse": True}
        out, lse = bs.attention(q, k, v, mask, q_start=-3, **words)
        assert not out.any() and (lse == -math.inf).all()
        with pytest.raises(ValueError, match="sees key 0, which is overwritten"):
            bs.attention(q, k, v, mask, q_start=1, **words)


def test_the_reference_goes_by_positions(device):
    """In another order than the endless cache's, so that sums of float64 differ in their last bits."""
    q, k, v = (t.double() for t in draw(device, 101, q_len=5, heads=(4, 2)))
    for mask in (bs.sliding_window(30), bs.chunked(32) & bs.causal()):
        expected = bs.attention(q, k, v, mask, impl="reference")
        got = bs.attention(q, rolled(k, 40), rolled(v, 40), mask, impl="reference", kv_len=101, ring=True)
        torch.testing.assert_close(got, expected, atol=1e-13, rtol=0)


@pytest.mark.parametrize("impl", ["reference", "tiled", "triton"])
def test_lengths_on_the_device_change_between_calls(device, impl):
    """One tensor, written anew before each call; a length for each batch entry, 0 and one shorter than Lq too."""
    if impl == "tiled" and device == "cuda":
        pytest.skip("tiled does not read a kv_len tensor back from a GPU")
    slots, window, q_len = 40, 30, 3
    length = torch.zeros(2, dtype=torch.int32, device=device)
    for lengths in ((5, 40), (41, 80), (203, 2), (0, 1000)):
        q, k, v = draw(device, max(lengths), q_len=q_len, batch=2, heads=(4, 2))
        ringed = [torch.cat([rolled(x[b : b + 1, :, :n], slots) for b, n in enumerate(lengths)]) for x in (k, v)]
        length.copy_(torch.tensor(lengths, dtype=torch.int32))
        truth = bs.attention(
            *(t.double().cpu() for t in (q, k, v)), bs.sliding_window(window), impl="reference", kv_len=length.cpu()
        )
        decoded = bs.decode(q, *ringed, kv_len=length, window=window, impl=impl, ring=True)
        attended = bs.attention(
            q, *ringed, bs.sliding_window(window), kv_len=length, impl=impl, ring=True, route="prefill"
        )
        for out in (decoded, attended):
            assert (out.double().cpu() - truth).abs().max() < 1e-5


def test_lengths_on_the_device_are_bounded_for_memory_safety(device):
    q, k, v = draw(device, 40, batch=2)
    length = torch.tensor([(1 << 31) - 1, -7], dtype=torch.int32, device=device)
    bounded = torch.tensor([1 << 29, 0], dtype=torch.int32, device=device)
    for call in (bs.decode, bs.attention):
        named = {"window": 30} if call is bs.decode else {"mask": bs.sliding_window(30), "route": "prefill"}
        got, expected = (call(q, k, v, kv_len=n, impl="triton", ring=True, **named) for n in (length, bounded))
        assert torch.equal(got, expected) and got.isfinite().all() and (got[1] == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_positions_up_to_the_largest(device, impl):
    """Positions matter only by their differences and their slots: 2**29 keys are as 2**29 - 64 * 40."""
    q, k, v = draw(device, 40, q_len=2, heads=(4, 2))
    far, near = 1 << 29, (1 << 29) % (64 * 40) + 64 * 40
    for call in (bs.decode, bs.attention):
        named = {"window": 30} if call is bs.decode else {"mask": bs.sliding_window(30), "route": "prefill"}
        got, expected = (call(q, k, v, kv_len=n, impl=impl, ring=True, **named) for n in (far, near))
        assert torch.equal(got, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_and_expanded_rings(device, impl):
    q, k, v = draw(device, 101, q_len=3, batch=2, heads=(4, 2))
    both = torch.stack([rolled(k, 40), rolled(v, 40)], 3).permute(0, 2, 3, 1, 4).contiguous()  # [B, R, k or v, H, D]
    strided = (both[:, :, i].transpose(1, 2) for i in (0, 1))
    expected = bs.decode(q, k, v, window=30, impl=impl)
    assert torch.equal(bs.decode(q, *strided, kv_len=101, window=30, impl=impl, ring=True), expected)
    row = k[:, :, :1].expand(-1, -1, 40, -1)
    out = bs.attention(q, row, row, bs.sliding_window(30), kv_len=90, impl=impl, ring=True)
    torch.testing.assert_close(out, row[:, :, :3].repeat_interleave(2, 1), atol=1e-5, rtol=1e-5)


def test_a_visible_nan_shows_and_an_overwritten_key_is_gone(device):
    q, k, v = draw(device, 101, heads=(2, 2))
    k[0, 0, 60], v[0, 0, 60] = math.nan, math.nan  # the ring of 40 holds the keys from 61 on
    assert bs.decode(q, rolled(k, 40), rolled(v, 40), kv_len=101, window=40, impl="triton", ring=True).isfinite().all()
    k[0, 0, 61] = math.nan
    out = bs.decode(q, rolled(k, 40), rolled(v, 40), kv_len=101, window=40, impl="triton", ring=True)
    assert out[0, 0].isnan().all() and out[0, 1].isfinite().all()


def test_tiled_reads_the_window_and_not_the_ring():
    """The ring has 2**28 slots, all the same memory: whatever went over all of them would never end."""
    row = torch.randn((1, 2, 1, 16), generator=torch.Generator().manual_seed(0))
    slots = 1 << 28
    buffer = row.expand(1, 2, slots, 16)
    for call in (
        lambda q: bs.decode(q, buffer, buffer, window=1024, kv_len=slots + 500, impl="tiled", ring=True),
        lambda q: bs.attention(q, buffer, buffer, bs.sliding_window(1024), kv_len=slots + 500, impl="tiled", ring=True),
    ):
        out = call(torch.ones(1, 4, 3, 16))
        torch.testing.assert_close(out, row.repeat_interleave(2, 1).expand_as(out))


@pytest.mark.parametrize(("kv_len", "slots"), [(0, 4), (3, 4), (4, 4), (5, 4), (11, 4), (8, 4), (6, 1)])
def test_positions_of_slots(kv_len, slots):
    held = [-1] * slots
    for position in range(kv_len):
        held[position % slots] = position
    found = ring.positions(kv_len, slots, torch.device("cpu"))
    assert [max(p, -1) for p in found.tolist()] == held


@pytest.mark.parametrize("first", [0, 3, 4, 13])
@pytest.mark.parametrize("count", [0, 1, 4, 5, 11])
def test_unrolling_is_by_position(first, count):
    x = torch.arange(4.0).reshape(1, 4, 1)
    got = ring.unrolled(x, first, first + count)
    assert got.flatten().tolist() == [p % 4 for p in range(first, first + count)]


Q, K = torch.ones(1, 4, 2, 16), torch.ones(1, 2, 20, 16)
LENGTH = torch.tensor(30, dtype=torch.int32)


def attend(mask, **named):
    return lambda: bs.attention(Q, K, K, mask, ring=True, **named)


def decode(**named):
    return lambda: bs.decode(Q, K, K, ring=True, **named)


ERRORS = [
    (attend(bs.causal(), kv_len=21), ValueError, r"mask: causal\(\) sees key 0, .* holds the keys from 1 on"),
    (attend(None, kv_len=21), ValueError, "sees key 0"),
    (attend(bs.sliding_window(20), kv_len=21), ValueError, "sees key 0, which is overwritten: after 21 keys"),
    (attend(bs.sliding_window(5), kv_len=99, q_start=80), ValueError, "sees key 76"),
    (attend(bs.sliding_window(5) | bs.sink(2), kv_len=99), ValueError, "mask: .* sees key 0"),
    (attend(bs.chunked(32) & bs.causal(), kv_len=94), ValueError, "sees key 64, .* from 74 on"),
    (attend(bs.causal(), kv_len=LENGTH), ValueError, r"need window \+ 1 <= 20"),
    (attend(bs.sliding_window(20), kv_len=LENGTH), ValueError, r"mask: sliding_window\(20\) may see overwritten"),
    (attend(bs.chunked(4), kv_len=LENGTH), ValueError, "ring=True with a kv_len tensor needs a band"),
    (attend(bs.sliding_window(4), kv_len=LENGTH, q_start=9), ValueError, "q_start: given 9; ring=True"),
    (attend(bs.sliding_window(4), kv_len=LENGTH, skip="mask", impl="triton"), ValueError, "'auto' or 'bounds'"),
    (attend(bs.sliding_window(4), kv_len=LENGTH, record=True, impl="triton"), ValueError, "record: True needs an int"),
    (attend(bs.sliding_window(4), kv_len=(1 << 29) + 1), ValueError, "to the largest position 536870912"),
    (attend(bs.sliding_window(4), kv_len=0), ValueError, "kv_len: given 0"),
    (lambda: bs.attention(Q, K, K, ring=1), TypeError, "ring: given 1; True or False"),
    (lambda: bs.attention(Q, K, K, kv_len=21), ValueError, "kv_len: given 21; must be from 1 to k's length 20"),
    (decode(kv_len=21), ValueError, "window: .* sees key 0"),
    (decode(kv_len=21, window=20), ValueError, "window: sliding_window.20. sees key 0"),
    (decode(kv_len=LENGTH), ValueError, r"window: causal\(\) may see overwritten"),
    (decode(kv_len=LENGTH, window=20), ValueError, r"need window \+ 1 <= 20"),
    (decode(kv_len=(1 << 29) + 1, window=3), ValueError, "kv_len: given 536870913"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the calls are written for CPU tensors")
@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_a_mask_that_sees_overwritten_keys_is_an_error(case):
    call, error_type, message = ERRORS[case]
    with pytest.raises(error_type, match=message):
        call()


@pytest.mark.parametrize("as_tensor", [False, True])
def test_torch_compile_and_the_operators_go_through(device, as_tensor):
    import blockskip.attention.decode.ops
    import blockskip.attention.ops  # noqa: F401

    q, k, v = draw(device, 40, q_len=2, heads=(4, 2))
    kv_len = torch.tensor([101], dtype=torch.int32, device=device) if as_tensor else 101

    def model(q, k, v):
        out = bs.decode(q, k, v, kv_len=kv_len, window=30, ring=True)
        return out + bs.attention(q, k, v, bs.sliding_window(30), kv_len=kv_len, ring=True, route="prefill")

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), model(q, k, v))
    length = (None, kv_len) if as_tensor else (101, None)
    torch.library.opcheck(torch.ops.blockskip.decode, (q, k, v, *length, 30, None, None, "auto", True, True))
    rest = ("sliding_window(30)", [], None, None, *length, "auto", "auto", None, True, True, "measured")
    torch.library.opcheck(torch.ops.blockskip.attention, (q, k, v, *rest))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
@pytest.mark.parametrize("call", ["decode", "attention"])
def test_a_cuda_graph_replays_past_the_wrap(device, call):
    slots, window = 1500, 750
    q, k, v = draw(device, 5000, batch=2, heads=(8, 4), head_dim=128, dtype=torch.bfloat16)
    kr, vr = (rolled(x[:, :, :slots], slots) for x in (k, v))
    length = torch.full((2,), slots, dtype=torch.int32, device=device)

    def step():
        if call == "decode":
            return bs.decode(q, kr, vr, kv_len=length, window=window, ring=True)
        return bs.attention(q, kr, vr, bs.sliding_window(window), kv_len=length, ring=True, route="prefill")

    step()  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    for n in (100, 1500, 1501, 3000, 4999):
        kr.copy_(rolled(k[:, :, :n], slots).nan_to_num()), vr.copy_(rolled(v[:, :, :n], slots).nan_to_num())
        length.fill_(n)
        graph.replay()
        assert error(out, q, k, v, bs.sliding_window(window), kv_len=n) < 2e-2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="sizes beyond the interpreter need CUDA")
@pytest.mark.parametrize("head_dim", [64, 96, 128, 256, 512])
def test_hardware_sizes_with_the_tables_tiles_are_bit_equal(device, head_dim):
    for q_len in (1, 8, 374):
        q, k, v = draw(device, 4001, q_len=q_len, heads=(8, 2), head_dim=head_dim, dtype=torch.bfloat16)
        named = {"route": "prefill"}
        # a ring's tiles: where the endless cache is read by descriptors, its own tiles hold more keys, and sums differ
        ringed = bs.explain(q, k[:, :, :1500], v[:, :, :1500], bs.sliding_window(750), kv_len=4001, ring=True, **named)
        same(bs.attention, q, k, v, 1500, bs.sliding_window(750), config=ringed.config, **named)
        if q_len <= 8:
            same(bs.decode, q, k, v, 1500, window=750, splits=7)
