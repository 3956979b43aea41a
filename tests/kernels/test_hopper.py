"""The warp-specialized prefill kernel: when it is taken, and that it equals the plain kernel bit for bit."""

import math
from dataclasses import replace

import blockskip as bs
import numpy as np
import pytest
import torch
from blockskip.attention.call import AttentionArguments, AttentionCall
from blockskip.attention.eager import check
from blockskip.attention.prefill import launch, plan, schedule
from blockskip.config import TileConfig
from blockskip.launching.dispatch import TmaTensor
from blockskip.launching.guards import GuardedInt
from blockskip.launching.repeated import REPEATED

WARP_SPECIALIZED = {d: TileConfig(128, 64 if d > 128 else 128, 12, 2) for d in (64, 80, 128, 256)}
WARP_SPECIALIZED[512] = TileConfig(64, 32, 12, 2)  # both groups have the same rows
HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_hopper = pytest.mark.skipif(not HOPPER, reason="warp-group products need a GPU of compute capability 9.x")
SINKS = bs.sliding_window(300) | (bs.sink(4) & bs.causal())
MASKS = {"causal": bs.causal(), "window": bs.sliding_window(77), "sinks": SINKS, "chunks": bs.chunked(256)}


def draw(device, head_dim, q_len, kv_len=None, *, batch=1, heads=(8, 2), dtype=torch.bfloat16):
    generator = torch.Generator(device).manual_seed(q_len)
    shapes = [(batch, heads[0], q_len, head_dim), *[(batch, heads[1], kv_len or q_len, head_dim)] * 2]
    return [torch.randn(shape, generator=generator, device=device).to(dtype) for shape in shapes]


def planned(capability=(9, 0), mask=MASKS["causal"], head_dim=128, q_len=256, layout=lambda t: t, **named):
    q, k, v = draw("cuda" if torch.cuda.is_available() else "cpu", head_dim, q_len)
    k, v = layout(k), layout(v)
    named = {"impl": "triton", "config": WARP_SPECIALIZED[128], "route": "prefill", **named}
    call = check(AttentionArguments(q, k, v, mask, **named))
    return plan.plan_kernel(call, WARP_SPECIALIZED.get(head_dim, WARP_SPECIALIZED[128]), capability=capability)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_the_modes_that_skip_by_limits_or_runs_take_it(mask):
    assert planned(mask=mask).config.warp_specialized


@pytest.mark.parametrize(
    "other",
    [
        {"capability": (8, 0)},
        {"capability": (10, 0)},
        {"capability": None},
        {"skip": "none"},
        {"skip": "mask"},
        {"scale": -0.1},
        {"scale": 0.0},
        {"record": True},
        {"head_dim": 32},
        {"q_len": 8},
        {"layout": lambda t: torch.cat([t, t[..., :1]], 3)[..., :-1]},
        {"ring": True, "mask": MASKS["window"], "kv_len": 256},
    ],
    ids=lambda other: ", ".join(other),
)
def test_what_it_cannot_do_the_plain_kernel_does_in_the_same_tiles(other):
    config = planned(**other).config
    assert (
        not config.warp_specialized
        and config == WARP_SPECIALIZED.get(other.get("head_dim", 128), WARP_SPECIALIZED[128]).plain
    )


def test_twelve_warps_are_two_groups_of_64_rows_and_one_that_copies():
    assert "8 warps and one that copies" in str(WARP_SPECIALIZED[128])
    three = TileConfig(192, 128, 16, 4)
    assert "12 warps and one that copies" in str(three) and three.plain == TileConfig(64, 128, 4, 2)
    for block_m, num_warps in ((32, 12), (192, 12), (192, 8)):
        with pytest.raises(ValueError, match=f"block_m is {block_m} with {num_warps} warps"):
            TileConfig(block_m, 64, num_warps, 2)
    assert not TileConfig(128, 64, 16, 2).warp_specialized


def test_groups_share_rows_where_one_alone_has_no_room():
    rows, columns = WARP_SPECIALIZED[128], WARP_SPECIALIZED[512]
    q, k, v = draw("cuda" if torch.cuda.is_available() else "cpu", 512, 256)
    call = check(AttentionArguments(q, k, v, MASKS["causal"], impl="triton", route="prefill"))
    assert plan.plan_kernel(call, columns, capability=(9, 0)).config == columns
    assert plan.plan_kernel(call, rows, capability=(9, 0)).config == rows.plain
    call = replace(call, q=q[..., :256], k=k[..., :256], v=v[..., :256])
    assert plan.plan_kernel(call, columns, capability=(9, 0)).config == columns.plain


def same(q, k, v, mask, *, skips=("bounds", "map", "none", "mask"), **named):
    """What it gives, having checked that the plain kernel gives the same in all modes; at head size 512 itself."""
    config = WARP_SPECIALIZED[q.shape[3]]
    other = config if q.shape[3] == 512 else config.plain
    named = {"impl": "triton", "route": "prefill", "return_lse": True, **named}
    assert bs.explain(q, k, v, mask, config=config, **named).config.warp_specialized
    out, lse = bs.attention(q, k, v, mask, config=config, **named)
    for skip in skips:
        expected = bs.attention(q, k, v, mask, config=other, skip=skip, **named)
        assert torch.equal(out, expected[0]) and torch.equal(lse, expected[1]), skip
    assert out.isfinite().all()
    return out


@pytest.fixture(params=["", "few programs"])
def programs(request, monkeypatch):
    """Also with so few programs that each does many rows of tiles, of several heads and batches."""
    few = lambda call, plan, grid: ((min(math.prod(grid), 5),), grid[1] * grid[2])  # noqa: E731
    chosen = launch.programs_of
    REPEATED.clear()
    if request.param:
        monkeypatch.setattr(launch, "programs_of", lambda *of: (few if of[1].config.warp_specialized else chosen)(*of))
    yield
    REPEATED.clear()


def grid_of(q_len, kv_len, mask, *, batch=1, heads=(32, 8), lengths=None, planned=None):
    """`programs_of` such a call, as if the device were a Hopper of 132 multiprocessors."""
    q, k, v = (t.to("meta") for t in draw("cpu", 128, 1, batch=batch, heads=heads))
    q, k, v = q.expand(-1, -1, q_len, -1), *(t.expand(-1, -1, kv_len, -1) for t in (k, v))
    call = AttentionCall(q, k, v, mask, 1.0, None, planned or kv_len, lengths, "auto", "triton", None, False, False)
    made = replace(plan.plan_kernel(call, WARP_SPECIALIZED[128]), config=WARP_SPECIALIZED[128])
    return schedule.programs_of(call, made, (-(-q_len // 128), heads[0], batch))


def test_a_program_a_multiprocessor_goes_on_from_row_to_row(monkeypatch):
    monkeypatch.setattr(schedule, "multiprocessors", lambda device: 132)
    monkeypatch.setattr(schedule, "keys_nearby", lambda k: 4096)
    causal, window = bs.causal(), bs.sliding_window(100)
    assert grid_of(2048, 2048, causal) == ((132,), 32)
    assert grid_of(300, 300, causal) == ((96,), 32)  # fewer rows of tiles than multiprocessors
    assert grid_of(2048, 2048, causal, batch=4) == ((132,), 128)  # longest rows first over all batches
    assert grid_of(2048, 2048, causal, batch=5) == ((132,), 80)  # 20 heads of keys, then the other 20
    assert grid_of(512, 512, causal, batch=32) == ((132,), 32)  # with 128 rows some programs would end later
    assert grid_of(2048, 8192, causal) == ((512,), 16)  # more keys than the L2's part holds
    assert grid_of(2048, 8192, window) == ((132,), 32)
    assert grid_of(2048, 8192, window, heads=(64, 64)) == ((132,), 32)  # 33 heads at once at most, of 64 what divides
    assert grid_of(2048, 8192, window, batch=35, heads=(6, 2)) == ((132,), 42)  # whole groups of three, too


def test_a_growing_number_of_keys_is_not_planned_for_each_number(monkeypatch):
    monkeypatch.setattr(schedule, "multiprocessors", lambda device: 132)
    monkeypatch.setattr(schedule, "keys_nearby", lambda k: 4096)
    for batch in (1, 5):
        grown = GuardedInt(2048)
        grid_of(512, 2048, bs.causal(), batch=batch, planned=grown)
        assert not any(guard.ask is int for guard in grown.guards)


def test_where_rows_are_unlike_the_device_hands_them_out(monkeypatch):
    monkeypatch.setattr(schedule, "multiprocessors", lambda device: 132)
    monkeypatch.setattr(schedule, "keys_nearby", lambda k: 1 << 20)
    lengths = torch.tensor([2048, 300], dtype=torch.int32)
    assert grid_of(2048, 2048, bs.causal(), batch=2, lengths=lengths) == ((1024,), 16)
    assert grid_of(2048, 2048, bs.causal(), lengths=lengths[:1]) == ((132,), 32)
    one_long = bs.document([1920, *[1] * 128]) & bs.causal()
    assert grid_of(2048, 2048, SINKS) == ((132,), 32)
    assert grid_of(2048, 2048, one_long, heads=(8, 8)) == ((128,), 8)
    by_head = bs.dense(torch.ones(1, 32, 2048, 2048, dtype=torch.bool).tril())
    assert grid_of(2048, 2048, by_head) == ((512,), 16)


@pytest.mark.parametrize("heads", [8, 16, 32, 64, 256])
@pytest.mark.parametrize("mask", [bs.causal(), bs.sliding_window(1024)], ids=["causal", "window"])
def test_a_bands_rows_end_together(mask, heads):
    for length in (128, 1000, 2048, 4000, 8192, 32768):
        tiles = np.diff(bs.TileMap.build(mask, length, length, 128, 128).to_csr()[0].numpy())
        assert schedule.end_together(tiles, heads, 132), length


def test_rows_do_not_end_together_where_few_heads_interleave():
    longest_first = np.tile(np.arange(64, 0, -1), 8)  # 8,192 tokens: four of 32 heads, then the next four
    assert not schedule.end_together(longest_first[::-1], 4, 132)


@pytest.mark.parametrize("head_dim", [64, 80, 128, 192, 256, 512])
def test_who_makes_descriptors_and_when_queries_are_copied(head_dim):
    """The host does of what is the same for each call of a kind, and can be described."""
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in draw("cpu", head_dim, 300, 400, batch=2))
    config, out, mask = WARP_SPECIALIZED.get(head_dim, WARP_SPECIALIZED[256]), torch.empty_like(q), MASKS["causal"]

    def made(q, k, v, **named):
        call = check(AttentionArguments(q, k, v, mask, impl="triton", config=config, route="prefill", **named))
        planned = plan.plan_kernel(call, config, capability=(9, 0))
        step = launch.prepare(call, planned, (q, k, v, out), None, None, (3, 8, 2))
        constants, tensors = step.launch.constants["CONSTANTS"], step.launch.arguments[1:4]
        assert [isinstance(one, TmaTensor) for one in tensors] == [constants.MAPPED] * 3
        return constants, tensors

    constants, (of_k, _, of_out) = made(q, k, v)
    assert constants.AHEAD is (head_dim <= 128) and constants.MAPPED is (head_dim not in (80, 192))  # two pieces
    assert not made(torch.cat([q, q], 3)[..., 1 : head_dim + 1], k, v)[0].AHEAD
    assert not made(q, k[:, :1].expand_as(k), v)[0].MAPPED
    assert not made(q, k, v, kv_len=torch.tensor([400, 300], dtype=torch.int32))[0].MAPPED
    if constants.MAPPED:
        width = min(head_dim, 256)
        block = 1, 1, config.block_n, width
        assert of_k == (k, (2, 2, 400, head_dim), k.stride(), block, 128) and of_out.block == (1, 1, 64, width)
        assert made(q, k, v, kv_len=350)[1][0].shape == (2, 2, 350, head_dim)
        single = k[:1].as_strided((1, 2, 400, head_dim), (0, *k.stride()[1:]))  # a stride that is no matter
        assert made(q[:1], *[single] * 2)[1][0].strides == (8, *k.stride()[1:])


def modes(mask):
    return ("map", "none", "mask", *(["bounds"] if mask in (MASKS["causal"], MASKS["window"]) else []))


@needs_hopper
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_dim", WARP_SPECIALIZED)
@pytest.mark.parametrize("name", MASKS)
def test_all_modes_have_the_same_bits(device, programs, name, head_dim, dtype):
    for q_len, kv_len in ((256, 256), (777, 1203), (1203, 1000)):
        q, k, v = draw(device, head_dim, q_len, kv_len, batch=2, dtype=dtype)
        same(q, k, v, MASKS[name], skips=modes(MASKS[name]))


def right(out, q, k, v, mask, **named):
    """By float64: half of the last of 8 bits of the result, and of weights that sum to 1, of values of deviation 1."""
    truth = bs.attention(*(t.double() for t in (q, k, v)), mask, impl="reference", **named)
    assert (out.double() - truth).abs().max() <= 2**-8 * (truth.abs().max() + 1)


@needs_hopper
@pytest.mark.parametrize("head_dim", WARP_SPECIALIZED)
@pytest.mark.parametrize("name", ["causal", "window", "sinks"])
def test_it_is_right(device, head_dim, name):
    q, k, v = draw(device, head_dim, 1500)
    right(same(q, k, v, MASKS[name], skips=()), q, k, v, MASKS[name])


@needs_hopper
@pytest.mark.parametrize("head_dim", WARP_SPECIALIZED)
def test_keys_beyond_kv_len_may_hold_nan(device, programs, head_dim):
    q, k, v = draw(device, head_dim, 300, 900, batch=2)
    k[:, :, 811:], v[:, :, 811:] = math.nan, math.nan
    for mask in (MASKS["causal"], MASKS["window"]):
        same(q, k, v, mask, kv_len=811)
        lengths = torch.tensor([811, 500], dtype=torch.int32, device=device)
        same(q, k, v, mask, kv_len=lengths, skips=("bounds", "none", "mask"))
    same(q, k, v, SINKS, kv_len=811, skips=("map", "none", "mask"))


@needs_hopper
@pytest.mark.parametrize("head_dim", WARP_SPECIALIZED)
@pytest.mark.parametrize("softcap", [None, 2.0])
def test_sinks_and_soft_caps(device, programs, head_dim, softcap):
    q, k, v = draw(device, head_dim, 400, 700, batch=2)
    sinks = torch.randn(8, 2, device=device).bfloat16()[:, 1]
    for mask in (MASKS["causal"], MASKS["window"], SINKS):
        options = {"sinks": sinks, "softcap": softcap, "q_start": -3}
        out = same(q, k, v, mask, skips=modes(mask), **options)
        right(out, q, k, v, mask, **options | {"sinks": sinks.float()})


@needs_hopper
@pytest.mark.parametrize("head_dim", WARP_SPECIALIZED)
def test_a_batch_without_keys_gives_zero(device, programs, head_dim):
    q, k, v = draw(device, head_dim, 200, 400, batch=2)
    lengths = torch.tensor([0, 400], dtype=torch.int32, device=device)
    k[0], v[0] = math.nan, math.nan
    named = {"config": WARP_SPECIALIZED[head_dim], "kv_len": lengths, "return_lse": True, "impl": "triton"}
    for mask in (MASKS["causal"], MASKS["window"]):
        out, lse = bs.attention(q, k, v, mask, route="prefill", **named)
        assert (out[0] == 0).all() and (lse[0] == -math.inf).all() and out[1].isfinite().all()


@needs_hopper
@pytest.mark.parametrize("q_start", [0, 5, -7, 2000])
def test_queries_that_start_anywhere(device, programs, q_start):
    q, k, v = draw(device, 128, 400, 700)
    for mask in (MASKS["causal"], MASKS["window"], SINKS):
        same(q, k, v, mask, q_start=q_start, skips=modes(mask))


@needs_hopper
@pytest.mark.parametrize("head_dim", WARP_SPECIALIZED)
def test_tensors_as_views(device, programs, head_dim):
    """[B, L, H, D] seen as [B, H, L, D], a part of larger heads, and heads and batches that share their keys."""
    q, k, v = (t.transpose(1, 2).contiguous().transpose(1, 2) for t in draw(device, head_dim, 500, batch=2))
    both, window = torch.cat([k, v], 3), MASKS["window"]
    cases = (
        (q, k, v, MASKS["causal"]),
        (q, k[:1, :1].expand_as(k), v[:, :1].expand_as(v), window),
        (torch.cat([q, q], 3)[..., 1 : head_dim + 1], k, v, window),
        (q, both[..., :head_dim], v, window),
        (q, both[..., :head_dim], both[..., head_dim:], window),
    )
    for case in cases:
        right(same(*case), *case)


@needs_hopper
def test_a_graph_replays_it(device):
    q, k, v = draw(device, 128, 4096, heads=(32, 8))
    config = WARP_SPECIALIZED[128]
    for mask in (bs.causal(), bs.sliding_window(1024), SINKS):
        expected = bs.attention(q, k, v, mask, config=config)
        assert torch.equal(expected, bs.attention(q, k, v, mask, config=config.plain))
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = bs.attention(q, k, v, mask, config=config)
        out.zero_()
        graph.replay()
        assert torch.equal(out, expected)


@needs_hopper
def test_more_than_2_to_the_31_elements(device):
    """Offsets of queries, keys and results beyond 32 bits."""
    if torch.cuda.mem_get_info()[0] < 20 << 30:
        pytest.skip("needs 20 GiB of the GPU's memory")
    length = (1 << 31) // 128 // 16 + 256
    q, k, v = (t.expand(-1, -1, -1, -1) for t in draw(device, 128, length, heads=(16, 16)))
    mask = bs.sliding_window(64)
    out = bs.attention(q, k, v, mask, config=WARP_SPECIALIZED[128])
    part = slice(length - 512, length)
    expected = bs.attention(q[:, :, part], k[:, :, part], v[:, :, part], mask, config=WARP_SPECIALIZED[128].plain)
    assert torch.equal(out[:, :, -256:], expected[:, :, -256:])
