"""The Triton kernel against the float64 reference.

Masks x skip modes x awkward shapes, on CUDA or in the interpreter.
"""

import math

import blockskip as bs
import pytest
import torch
from blockskip.config import TileConfig, prefers_tma
from blockskip.mask import SHARED
from blockskip.mask_runs import Grid

SMALL = (16, 16, 1, 1)
MASKS = {
    "all": None,
    "causal": bs.causal(),
    "window": bs.sliding_window(20),
    "window 1": bs.sliding_window(1),
    "both sides": bs.band(7, 9),
    "nothing": bs.band(-5, 3),
    "sink": bs.sliding_window(9) | (bs.sink(4) & bs.causal()),
    "prefix": bs.prefix_lm(11),
    "chunked": bs.chunked(13) & bs.causal(),
    "document": bs.document([20, 30, 40]),
    "dilated": bs.dilated(3) & bs.causal(),
    "not window": ~bs.sliding_window(20),
}
# (q_len, kv_len) that have caught bugs in other kernels
SHAPES = [(1, 1), (239, 1), (799, 3), (113, 203), (108, 256), (384, 256), (640, 128), (1023, 1024), (1024, 1023)]


def skips_of(mask):
    return ("none", "mask", "bounds", "map") if mask is None or isinstance(mask, bs.Band) else ("none", "mask", "map")


def inputs(device, q_len, kv_len, heads=(2, 2), head_dim=16, dtype=torch.float32, batch=1, deviation=1.0):
    generator = torch.Generator().manual_seed(q_len * 1000 + kv_len)
    q, k, v = (
        torch.randn((batch, h, n, head_dim), generator=generator)
        for h, n in ((heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len))
    )
    q = q * deviation  # q . k / sqrt(D) then has this deviation
    return tuple(t.to(dtype).to(device) for t in (q, k, v))


def truth(q, k, v, mask, **arguments):
    q, k, v = (t.double().cpu() for t in (q, k, v))
    arguments = {name: a.cpu() if isinstance(a, torch.Tensor) else a for name, a in arguments.items()}
    return bs.attention(q, k, v, mask, impl="reference", return_lse=True, **arguments)


def tolerance(expected, dtype, keys, scores=8.0):
    """Derived: a rounding of p, one of the output, and float32 sums over `keys`; `scores` bounds |scale q k|."""
    rounding = torch.finfo(dtype).eps
    largest = expected.abs().max().item() + 1e-30
    exponent = scores * torch.finfo(torch.float32).eps * 4
    return largest * (rounding + exponent) + rounding * 3 + keys * torch.finfo(torch.float32).eps


def check_modes(q, k, v, mask, config=SMALL, scores=8.0, **arguments):
    expected, expected_lse = truth(q, k, v, mask, **arguments)
    outs = {}
    for skip in skips_of(mask):
        tensor_alone = isinstance(arguments.get("kv_len"), torch.Tensor) and "q_start" not in arguments
        if skip == "map" and tensor_alone:
            continue
        before = [t.clone() for t in (q, k, v)]
        out, lse, visits = bs.attention(
            q, k, v, mask, impl="triton", skip=skip, config=config, return_lse=True, record=True, **arguments
        )
        assert all(torch.equal(a, b) or b.isnan().any() for a, b in zip((q, k, v), before, strict=True))
        assert out.shape == q.shape and out.dtype == q.dtype and lse.dtype == torch.float32
        assert (out.double().cpu() - expected).abs().max() <= tolerance(expected, q.dtype, k.shape[2], scores), skip
        seen = expected_lse.isfinite()
        assert torch.equal(lse.isfinite().cpu(), seen) and (lse[~seen.to(lse.device)] == -math.inf).all()
        slack = (scores + 4) * torch.finfo(torch.float32).eps * 16
        if q.dtype != torch.float32:
            slack += 1e-4  # sums of float32 products of rounded inputs: the inputs are the same, the order is not
        assert ((lse.cpu() - expected_lse)[seen].abs() <= slack).all(), skip
        check_visits(q, k, v, mask, skip, config, visits, arguments)
        outs[skip] = out
    first = next(iter(outs.values()))
    for skip, out in outs.items():
        assert torch.equal(out, first), f"{skip} differs from {next(iter(outs))}"


def check_visits(q, k, v, mask, skip, config, visits, arguments):
    plan = bs.explain(q, k, v, mask, impl="triton", skip=skip, config=config, **arguments)
    heads = k.shape[1] if plan.packed else q.shape[1]
    assert visits.shape == (q.shape[0], heads, plan.tilemap.rows, plan.tilemap.cols)
    if isinstance(arguments.get("kv_len"), torch.Tensor):
        return  # the plan is for the whole buffer; what the device's number leaves out shows in the result
    state = plan.tilemap.state
    planned = torch.ones_like(state) if skip == "none" else state
    overhang = torch.zeros_like(state)
    if plan.tilemap.kv_len % plan.tilemap.block_n:
        overhang[:, -1] = 1
    for b in range(q.shape[0]):
        for h in range(heads):
            seen = visits[b, h].cpu()
            assert torch.equal(seen != 0, planned != 0), skip
            unmasked = (state == 2) & (overhang == 0) if skip in ("bounds", "map") else torch.zeros_like(state)
            assert torch.equal(seen == 2, unmasked != 0), skip


@pytest.mark.parametrize("name", MASKS)
def test_masks_and_skip_modes_agree_with_the_reference_and_each_other(device, name):
    check_modes(*inputs(device, 50, 70, heads=(4, 2)), MASKS[name])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["causal", "window", "sink"])
def test_awkward_lengths(device, shape, name):
    q, k, v = inputs(device, *shape, heads=(1, 1))
    if name == "causal" and min(shape) > 500 and device == "cpu":
        q = q[:, :, -130:]  # the interpreter visits a tile in milliseconds; a window has few
    check_modes(q, k, v, MASKS[name], config=(64, 64, 4, 1))


@pytest.mark.parametrize("window", [1, 33, 34, 35])
def test_windows_about_the_length(device, window):
    check_modes(*inputs(device, 34, 34), bs.sliding_window(window))


@pytest.mark.parametrize("head_dim", [8, 24, 40, 96, 130])
def test_head_sizes_that_are_no_power_of_two(device, head_dim):
    check_modes(*inputs(device, 19, 21, head_dim=head_dim), bs.causal())


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (4, 1), (6, 2), (5, 1)])
@pytest.mark.parametrize("q_len", [3, 34])
def test_grouped_heads_packed_and_not(device, heads, q_len):
    check_modes(*inputs(device, q_len, 37, heads=heads, batch=2), bs.sliding_window(9))


def test_short_queries_pack_their_group(device):
    q, k, v = inputs(device, 3, 37, heads=(6, 2))
    assert bs.explain(q, k, v, bs.causal(), impl="triton", config=SMALL).packed
    q, k, v = inputs(device, 32, 37, heads=(4, 2))
    assert not bs.explain(q, k, v, bs.causal(), impl="triton", config=SMALL).packed


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["window", "sink"])
def test_half_precision(device, dtype, name):
    check_modes(*inputs(device, 40, 45, dtype=dtype), MASKS[name])


@pytest.mark.parametrize("kv_len", [130, 250])
@pytest.mark.parametrize("config", [(32, 16, 1, 1), (16, 32, 2, 2), (16, 64, 1, 1), (64, 64, 4, 1), (16, 128, 4, 1)])
def test_every_tile_size_reads_its_bits_right(device, config, kv_len):
    q, k, v = inputs(device, 70, kv_len)
    check_modes(q, k, v, MASKS["sink"], config=config)
    check_modes(q, k, v, MASKS["window"], config=config)


def test_large_heads_are_read_by_descriptors_where_the_copy_engine_can(device):
    if device == "cuda" and not prefers_tma(torch.cuda.get_device_capability(), 264, torch.bfloat16):
        pytest.skip("this GPU has no such copy engine")
    q, k, v = inputs(device, 40, 70, head_dim=264, dtype=torch.bfloat16)
    apart = torch.randn(1, 2, 70, 265, device=device, dtype=torch.bfloat16)  # rows begin at odd addresses
    apart[..., :264] = k
    for keys, use_tma in ((k, True), (apart[..., :264], False), (k[:, :, :1].expand_as(k), False)):
        assert bs.explain(q, keys, v, bs.causal(), impl="triton", route="prefill").prefill.use_tma == use_tma
        check_modes(q, keys, v, MASKS["sink"], config=None if device == "cuda" else (16, 128, 4, 1))
        check_modes(q, keys, v, bs.causal(), config=None if device == "cuda" else (16, 128, 4, 1))


def test_descriptors_end_where_the_keys_do(device):
    q, k, v = inputs(device, 9, 150, heads=(4, 2), head_dim=320, dtype=torch.bfloat16, batch=2)
    lengths = torch.tensor([70, 9], dtype=torch.int32, device=device)
    expected = truth(q, k, v, bs.causal(), kv_len=lengths)[0]
    for batch, length in enumerate(lengths.tolist()):
        k[batch, :, length:] = v[batch, :, length:] = math.nan
    out = bs.attention(q, k, v, bs.causal(), impl="triton", kv_len=lengths, route="prefill")
    assert (out.double().cpu() - expected).abs().max() <= tolerance(expected, q.dtype, 150)


@pytest.mark.parametrize("head_dim", [80, 320])
def test_a_batch_without_keys_reads_none_in_any_mode(device, head_dim):
    """A descriptor holds a row at least; `none` visits all tiles."""
    q, k, v = inputs(device, 5, 70, heads=(2, 1), head_dim=head_dim, dtype=torch.float16, batch=2)
    lengths = torch.tensor([0, 33], dtype=torch.int32, device=device)
    for batch, length in enumerate(lengths.tolist()):
        k[batch, :, length:] = v[batch, :, length:] = math.nan
    for skip in ("none", "mask", "bounds"):
        options = {"impl": "triton", "skip": skip, "kv_len": lengths, "route": "prefill", "return_lse": True}
        out, lse = bs.attention(q, k, v, bs.causal(), **options)
        assert (out[0] == 0).all() and (lse[0] == -math.inf).all() and out[1].isfinite().all(), skip


def test_tables_that_are_kept_are_written_before_another_stream_can_read_them(monkeypatch):
    from blockskip.attention.prefill import mask_bits

    done = []
    monkeypatch.setattr(mask_bits, "_finish", done.append)
    mask_bits.mask_bits(bs.sink(61), 5, 70, 65, 70, 1, 1, "cpu")
    mask_bits.map_tables(bs.sink(61), Grid(5, 70, 128, 64, 65), (1, 1), True, torch.device("cpu"))
    assert done == [torch.device("cpu")] * 2


def test_heads_interleave_while_they_are_small_beside_the_device(device):
    from blockskip.attention.call import AttentionCall
    from blockskip.attention.prefill import plan, schedule

    def interleaved(q_len, heads, mask, sharing=1):
        q, k, v = inputs("cpu", q_len, q_len, heads=(heads, heads // sharing))
        call = AttentionCall(q, k, v, mask, 1.0, None, q_len, None, "auto", "triton", None, False, False)
        made = plan.plan_kernel(call, TileConfig(64, 16, 4, 1))
        return schedule.interleaved_heads(call, made, heads)

    assert [interleaved(n, 6, bs.causal()) for n in (33, 65, 300)] == [3, 2, 1]  # 256 rows on one multiprocessor
    assert interleaved(300, 6, bs.causal(), sharing=3) == 3  # those that share keys
    assert interleaved(33, 6, bs.sliding_window(4)) == 1  # rows of a window are as long as each other
    assert interleaved(33, 14, bs.causal()) == 2  # what divides the heads


@pytest.mark.parametrize("q_start", [0, 5, -7, 200])
def test_queries_that_start_anywhere(device, q_start):
    q, k, v = inputs(device, 20, 40)
    check_modes(q, k, v, bs.sliding_window(11), q_start=q_start)
    check_modes(q, k, v, MASKS["chunked"], q_start=q_start)


@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("name", ["causal", "window", "sink"])
def test_keys_beyond_kv_len_may_hold_nan(device, as_tensor, name):
    q, k, v = inputs(device, 12, 50, batch=2)
    k[:, :, 21:], v[:, :, 21:] = math.nan, math.nan
    kv_len = torch.tensor(21, dtype=torch.int32, device=device) if as_tensor else 21
    check_modes(q, k, v, MASKS[name], kv_len=kv_len)
    if as_tensor:
        check_modes(q, k, v, MASKS[name], kv_len=kv_len, q_start=9)


def test_a_length_for_each_batch(device):
    q, k, v = inputs(device, 12, 50, batch=3)
    kv_len = torch.tensor([50, 17, 33], dtype=torch.int32, device=device)
    for b, n in enumerate(kv_len.tolist()):
        k[b, :, n:], v[b, :, n:] = math.nan, math.nan
    for name in ("causal", "sink"):
        check_modes(q, k, v, MASKS[name], kv_len=kv_len)
        check_modes(q, k, v, MASKS[name], kv_len=kv_len, q_start=8)


def test_a_length_on_the_device_is_bounded_for_memory_safety(device):
    q, k, v = inputs(device, 12, 30, batch=2)
    out, lse = bs.attention(
        q, k, v, bs.causal(), impl="triton", config=SMALL, q_start=18, return_lse=True,
        kv_len=torch.tensor([10_000_000, -5], dtype=torch.int32, device=device),
    )  # fmt: skip
    expected, _ = truth(q, k, v, bs.causal(), q_start=18)
    torch.testing.assert_close(out[0].double().cpu(), expected[0], atol=1e-5, rtol=1e-5)
    assert (out[1] == 0).all() and (lse[1] == -math.inf).all()


@pytest.mark.parametrize("scale", [0.0, -0.4, 2.5, 1e-300])
def test_any_scale(device, scale):
    """The last is 0 in float32."""
    check_modes(*inputs(device, 20, 33), bs.causal(), scale=scale, scores=40.0)


def test_logits_of_ten_thousand(device):
    q, k, v = inputs(device, 20, 33)
    check_modes(q * 1000, k * 10, v, bs.causal(), scale=0.25, scores=5e4)


def test_strided_and_expanded_views(device):
    x = torch.randn(2, 33, 3, 2, 16, generator=torch.Generator().manual_seed(0)).to(device)
    check_modes(*(x[:, :, i].transpose(1, 2) for i in range(3)), bs.causal())
    row = torch.randn(1, 1, 1, 16, generator=torch.Generator().manual_seed(1)).to(device).expand(2, 2, 33, 16)
    check_modes(row, row, row, bs.sliding_window(5))
    reversed_dims = torch.randn(2, 16, 33, 2, generator=torch.Generator().manual_seed(2)).to(device).permute(0, 3, 2, 1)
    check_modes(reversed_dims, reversed_dims.clone(), reversed_dims, bs.causal())


def test_masks_that_differ_between_batches_and_heads(device):
    q, k, v = inputs(device, 21, 35, heads=(4, 2), batch=2)
    tensor = torch.rand(2, 4, 21, 35, generator=torch.Generator().manual_seed(0)) < 0.3
    expected, _ = truth(q, k, v, bs.dense(tensor))
    for skip in ("none", "mask", "map"):
        out, visits = bs.attention(
            q, k, v, bs.dense(tensor.to(device)), impl="triton", skip=skip, config=SMALL, record=True
        )
        torch.testing.assert_close(out.double().cpu(), expected, atol=1e-5, rtol=1e-5)
        assert visits.shape[:2] == (2, 4)
    mod = bs.mask_mod(lambda b, h, q_idx, kv_idx: (q_idx + 14 - kv_idx) * (h + 1) >= b)
    expected, _ = truth(q, k, v, mod)
    for skip in ("none", "mask", "map"):
        out = bs.attention(q, k, v, mod, impl="triton", skip=skip, config=SMALL)
        torch.testing.assert_close(out.double().cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("q_start", [(1 << 29) - 9, -(1 << 29) + 1])
@pytest.mark.parametrize("mask", [bs.band(None, -(1 << 40)), bs.band(1 << 40, 0), bs.band(-(1 << 40), None)], ids=repr)
def test_limits_and_positions_far_away(device, mask, q_start):
    check_modes(*inputs(device, 9, 20), mask, q_start=q_start)


def test_nan_in_a_visible_key_is_not_hidden(device):
    q, k, v = inputs(device, 20, 20)
    k[0, 0, 3] = math.nan
    out = bs.attention(q, k, v, bs.causal(), impl="triton", config=SMALL)
    assert out[0, 0, 3:].isnan().all() and not out[0, 0, :3].isnan().any() and not out[0, 1].isnan().any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="sizes beyond the interpreter need CUDA")
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256, 320, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(1023, 1024), (799, 3), (640, 128), (1500, 2100)])
def test_hardware_sizes_with_the_tables_tiles(device, head_dim, dtype, shape):
    q, k, v = inputs(device, *shape, heads=(4, 2), head_dim=head_dim, dtype=dtype)
    for mask in (bs.causal(), bs.sliding_window(300), MASKS["sink"]):
        check_modes(q, k, v, mask, config=None)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offsets beyond 32 bits need a GPU's memory")
def test_offsets_beyond_31_bits(device):
    length = 20_000_000
    k = torch.zeros(1, 1, length, 128, dtype=torch.float16, device=device)
    k[0, 0, -64:] = torch.randn(64, 128, device=device).half()
    q = torch.randn(1, 1, 64, 128, device=device).half()
    out = bs.attention(q, k, k, bs.sliding_window(64))
    expected = bs.attention(q, k[:, :, -200:], k[:, :, -200:], bs.sliding_window(64), impl="reference")
    torch.testing.assert_close(out.float(), expected.float(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize(
    ("skip", "mask"), [("map", bs.document([20, 30])), ("mask", bs.sink(7)), ("none", bs.causal())]
)
def test_tables_are_not_made_inside_a_graph_capture(device, skip, mask, monkeypatch):
    """The first call of a mask there is an error that says what to do; later ones find what is made."""
    from blockskip.attention.prefill import mask_bits
    from blockskip.launching.repeated import REPEATED

    SHARED.clear()
    q, k, v = inputs(device, 50, 50)
    call = lambda: bs.attention(q, k, v, mask, skip=skip, impl="triton")  # noqa: E731
    with monkeypatch.context() as captured:
        captured.setattr(mask_bits, "capturing", lambda device: True)
        with pytest.raises(RuntimeError, match=r"^mask: the tables of .* make the same call once before capturing"):
            call()
    wanted = call()
    REPEATED.clear()
    monkeypatch.setattr(mask_bits, "capturing", lambda device: True)
    assert torch.equal(call(), wanted)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
@pytest.mark.parametrize(
    ("skip", "mask"), [("map", bs.document([900, 124])), ("mask", bs.sink(70)), ("none", bs.causal())]
)
def test_a_mask_known_before_is_captured_in_a_graph(device, skip, mask):
    q, k, v = inputs(device, 1024, 1024, head_dim=64, dtype=torch.bfloat16)
    wanted, graph = bs.attention(q, k, v, mask, skip=skip), torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        got = bs.attention(q, k, v, mask, skip=skip)
    graph.replay()
    assert torch.equal(got, wanted)


def test_a_config_that_does_not_fit_is_named_with_what_it_needs(device, monkeypatch):
    from blockskip.launching.dispatch import Dispatcher
    from triton.runtime.errors import OutOfResources

    def find(self, kernel, launch, **options):
        raise OutOfResources(262144, 232448, "shared memory")

    monkeypatch.setattr(Dispatcher, "find", find)
    q, k, v = inputs(device, 16, 16)
    wanted = (
        r"^config: given .*256.*\(asked for\); it needs 262144 bytes of shared memory a block, this device has 232448"
    )
    with pytest.raises(ValueError, match=wanted) as caught:
        bs.attention(q, k, v, impl="triton", config=(256, 64, 8, 2))
    assert isinstance(caught.value.__cause__, OutOfResources)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="only a device says what does not fit it")
def test_a_config_that_does_not_fit_this_device(device):
    q, k, v = inputs(device, 512, 512, head_dim=256, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"^config: given .* bytes of shared memory a block, this device has"):
        bs.attention(q, k, v, config=(256, 128, 8, 4))
