"""Up to 128 last queries by the kernel that shares keys among programs, trees of drafts too, and batches by work.

Against the float64 reference, as in test_decode; the kernels run on CUDA or in the interpreter.
"""

import dataclasses
import math

import blockskip as bs
import pytest
import torch
from blockskip.attention import route
from blockskip.attention.call import DecodeArguments, DecodeCall
from blockskip.attention.decode import launch
from blockskip.attention.decode.eager import check_decode
from blockskip.attention.decode.plan import plan_decode_kernel
from blockskip.config import TileConfig

EPS = torch.finfo(torch.float32).eps
SMALL = TileConfig(32, 32, 4, 1)


def draw(device, *, batch=1, heads=(4, 2), q_len=1, kv_len=203, head_dim=16, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    sizes = ((heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len))
    made = (torch.randn((batch, h, n, head_dim), generator=generator) for h, n in sizes)
    return tuple(t.to(device, dtype) for t in made)


def close(found, expected, dtype, keys):
    """(out, lse) beside the reference's: a rounding of weights and of results, and float32 sums."""
    (out, lse), (wanted, wanted_lse) = found, expected
    rounding = torch.finfo(dtype).eps
    tolerance = wanted.abs().max().item() * (rounding + 32 * EPS) + 3 * rounding + keys * EPS
    assert (out.double().cpu() - wanted).abs().max() <= tolerance
    seen = wanted_lse.isfinite()
    assert torch.equal(lse.cpu().isfinite(), seen) and (lse.cpu()[~seen] == -math.inf).all()
    slack = 192 * EPS + (1e-4 if dtype != torch.float32 else 0)
    assert ((lse.cpu() - wanted_lse)[seen].abs() <= slack).all()


def check(q, k, v, mask, *, clean=None, **named):
    """`clean`: k and v without what must not be read."""
    plan = bs.explain(q, k, v, mask, impl="triton", route="decode", **named)
    assert plan.kernel == "decode"
    found = bs.attention(q, k, v, mask, impl="triton", route="decode", return_lse=True, **named)
    plain = {name: a.cpu() if isinstance(a, torch.Tensor) else a for name, a in named.items()}
    inputs = (t.double().cpu() for t in (q, *(clean or (k, v))))
    mask = bs.dense(mask.tensor.cpu()) if hasattr(mask, "tensor") else mask
    close(found, bs.attention(*inputs, mask, impl="reference", return_lse=True, **plain), q.dtype, k.shape[2])
    return plan


@pytest.mark.parametrize("window", [None, 7, 90])
@pytest.mark.parametrize("q_len", [9, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128])
def test_queries_about_blocks_of_rows(device, q_len, window):
    """Windows shorter than the queries, too: each block of rows has a stretch of keys of its own."""
    mask = bs.causal() if window is None else bs.sliding_window(window)
    check(*draw(device, q_len=q_len, heads=(6, 2)), mask)


@pytest.mark.parametrize(("heads", "q_len"), [((4, 4), 40), ((5, 1), 70), ((16, 1), 33), ((7, 1), 24)])
def test_blocks_that_end_inside_a_query(device, heads, q_len):
    check(*draw(device, q_len=q_len, heads=heads, batch=2, kv_len=150), bs.sliding_window(20))


@pytest.mark.parametrize("head_dim", [64, 80, 128, 256, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_head_sizes_in_half_precision(device, head_dim, dtype):
    check(*draw(device, q_len=40, heads=(4, 2), kv_len=200, head_dim=head_dim, dtype=dtype), bs.causal())


def test_more_queries_than_keys_and_lengths_of_0_with_nan_behind(device):
    q, k, v = draw(device, batch=4, q_len=40, kv_len=130)
    clean = k.clone(), v.clone()
    kv_len = torch.tensor([130, 17, 0, 64], dtype=torch.int32, device=device)
    for b, n in enumerate(kv_len.tolist()):
        k[b, :, n:], v[b, :, n:] = math.nan, math.nan
    for mask in (bs.causal(), bs.sliding_window(9)):
        check(q, k, v, mask, clean=clean, kv_len=kv_len)


def test_keys_that_begin_at_a_slot_with_sinks_and_a_soft_cap(device):
    q, k, v = draw(device, batch=2, q_len=20, heads=(6, 2))
    starts = torch.tensor([30, 200], dtype=torch.int32, device=device)
    clean = k.clone(), v.clone()
    for b, n in enumerate(starts.tolist()):
        k[b, :, :n], v[b, :, :n] = math.nan, math.nan
    sinks = torch.linspace(-2, 2, 6, device=device)
    check(q, k, v, bs.sliding_window(50), clean=clean, kv_start=starts, sinks=sinks, softcap=3.0)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_rings(device, as_tensor):
    q, k, v = draw(device, q_len=30, kv_len=100)
    kv_len = torch.tensor(250, dtype=torch.int32, device=device) if as_tensor else 250
    check(q, k, v, bs.sliding_window(60), kv_len=kv_len, ring=True)


def test_strides_of_any_kind(device):
    q, k, v = draw(device, batch=2, q_len=24, head_dim=32)
    q, k = q[:, :, ::2], k.transpose(1, 2).contiguous().transpose(1, 2)
    check(q, k, v[..., ::2].repeat_interleave(2, 3), bs.causal())
    check(q, k[:, :1].expand(-1, 2, -1, -1), v, bs.causal())


# many rows, by Hopper's warp-specialized kernel (on a CPU: test_shared_keys_interpreted.py)

HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability()[0] == 9
needs_hopper = pytest.mark.skipif(not HOPPER, reason="warp-group products need a GPU of compute capability 9.x")


def check_specialized(q, k, v, mask, **named):
    plan = check(q, k, v, mask, **named)
    assert plan.config.warp_specialized
    return plan


@needs_hopper
@pytest.mark.parametrize("window", [None, 700])
@pytest.mark.parametrize("q_len", [33, 64, 128])
@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 192, 256, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_many_rows(head_dim, q_len, window, dtype):
    """Blocks of 64 rows whose columns two groups share, and of 128; also with a last block that is partly empty."""
    mask = bs.causal() if window is None else bs.sliding_window(window)
    for heads in ((4, 2), (6, 2)):
        q, k, v = draw("cuda", q_len=q_len, heads=heads, kv_len=1111, head_dim=head_dim, dtype=dtype)
        check_specialized(q, k, v, mask)
        check_specialized(*(t.transpose(1, 2).contiguous().transpose(1, 2) for t in (q, k, v)), mask)


@needs_hopper
@pytest.mark.parametrize("head_dim", [80, 128, 256, 512])
def test_many_rows_of_lengths_on_the_device_with_nan_behind(head_dim):
    """Sinks, a cap, and keys that begin at a slot; then several sequences, whose rows are more than programs hold."""
    q, k, v = draw("cuda", q_len=70, heads=(6, 2), kv_len=2100, head_dim=head_dim, dtype=torch.bfloat16)
    sinks = torch.linspace(-2, 2, 6, device="cuda")
    for first, count in ((0, 2100), (0, 1999), (300, 1500), (0, 65), (7, 0)):
        clean = k.clone(), v.clone()
        dirty = k.clone(), v.clone()
        for t in dirty:
            t[:, :, :first] = t[:, :, first + count :] = math.nan
        lengths, starts = (torch.tensor([n], dtype=torch.int32, device="cuda") for n in (count, first))
        named = {"kv_len": lengths, "sinks": sinks, "softcap": 3.0, **({"kv_start": starts} if first else {})}
        for mask in (bs.causal(), bs.sliding_window(600)):
            check_specialized(q, *dirty, mask, clean=clean, **named)
    q, k, v = draw("cuda", batch=3, q_len=70, heads=(6, 2), kv_len=2100, head_dim=head_dim, dtype=torch.bfloat16)
    lengths = torch.tensor([2100, 0, 1333], dtype=torch.int32, device="cuda")
    clean = k.clone(), v.clone()
    for b, count in enumerate(lengths.tolist()):
        k[b, :, count:] = v[b, :, count:] = math.nan
    check_specialized(q, k, v, bs.causal(), clean=clean, kv_len=lengths)


@needs_hopper
def test_many_rows_of_a_growing_cache_and_in_a_graph():
    """Keys of another number in each call, as the host knows it; and lengths that change between a graph's replays."""
    q, k, v = draw("cuda", q_len=64, heads=(8, 2), kv_len=4096, head_dim=128, dtype=torch.bfloat16)
    for kv_len in (2000, 2001, 2002, 3000):
        check_specialized(q, k, v, bs.causal(), kv_len=kv_len)
    lengths = torch.tensor([4096], dtype=torch.int32, device="cuda")
    assert bs.explain(q, k, v, bs.causal(), kv_len=lengths).config.warp_specialized
    bs.attention(q, k, v, bs.causal(), kv_len=lengths)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = bs.attention(q, k, v, bs.causal(), kv_len=lengths)
    for kv_len in (64, 1777, 4096):
        lengths.fill_(kv_len)
        graph.replay()
        expected = bs.attention(q, k, v, bs.causal(), kv_len=kv_len, impl="reference")
        torch.testing.assert_close(out, expected, atol=2e-2, rtol=2e-2)


@needs_hopper
def test_many_rows_give_the_same_bits_every_time():
    for head_dim in (128, 256, 512):
        q, k, v = draw("cuda", q_len=64, heads=(8, 2), kv_len=5000, head_dim=head_dim, dtype=torch.bfloat16)
        assert bs.explain(q, k, v, bs.causal(), route="decode").config.warp_specialized
        first = bs.attention(q, k, v, bs.causal(), route="decode")
        assert all(torch.equal(bs.attention(q, k, v, bs.causal(), route="decode"), first) for _ in range(50))


# trees of drafts


def tree(q_len, kv_len, batch=1, heads=1):
    """bool [batch, heads, q_len, kv_len]: all keys before the drafts, of which each sees itself and its ancestors."""
    generator = torch.Generator().manual_seed(1)
    seen = torch.zeros(batch, heads, q_len, kv_len, dtype=torch.bool)
    seen[..., : kv_len - q_len] = True
    drafts = seen[..., kv_len - q_len :]
    for one in drafts.flatten(0, 1):
        for i in range(q_len):
            if i:
                one[i] |= one[int(torch.randint(0, i, (), generator=generator))]
            one[i, i] = True
    return seen


@pytest.mark.parametrize(("q_len", "batch", "heads"), [(1, 1, 1), (7, 1, 1), (16, 2, 1), (33, 1, 6), (64, 2, 6)])
def test_trees_of_drafts(device, q_len, batch, heads):
    q, k, v = draw(device, batch=2, q_len=q_len, heads=(6, 2), kv_len=330)
    plan = check(q, k, v, bs.dense(tree(q_len, 330, batch, heads).to(device)))
    assert plan.skip == "none" and plan.splits > 1


def test_trees_with_lengths_on_the_device(device):
    q, k, v = draw(device, batch=3, q_len=16, heads=(6, 2), kv_len=330)
    clean = k.clone(), v.clone()
    kv_len = torch.tensor([330, 200, 0], dtype=torch.int32, device=device)
    for b, n in enumerate(kv_len.tolist()):
        k[b, :, n:], v[b, :, n:] = math.nan, math.nan
    mask = bs.mask_mod(lambda b, h, i, j: (j % 3 != i % 3) | (j < 100))
    check(q, k, v, mask, clean=clean, kv_len=kv_len, sinks=torch.linspace(-1, 1, 6, device=device))
    first = torch.tensor([0, 31, 329], dtype=torch.int32, device=device)
    check(q, *clean, mask, kv_start=first)


# which kernel


def kernel(q_len, kv_len, mask=None, *, heads=(32, 8), batch=1, **named):
    """The plan for these sizes, in bfloat16 of 128 dimensions, without a GPU's measurements."""
    q, k, v = (torch.zeros(()).bfloat16().expand(batch, h, n, 128) for h, n in
               ((heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len)))  # fmt: skip
    return bs.explain(q, k, v, mask or bs.causal(), impl="triton", **named)


@pytest.mark.skipif(torch.cuda.is_available(), reason="plans for a GPU that is not there")
def test_more_than_8_queries_share_keys_where_prefill_would_leave_half_of_the_gpu_idle():
    plan = kernel(16, 8192)
    assert plan.kernel == "decode" and plan.splits > 1
    assert "16 queries, for which prefill has " in plan.route.reason and "shares of the keys" in str(plan)
    short = kernel(16, route.MANY_KEYS - 1)
    assert short.kernel == "prefill" and kernel(16, route.MANY_KEYS).kernel == "decode"
    assert short.route.reason.endswith("below 512 they are not shared, unmeasured")
    full = kernel(128, 8192, heads=(64, 64), batch=4)
    assert full.kernel == "prefill" and "more than half of them are busy" in full.route.reason
    assert kernel(129, 8192).kernel == "prefill"


@pytest.mark.skipif(torch.cuda.is_available(), reason="plans for a GPU that is not there")
def test_a_mask_that_leaves_few_tiles_stays_with_the_tile_map():
    seen = torch.ones((16, 8192), dtype=torch.bool)
    assert kernel(16, 8192, bs.dense(seen)).kernel == "decode"
    seen[:, 64:] = False
    few = kernel(16, 8192, bs.dense(seen))
    assert few.kernel == "prefill" and "visits" in few.route.reason
    assert kernel(16, 8192, bs.dense(seen), route="decode").kernel == "decode"
    # masks of edges leave tiles out by their map
    assert kernel(16, 8192, bs.sliding_window(99) | (bs.sink(4) & bs.causal())).kernel == "prefill"


# batches whose lengths differ


def by_work(device, lengths, programs, *, q_len=3, window=None, ring=False, starts=None, sinks=False, kv_len=203):
    q, k, v = draw(device, batch=len(lengths), heads=(6, 2), q_len=q_len, kv_len=kv_len, head_dim=24)
    lengths = torch.tensor(lengths, dtype=torch.int32, device=device)
    clean = k.clone(), v.clone()
    if not ring:
        for b, n in enumerate(lengths.tolist()):
            first = 0 if starts is None else starts[b]
            for t in (k, v):
                t[b, :, :first] = t[b, :, first + n :] = math.nan
    named = {"window": window, "ring": ring, "sinks": torch.linspace(-1, 1, 6, device=device) if sinks else None}
    if starts is not None:
        named["kv_start"] = torch.tensor(starts, dtype=torch.int32, device=device)
    call = check_decode(DecodeArguments(q, k, v, lengths, impl="triton", return_lse=True, **named))
    plan = plan_decode_kernel(call, (9, 0), 132, config=SMALL)
    assert plan.ragged
    found = launch.decode(call, dataclasses.replace(plan, programs=min(programs, plan.programs)))
    plain = {name: a.cpu() if isinstance(a, torch.Tensor) else a for name, a in named.items()}
    inputs = (t.double().cpu() for t in (q, *clean))
    expected = bs.decode(*inputs, kv_len=lengths.cpu(), impl="reference", return_lse=True, **plain)
    close(found, expected, torch.float32, kv_len)
    return found


@pytest.mark.parametrize("lengths", [[203, 5], [0, 0], [0, 170, 0, 31], [32, 64, 203, 1, 0]])
@pytest.mark.parametrize("programs", [1, 2, 3, 7, 132])
def test_programs_share_the_work_of_a_batch(device, lengths, programs):
    """One program has all, or each a tile; sequences of no keys stand between; more programs than tiles."""
    by_work(device, lengths, programs)


@pytest.mark.parametrize("case", ["window", "sinks", "ring", "starts"])
def test_work_is_shared_in_every_form(device, case):
    named = {
        "window": {"window": 40, "q_len": 5},
        "sinks": {"sinks": True},
        "ring": {"ring": True, "window": 40, "kv_len": 64},
        "starts": {"starts": [10, 190, 203, 143], "window": 40},
    }[case]
    lengths = {"ring": [500, 5, 0, 100], "starts": [100, 5, 0, 60]}.get(case, [203, 5, 0, 100])
    by_work(device, lengths, 5, **named)


def test_sharing_work_gives_the_same_bits_every_time(device):
    out, lse = by_work(device, [203, 5, 90], 5)
    again, lse_again = by_work(device, [203, 5, 90], 5)
    assert torch.equal(out, again) and torch.equal(lse, lse_again)


def test_when_work_is_shared():
    q, k, v = draw("cpu", batch=3, heads=(6, 2))
    lengths = torch.tensor([203, 5, 90], dtype=torch.int32)
    call = DecodeCall(q, k, v, 1.0, 203, lengths, None, None, "triton", False)
    plan = plan_decode_kernel(call, (9, 0), 132)
    assert plan.ragged and "share the tiles of all batches evenly" in plan.splits_line()
    assert not plan_decode_kernel(dataclasses.replace(call, lengths=None), (9, 0), 132).ragged
    assert not plan_decode_kernel(dataclasses.replace(call, splits=2), (9, 0), 132).ragged
    assert not plan_decode_kernel(
        call.given(tuple(None if t is None else t[:1] for t in call.tensors)), (9, 0), 132
    ).ragged


@pytest.mark.parametrize(("head_dim", "of_each"), [(64, 2), (128, 2), (256, 1), (512, 1)])
def test_as_many_programs_share_work_as_an_h200_was_fastest_with(head_dim, of_each):
    q, k, v = (t.bfloat16() for t in draw("cpu", batch=16, heads=(8, 2), kv_len=2048, head_dim=head_dim))
    lengths = torch.full((16,), 2048, dtype=torch.int32)
    call = DecodeCall(q, k, v, 1.0, 2048, lengths, None, None, "triton", False)
    assert plan_decode_kernel(call, (9, 0), 132).programs == 132 * of_each
