"""Decode against the float64 reference: the Triton kernels (on CUDA or in the interpreter) and `tiled`."""

import dataclasses
import math
import os

import blockskip as bs
import numpy as np
import pytest
import torch

if not torch.cuda.is_available():  # whether a kernel is interpreted is decided when its module is imported
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        import blockskip.attention.decode.launch

IMPLS = ["tiled", "triton"]
EPS = torch.finfo(torch.float32).eps


def draw(device, *, batch=1, heads=(4, 2), q_len=1, kv_len=70, head_dim=16, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = ((heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len))
    made = (torch.randn((batch, h, n, head_dim), generator=generator) for h, n in sizes)
    return tuple(t.to(device, dtype) for t in made)


def truth(q, k, v, **arguments):
    arguments = {name: a.cpu() if isinstance(a, torch.Tensor) else a for name, a in arguments.items()}
    inputs = (t.double().cpu() for t in (q, k, v))
    return bs.decode(*inputs, impl="reference", return_lse=True, **arguments)


def check(impl, q, k, v, *, splits="auto", scores=8.0, clean=None, **arguments):
    """`scores` bounds |scale q k|; `clean`: k and v without what must not be read. Returns (out, lse)."""
    if impl == "tiled" and q.is_cuda and isinstance(arguments.get("kv_len"), torch.Tensor):
        pytest.skip("tiled does not read a kv_len tensor back from a GPU")
    expected, expected_lse = truth(q, *(clean or (k, v)), **arguments)
    before = [t.clone() for t in (q, k, v)]
    out, lse = bs.decode(q, k, v, impl=impl, splits=splits, return_lse=True, **arguments)
    for t, was in zip((q, k, v), before, strict=True):
        torch.testing.assert_close(t, was, rtol=0, atol=0, equal_nan=True)
    assert out.shape == q.shape and out.dtype == q.dtype and lse.shape == q.shape[:3] and lse.dtype == torch.float32
    # derived: a rounding of the weights, one of the output, of the scores inside the exponent, and float32 sums
    rounding = torch.finfo(q.dtype).eps
    tolerance = expected.abs().max().item() * (rounding + scores * EPS * 4) + rounding * 3 + k.shape[2] * EPS
    assert (out.double().cpu() - expected).abs().max() <= tolerance
    seen = expected_lse.isfinite()
    assert torch.equal(lse.cpu().isfinite(), seen) and (lse.cpu()[~seen] == -math.inf).all()
    assert (out.cpu()[~seen] == 0).all()
    # sums of float32 products: rounded inputs are the same, the order is not
    slack = (scores + 4) * EPS * 16 + (1e-4 if impl == "triton" and q.dtype != torch.float32 else 0)
    assert ((lse.cpu() - expected_lse)[seen].abs() <= slack).all()
    return out, lse


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("q_len", [1, 2, 5, 8, 9, 16])
def test_query_lengths(device, impl, window, q_len):
    check(impl, *draw(device, q_len=q_len, kv_len=201), window=window, splits=3)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("window", [1, 16, 69, 70, 1 << 40])
def test_windows_about_a_tile_and_the_length(device, impl, window):
    check(impl, *draw(device, q_len=3), window=window, splits=2)


def test_the_reference_reads_nothing_before_every_window():
    q, k, v = draw("cpu", q_len=3)
    wanted = bs.decode(q, k, v, window=20, impl="reference")
    k[:, :, : 70 - 22] = v[:, :, : 70 - 22] = math.nan
    assert torch.equal(bs.decode(q, k, v, window=20, impl="reference"), wanted)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("kv_len", [1, 3, 31, 32, 33])
def test_key_lengths_about_a_tile(device, impl, kv_len):
    """Also more queries than keys: the first queries stand before the first key and see nothing."""
    check(impl, *draw(device, q_len=4, kv_len=kv_len), splits=2)
    check(impl, *draw(device, q_len=4, kv_len=kv_len), splits=1, window=2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("heads", [(4, 4), (4, 1), (6, 2), (5, 1), (24, 1)])
def test_grouped_heads_in_any_ratio(device, impl, heads):
    """24 heads x 4 queries are 96 rows: more than one program holds."""
    check(impl, *draw(device, batch=2, heads=heads, q_len=4, kv_len=71), window=40, splits=2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("head_dim", [8, 40, 96, 320])
def test_head_sizes_that_are_no_power_of_two(device, impl, head_dim):
    check(impl, *draw(device, heads=(6, 2), head_dim=head_dim), splits=2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("splits", [1, 3])
def test_half_precision(device, impl, dtype, splits):
    check(impl, *draw(device, q_len=3, kv_len=200, head_dim=64, dtype=dtype), window=150, splits=splits)


@pytest.mark.parametrize("splits", [1, 2, 7, 65, "auto"])
def test_any_number_of_splits_more_than_there_are_tiles_too(device, splits):
    inputs = draw(device, heads=(2, 1), q_len=2, kv_len=333)
    check("triton", *inputs, splits=splits)
    check("triton", *inputs, splits=splits, window=50, kv_len=300)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("as_tensor", [False, True])
@pytest.mark.parametrize("window", [None, 11])
def test_slots_that_no_query_sees_may_hold_nan(device, impl, as_tensor, window):
    """Beyond kv_len, and before the first query's window, where a sliding layer's cache may have been given up."""
    q, k, v = draw(device, batch=2, q_len=2, kv_len=150)
    clean = k.clone(), v.clone()
    live = slice(0 if window is None else 101 - 2 - (window - 1), 101)
    for t in (k, v):
        kept = t[:, :, live].clone()
        t.fill_(math.nan)
        t[:, :, live] = kept
    kv_len = torch.tensor(101, dtype=torch.int32, device=device) if as_tensor else 101
    check(impl, q, k, v, clean=clean, kv_len=kv_len, window=window, splits=3)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("window", [None, 9])
def test_a_length_for_each_batch(device, impl, window):
    q, k, v = draw(device, batch=4, q_len=3, kv_len=120)
    kv_len = torch.tensor([120, 17, 2, 0], dtype=torch.int32, device=device)
    for b, n in enumerate(kv_len.tolist()):
        k[b, :, n:], v[b, :, n:] = math.nan, math.nan
    check(impl, q, k, v, kv_len=kv_len, window=window, splits=3)


@pytest.mark.parametrize("impl", IMPLS)
def test_a_length_on_the_device_is_bounded_for_memory_safety(device, impl):
    q, k, v = draw(device, batch=2, kv_len=40)
    check(impl, q, k, v, kv_len=torch.tensor([10_000_000, -5], dtype=torch.int32, device=device), splits=2)


def test_few_keys_in_a_large_buffer_keep_every_split_busy(device):
    """The live tiles are divided on the device: each of 4 splits has one of the 4 tiles, wherever the window begins."""
    from blockskip.attention.call import DecodeArguments
    from blockskip.attention.decode import launch as decode_launch
    from blockskip.attention.decode.eager import check_decode
    from blockskip.attention.decode.plan import make_decode_plan

    q, k, v = draw(device, kv_len=2000)
    for n, window in ((4 * 32, None), (1600, 4 * 32)):
        length = torch.tensor(n, dtype=torch.int32, device=device)
        call = check_decode(DecodeArguments(q, k, v, length, window, None, 4, "triton"))
        plan = make_decode_plan(call)
        assert plan.config.block_n == 32
        parts = decode_launch.allocate_parts(call, plan)
        launch = decode_launch.prepare(call, plan, (q, k, v, torch.empty_like(q)), None, parts).launch
        decode_launch.decode_kernel[launch.grid](*launch.arguments, **launch.constants)
        assert (parts.row_sum > 0).all(), (n, window)


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize(("kv_len", "window"), [(300, None), (300, 20), (3, None), (0, None)])
def test_either_merge(device, fused, kv_len, window):
    """By the last program of a KV head, which leaves its counter at 0, or by a second kernel."""
    from blockskip.attention.call import DecodeArguments
    from blockskip.attention.decode import launch as decode_launch
    from blockskip.attention.decode.eager import check_decode
    from blockskip.attention.decode.plan import make_decode_plan

    q, k, v = draw(device, heads=(6, 2), kv_len=300, head_dim=24)
    length = torch.tensor(kv_len, dtype=torch.int32, device=device)
    call = check_decode(DecodeArguments(q, k, v, length, window, None, 5, "triton", True))
    plan = make_decode_plan(call)
    assert plan.fused
    for _ in range(1 if device == "cpu" else 100):  # a race would show, sooner or later
        out, lse = decode_launch.decode(call, dataclasses.replace(plan, fused=fused))
        expected, expected_lse = truth(q, k, v, kv_len=length, window=window)
        torch.testing.assert_close(out.double().cpu(), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lse.cpu(), expected_lse, atol=1e-5, rtol=1e-5)
    parts = decode_launch.allocate_parts(call, plan)
    launch = decode_launch.prepare(call, plan, (q, k, v, torch.empty_like(q)), None, parts).launch
    decode_launch.decode_kernel[launch.grid](*launch.arguments, **launch.constants)
    assert (parts.arrived == 0).all()


def test_a_split_that_sees_nothing_is_not_read(device):
    q, k, v = draw(device, kv_len=300)
    out, _ = check("triton", q, k, v, kv_len=torch.tensor(3, dtype=torch.int32, device=device), splits=9)
    assert out.isfinite().all()  # its share stays as allocated: NaN


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_logits_of_ten_thousand(device, impl, sign):
    q, k, v = draw(device, q_len=2, kv_len=90)
    check(impl, q * 1000, k * 10, v, scale=0.25 * sign, splits=3, scores=5e4)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("level", [88.0, -150.0, 9000.0])
def test_uniform_logits_of_any_level(device, impl, level):
    """Where a fixed softmax maximum gives silent zeros or NaN: all weights are equal, so the result is the mean."""
    q, k, v = draw(device, kv_len=200)
    q, k = torch.ones_like(q), torch.ones_like(k)
    out = bs.decode(q, k, v, scale=level / 16, impl=impl, splits=3)
    torch.testing.assert_close(out[:, ::2], v.mean(2, keepdim=True), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("scale", [0.0, -0.4, 2.5, 1e-300])
def test_any_scale(device, impl, scale):
    check(impl, *draw(device, q_len=2), scale=scale, splits=2, scores=40.0)


@pytest.mark.parametrize("impl", IMPLS)
def test_strided_and_expanded_views(device, impl):
    generator = torch.Generator().manual_seed(0)
    cache = torch.randn((2, 90, 2, 2, 16), generator=generator).to(device)  # [B, L, k or v, H, D]
    k, v = cache[:, :, 0].transpose(1, 2), cache[:, :, 1].transpose(1, 2)
    q = torch.randn((2, 3, 4, 16), generator=generator).to(device).transpose(1, 2)
    check(impl, q, k, v, window=33, splits=2)
    row = torch.randn((1, 1, 1, 16), generator=generator).to(device).expand(2, 2, 40, 16)
    check(impl, row[:, :, :4], row, row, splits=2)
    backwards = torch.randn((2, 16, 90, 2), generator=generator).to(device).permute(0, 3, 2, 1)
    check(impl, q, backwards, v, splits=2)


@pytest.mark.parametrize("splits", [1, 2])
def test_slots_so_far_apart_that_a_tile_passes_31_bits(device, splits):
    """5 GB of zeros, of which on a CPU only the pages that hold a slot take memory: numpy's zeros are lazy."""
    rows, step, head_dim = 40, 1 << 26, 16
    clean = draw(device, heads=(2, 1), q_len=2, kv_len=rows, dtype=torch.float16)
    buffer = torch.from_numpy(np.zeros((rows - 1) * step + 2 * head_dim, np.float16)).to(device)
    k, v = (buffer.as_strided((1, 1, rows, head_dim), (0, 0, step, 1), offset) for offset in (0, head_dim))
    k.copy_(clean[1]), v.copy_(clean[2])
    out = bs.decode(clean[0], k, v, window=30, impl="triton", splits=splits)
    torch.testing.assert_close(out, bs.decode(*clean, window=30, impl="reference"), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_in_a_visible_key_is_not_hidden(device, impl):
    q, k, v = draw(device, heads=(2, 2))
    k[0, 0, 3] = math.nan
    out = bs.decode(q, k, v, impl=impl, splits=3)
    assert out[0, 0].isnan().all() and not out[0, 1].isnan().any()


def test_tiled_reads_the_window_and_not_the_buffer():
    """The buffer has 2**28 slots, all the same memory: whatever went over all of them would never end."""
    row = torch.randn((1, 2, 1, 16), generator=torch.Generator().manual_seed(0))
    buffer = row.expand(1, 2, 1 << 28, 16)
    out = bs.decode(torch.ones(1, 4, 3, 16), buffer, buffer, window=1024, impl="tiled")
    torch.testing.assert_close(out, row.repeat_interleave(2, 1).expand_as(out))


def test_auto_says_what_it_chose(device):
    plan = bs.explain_decode(*draw(device, kv_len=4000), impl="triton")
    assert plan.splits > 1 and plan.programs == 2 * plan.splits and "splits" in str(plan)
    assert bs.explain_decode(*draw(device)).impl == ("triton" if device == "cuda" else "tiled")
    assert bs.explain_decode(*draw(device, kv_len=4000), impl="triton", splits=5).splits == 5


Q, K = torch.ones(1, 4, 2, 16), torch.ones(1, 2, 20, 16)
ERRORS = [
    (lambda: bs.decode(torch.ones(1, 4, 17, 16), K, K), ValueError, "q: given 17 queries; from 1 to 16"),
    (lambda: bs.decode(Q, K, K, window=0), ValueError, "window: given 0; must be at least 1"),
    (lambda: bs.decode(Q, K, K, window=2.0), TypeError, "window: given 2.0; an int"),
    (lambda: bs.decode(Q, K, K, splits=0), ValueError, "splits: given 0; must be at least 1"),
    (lambda: bs.decode(Q, K, K, splits=1 << 20), ValueError, "splits: given 1048576; must be from 1 to 65535"),
    (lambda: bs.decode(Q, K, K, splits="many"), ValueError, "splits: given 'many'; an int"),
    (lambda: bs.decode(Q, K, K, splits=True), TypeError, "splits: given True; an int"),
    (lambda: bs.decode(Q, K, K, kv_len=21), ValueError, "kv_len: given 21; must be from 1 to k's length 20"),
    (lambda: bs.decode(Q, K, K, kv_len=0), ValueError, "kv_len: given 0"),
    (lambda: bs.decode(Q, K, K, kv_len=torch.tensor(3)), TypeError, "kv_len: given a tensor of torch.int64"),
    (lambda: bs.decode(Q, K, K, kv_len=torch.ones(3).int()), ValueError, r"kv_len: given shape \(3,\)"),
    (lambda: bs.decode(Q, K, K, scale=math.inf), ValueError, "scale: given inf; must be finite"),
    (lambda: bs.decode(Q, K, K, impl="cuda"), ValueError, "impl: given 'cuda'; allowed are auto, reference"),
    (lambda: bs.decode(Q.double(), K.double(), K.double()), TypeError, "q: given torch.float64"),
    (lambda: bs.decode(Q, K[:, :, :, :8], K), ValueError, "v: given shape"),
    (lambda: bs.decode(Q[:, :3], K, K), ValueError, "q: given 3 heads; must be a multiple of k's 2"),
    (lambda: bs.decode(Q.clone().requires_grad_(), K, K), ValueError, "q: requires grad"),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_name_the_argument_what_was_given_and_what_is_allowed(case):
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_on_cpu_tensors_says_how(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        bs.decode(Q, K, K, impl="triton")
    assert "TRITON_INTERPRET" not in os.environ


def test_old_devices_get_a_clear_error():
    from blockskip.attention.decode.plan import decode_config

    with pytest.raises(ValueError, match=r"compute capability 8.0 or higher, this device has 7.5"):
        decode_config((7, 5), 128, torch.float16, 2)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_torch_compile_and_the_operator_go_through(device, as_tensor):
    import blockskip.attention.decode.ops  # noqa: F401

    q, k, v = draw(device, q_len=2)
    kv_len = torch.tensor([50], dtype=torch.int32, device=device) if as_tensor else 50

    def model(q, k, v):
        out, lse = bs.decode(q * 2, k, v, kv_len=kv_len, window=30, scale=0.2, return_lse=True)
        return out + bs.decode(q, k, v, splits=2), lse

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(q, k, v), model(q, k, v), strict=True):
        torch.testing.assert_close(got, expected)
    length = (None, kv_len) if as_tensor else (50, None)
    torch.library.opcheck(torch.ops.blockskip.decode, (q, k, v, *length, 30, 0.25, None, "auto", True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="sizes beyond the interpreter need CUDA")
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256, 320, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("q_len", [1, 4, 8])
def test_hardware_sizes_with_the_tables_tiles(device, head_dim, dtype, q_len):
    q, k, v = draw(device, batch=2, heads=(12, 2), q_len=q_len, kv_len=3001, head_dim=head_dim, dtype=dtype)
    for window, kv_len in ((None, 3001), (1024, 2900), (1, 3001)):
        check("triton", q, k, v, window=window, kv_len=kv_len)
        check("triton", q, k, v, window=window, kv_len=kv_len, splits=1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
def test_a_cuda_graph_replays_with_new_lengths(device):
    q, k, v = draw(device, batch=2, heads=(8, 4), kv_len=4096, head_dim=128, dtype=torch.bfloat16)
    length = torch.full((2,), 4096, dtype=torch.int32, device=device)
    bs.decode(q, k, v, kv_len=length, window=1024)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = bs.decode(q, k, v, kv_len=length, window=1024)
    for lengths in ([4096, 5], [1, 2000], [300, 4000]):
        length.copy_(torch.tensor(lengths, dtype=torch.int32))
        graph.replay()
        expected, _ = truth(q, k, v, kv_len=length, window=1024)
        torch.testing.assert_close(out.double().cpu(), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="offsets beyond 32 bits need a GPU's memory")
def test_offsets_beyond_31_bits(device):
    length = 20_000_000
    k = torch.zeros(1, 1, length, 128, dtype=torch.float16, device=device)
    k[0, 0, -64:] = torch.randn(64, 128, device=device).half()
    q = torch.randn(1, 4, 2, 128, device=device).half()
    out = bs.decode(q, k, k, window=64)
    expected = bs.decode(q, k[:, :, -200:], k[:, :, -200:], window=64, impl="reference")
    torch.testing.assert_close(out.float(), expected.float(), atol=2e-3, rtol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("q_len", [1, 3, 16])
@pytest.mark.parametrize("window", [None, 700])
def test_pytorch_s_decode_is_exact_at_huge_logits_and_its_lse_in_16_bits(dtype, q_len, window):
    """Scores are whole numbers near 10,240, exact in float32; ordinary ones have float32's roundings, not exponentials
    of 16 bits."""
    generator, eps = torch.Generator().manual_seed(q_len), torch.finfo(torch.float32).eps
    q, k = (torch.randint(-2, 3, (1, h, n, 16), generator=generator).to(dtype) for h, n in ((4, q_len), (2, 900)))
    v = torch.randn(1, 2, 900, 16, generator=generator).to(dtype)
    for huge in (False, True):
        if huge:
            q[..., 0], k[..., 0] = 128, 80
        out, lse = bs.decode(q, k, v, window=window, scale=1.0, impl="tiled", return_lse=True)
        expected, expected_lse = truth(q, k, v, window=window, scale=1.0)
        own = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, bs.band(None if window is None else window - 1, 0).dense(q_len, 900), scale=1.0, enable_gqa=True
        )
        rounding = torch.finfo(dtype).eps / 2 * expected.abs().max()
        assert (out - expected).abs().max() <= 2 * (own - expected).abs().max() + rounding
        assert (lse - expected_lse).abs().max() <= 2 * eps * expected_lse.abs().max()
