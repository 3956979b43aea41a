"""Keys and values in float8: every implementation against the float64 reference of what they dequantise to."""

import math

import blockskip as bs
import pytest
import torch
from blockskip.attention.caches import FLOAT8
from blockskip.attention.decode.plan import WGMMA_ROWS, decode_config

IMPLS = ["tiled", "triton"]
EPS = torch.finfo(torch.float32).eps
SMALL = (16, 16, 1, 1)
NAN_BYTE = 0x7F


def draw(device, *, batch=1, heads=(4, 2), q_len=3, kv_len=70, head_dim=32, dtype=torch.float32, seed=0):
    """q, float8 k and v, and the float32 scales that `quantize_kv` gives, of heads that differ in size."""
    generator = torch.Generator().manual_seed(seed)
    q = torch.randn((batch, heads[0], q_len, head_dim), generator=generator)
    k, v = (torch.randn((batch, heads[1], kv_len, head_dim), generator=generator) for _ in range(2))
    levels = 3.0 ** torch.arange(heads[1])[:, None, None]
    (k, k_scale), (v, v_scale) = bs.quantize_kv(k / levels), bs.quantize_kv(v * levels)
    scales = {"k_scale": k_scale.to(device), "v_scale": v_scale.to(device)}
    return q.to(device, dtype), k.to(device), v.to(device), scales


def dequantized(x, scale):
    """In float64, number by number."""
    scale = torch.as_tensor(1.0 if scale is None else scale, dtype=torch.float64).cpu()
    return x.cpu().double() * (scale[:, None, None] if scale.ndim else scale)


def truth(call, q, k, v, *mask, k_scale=None, v_scale=None, **arguments):
    arguments = {name: a.cpu() if isinstance(a, torch.Tensor) else a for name, a in arguments.items()}
    tensors = q.cpu().double(), dequantized(k, k_scale), dequantized(v, v_scale)
    return call(*tensors, *mask, impl="reference", return_lse=True, **arguments)


def check(found, expected, dtype, keys, scores=8.0):
    """Derived: a rounding of the weights, one of the output, of the scores inside the exponent, and float32 sums."""
    (out, lse), (want, want_lse) = found, expected
    assert out.dtype == dtype and lse.dtype == torch.float32
    size, rounding = want.abs().max().item(), torch.finfo(dtype).eps
    tolerance = size * (rounding + scores * EPS * 16) + (rounding * 3 + keys * EPS) * max(size, 1)
    assert (out.double().cpu() - want).abs().max() <= tolerance
    seen = want_lse.isfinite()
    assert torch.equal(lse.cpu().isfinite(), seen) and (out.cpu()[~seen] == 0).all()
    slack = (scores + 4) * EPS * 16 + (1e-4 if dtype != torch.float32 else 0)
    assert ((lse.cpu() - want_lse)[seen].abs() <= slack).all()


def decode(impl, q, k, v, *, clean=None, splits="auto", **arguments):
    """Checked; clean: k and v without what must not be read."""
    if impl == "tiled" and q.is_cuda and isinstance(arguments.get("kv_len"), torch.Tensor):
        pytest.skip("tiled does not read a kv_len tensor back from a GPU")
    expected = truth(bs.decode, q, *(clean or (k, v)), **arguments)
    found = bs.decode(q, k, v, impl=impl, splits=splits, return_lse=True, **arguments)
    check(found, expected, q.dtype, k.shape[2])
    return found


def attend(impl, q, k, v, mask, *, clean=None, **arguments):
    if impl == "tiled" and q.is_cuda and isinstance(arguments.get("kv_len"), torch.Tensor):
        pytest.skip("tiled does not read a kv_len tensor back from a GPU")
    expected = truth(bs.attention, q, *(clean or (k, v)), mask, **arguments)
    config = {"config": SMALL} if impl == "triton" else {}
    found = bs.attention(q, k, v, mask, impl=impl, return_lse=True, **config, **arguments)
    check(found, expected, q.dtype, k.shape[2])
    return found


def with_nan(*tensors, live):
    """Copies that hold NaN in all slots but those `live`."""
    found = []
    for t in tensors:
        copy = torch.full_like(t.view(torch.uint8), NAN_BYTE)
        copy[:, :, live] = t.view(torch.uint8)[:, :, live]
        found.append(copy.view(FLOAT8))
    return found


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [8, 32, 40, 96])
def test_decode_of_any_head_size_in_every_dtype(device, impl, dtype, head_dim):
    """Of 32 and 96 dimensions the kernel reads values in words of two, of the others one by one."""
    q, k, v, scales = draw(device, batch=2, heads=(6, 2), kv_len=133, head_dim=head_dim, dtype=dtype)
    decode(impl, q, k, v, **scales, splits=2)
    decode(impl, q, k, v, **scales, splits=1, window=50, kv_len=130)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("mask", [None, bs.causal(), bs.sliding_window(11), bs.sink(3) | bs.sliding_window(9)], ids=str)
def test_attention_with_any_mask_in_every_dtype(device, impl, dtype, mask):
    q, k, v, scales = draw(device, q_len=37, kv_len=61, head_dim=24, dtype=dtype)
    attend(impl, q, k, v, mask, **scales)


@pytest.mark.parametrize("impl", IMPLS)
def test_all_that_a_call_may_bring_at_once(device, impl):
    """Sinks, a soft cap, lengths and first slots on the device, a ring; NaN in what may hold it: for `decode` also what
    lies before the window."""
    q, k, v, scales = draw(device, batch=2, q_len=2, kv_len=150, head_dim=32)
    lengths, starts = (torch.tensor(n, dtype=torch.int32, device=device) for n in ([101, 60], [7, 0]))
    sinks = torch.tensor([0.5, -1.0, 2.0, 0.0], device=device)
    more = {"sinks": sinks, "softcap": 2.0, **scales}
    for arguments in ({"kv_len": 101}, {"kv_len": torch.tensor(101, dtype=torch.int32, device=device)}):
        dirty = with_nan(k, v, live=slice(101 - 2 - 10, 101))
        decode(impl, q, *dirty, clean=(k, v), window=11, splits=3, **arguments, **more)
        dirty = with_nan(k, v, live=slice(101))
        attend(impl, q, *dirty, bs.sliding_window(11), clean=(k, v), **arguments, **more)
    decode(impl, q, k, v, kv_len=lengths, kv_start=starts, **more)
    attend(impl, q, k, v, bs.causal(), kv_len=lengths, kv_start=starts, **more)
    decode(impl, q, k, v, kv_len=333, window=100, ring=True, **more)
    attend(impl, q, k, v, bs.sliding_window(100), kv_len=333, ring=True, **more)


@pytest.mark.parametrize("impl", IMPLS)
def test_any_strides(device, impl):
    q, _, _, scales = draw(device, batch=2, heads=(4, 2), head_dim=32)
    cache = bs.quantize_kv(torch.randn((2, 90, 4, 32), generator=torch.Generator().manual_seed(1)))[0].to(device)
    k, v = cache[:, :, :2].transpose(1, 2), cache[:, :, 2:].transpose(1, 2)
    decode(impl, q, k, v, **scales, splits=2)
    attend(impl, q, k, v, bs.causal(), **scales)
    odd = torch.empty((2, 2, 90, 33), dtype=torch.uint8, device=device)[..., :32].view(FLOAT8)
    odd.copy_(v)
    decode(impl, q, k, odd, **scales)
    row = k[:1, :1, :1].expand(2, 2, 90, 32)
    decode(impl, q, row, row, **scales)


@pytest.mark.parametrize("impl", ["reference", *IMPLS])
@pytest.mark.parametrize("form", ["none", "numbers", "scalars", "strided", "negative", "zero", "tiny"])
def test_scales_of_any_form_and_value(device, impl, form):
    q, k, v, scales = draw(device, head_dim=32)
    k_scale, v_scale = scales.values()
    given = {
        "none": (None, None),
        "numbers": (0.01, 2),
        "scalars": (k_scale[0], v_scale[1]),
        "strided": (k_scale.repeat_interleave(3)[::3], v_scale.flip(0)),
        "negative": (-k_scale, -v_scale),
        "zero": (torch.zeros_like(k_scale), v_scale * 0),
        "tiny": (k_scale * 1e-38, v_scale),
    }[form]
    if given[0] is None:
        k = (k.float() / 64).to(FLOAT8)
    arguments = dict(zip(scales, given, strict=True))
    if impl == "reference":
        check(bs.decode(q, k, v, impl=impl, return_lse=True, **arguments), truth(bs.decode, q, k, v, **arguments),
              q.dtype, 70)  # fmt: skip
        return
    decode(impl, q, k, v, splits=2, **arguments)
    attend(impl, q, k, v, bs.causal(), **arguments)
    decode(impl, q, k, v, softcap=1.5, scale=-0.2, **arguments)
    attend(impl, q, k, v, bs.causal(), softcap=1.5, scale=-0.2, **arguments)


@pytest.mark.parametrize("level", [1e-24, 1e-3, 1e6, 1e30])
def test_queries_of_any_size_are_exact_in_float16(device, level):
    """Down to 2**-28 of a row's largest number, and below off by 2**-39 of it; the interpreter has no bfloat16.

    Numbers below 2**-126 are not among them: a GPU may take them for 0.
    """
    from float8_parts import scaled_rows

    x = torch.randn((4, 512), generator=torch.Generator().manual_seed(0)).bfloat16().float() * level
    x = x.bfloat16().float()
    x[1, 3:] *= 2.0**-30
    x[2] = 0
    out, undo = scaled_rows(x.to(device, torch.bfloat16 if device == "cuda" else torch.float32))
    largest = x.abs().amax(1, keepdim=True)
    back = out.double().cpu() * undo.double().cpu()[:, None]
    off = (back - x.double()).abs()
    assert (off <= largest.double() * 2.0**-39).all() and (off[x.abs() >= largest * 2.0**-27] == 0).all()
    assert out.abs().amax() < 2**15 and (undo.log2() % 1 == 0).all()


def test_words_are_divided_into_even_and_odd_columns(device):
    """Each of the 256 float8, but the NaN that the interpreter does not know, in either place."""
    from float8_parts import divided

    x = torch.arange(256, dtype=torch.int16).to(torch.uint8)
    x[(x & 0x7F) == NAN_BYTE] = 0
    x = torch.stack([x, x.flip(0)], -1).reshape(16, 32).view(FLOAT8).to(device)
    even, odd = divided(x)
    assert torch.equal(even, x.half()[:, ::2]) and torch.equal(odd, x.half()[:, 1::2])


@pytest.mark.skipif(torch.cuda.is_available(), reason="tensor cores sum products in another order")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_a_cache_of_exact_numbers_gives_the_bits_of_one_in_q_s_dtype(device, dtype):
    q, k, v, _ = draw(device, q_len=20, head_dim=24, dtype=dtype)
    ones = torch.ones(2, device=device)
    want = bs.attention(q, k.to(dtype), v.to(dtype), bs.causal(), scale=0.001, impl="triton", config=SMALL)
    for scales in ({}, {"k_scale": ones, "v_scale": ones[0]}):
        got = bs.attention(q, k, v, bs.causal(), scale=0.001, impl="triton", config=SMALL, **scales)
        assert torch.equal(got, want)


def test_all_skip_modes_give_the_same_bits(device):
    q, k, v, scales = draw(device, q_len=37, kv_len=61)
    found = [
        bs.attention(q, k, v, bs.sliding_window(9), skip=skip, impl="triton", config=SMALL, **scales)
        for skip in ("none", "mask", "bounds", "map")
    ]
    assert all(torch.equal(out, found[0]) for out in found)


def test_pytorch_converts_a_long_cache_piece_by_piece(monkeypatch):
    """No float copy of the cache is made: what is converted at once is bounded, here to 64 keys."""
    from blockskip.attention import pieces

    monkeypatch.setattr(pieces, "PLAIN_KEYS", 64)
    q, k, v, scales = draw("cpu", kv_len=1000)
    sizes, real = [], pieces._flash
    monkeypatch.setattr(pieces, "_flash", lambda q, k, *rest: sizes.append(k.shape[2]) or real(q, k, *rest))
    decode("tiled", q, k, v, **scales)
    decode("tiled", q, k, v, window=500, **scales)
    assert max(sizes) == 64 and sum(sizes) >= 1000 + 500


def snr_db(got, want):
    return 10 * math.log10(want.square().sum() / (got - want).square().sum())


def test_the_error_of_float8_in_decibel():
    """What `quantize_kv` says: 31.5 dB of the numbers, 28.3 dB of the result, whatever the heads' sizes."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((2, h, n, 128), generator=generator) for h, n in ((8, 16), (4, 1024), (4, 1024)))
    levels = torch.tensor([1e-4, 1.0, 30.0, 1e4])[:, None, None]
    (k8, k_scale), (v8, v_scale) = bs.quantize_kv(k), bs.quantize_kv(v * levels)
    assert abs(snr_db(dequantized(k8, k_scale), k.double()) - 31.5) < 0.2
    got = bs.attention(q, k8, v8, k_scale=k_scale, v_scale=v_scale, impl="reference")
    want = bs.attention(q.double(), k.double(), (v * levels).double(), impl="reference")
    heads = [snr_db(got[:, head].double(), want[:, head]) for head in range(8)]
    # each by itself: with a scale a tensor the small ones would be lost
    assert min(heads) > 27.3 and abs(sum(heads) / 8 - 28.3) < 0.2


def test_what_quantize_kv_makes():
    x = torch.randn((2, 3, 50, 16), generator=torch.Generator().manual_seed(0)).bfloat16()
    x[:, 1] = 0
    made, scale = bs.quantize_kv(x)
    assert made.dtype == FLOAT8 and made.shape == x.shape and scale.dtype == torch.float32 and scale[1] == 1
    torch.testing.assert_close(scale[[0, 2]], x.abs().amax((0, 2, 3)).float()[[0, 2]] / 448)
    off = (dequantized(made, scale) - x.double()).abs()
    assert (off <= torch.maximum(x.double().abs() / 16, scale.double()[:, None, None] * 2**-10)).all()
    later, same = bs.quantize_kv(x[:, :, :1] * 100, scale)  # tokens that join a cache
    assert torch.equal(same, scale) and not later.float().isnan().any()
    assert later.float().abs().max() == 448
    alone, one = bs.quantize_kv(x, scale[0])
    assert one.shape == (3,) and torch.equal(alone[:, 0].view(torch.uint8), made[:, 0].view(torch.uint8))


def test_explain_says_that_caches_are_float8(device):
    q, k, v, scales = draw(device)
    line = "caches  torch.float8_e4m3fn, converted to q's dtype tile by tile; k_scale a KV head, v_scale none"
    for plan in (bs.explain(q, k, v, k_scale=scales["k_scale"]), bs.explain_decode(q, k, v, k_scale=scales["k_scale"])):
        assert line in str(plan)
    assert "caches" not in str(bs.explain(q, k.float(), v.float()))
    assert "v_scale none; by the plain kernel" in str(bs.explain(q, k, v, impl="triton", route="prefill"))
    assert "by the plain" not in str(bs.explain(q, k, v, bs.causal(), impl="triton", route="decode"))


def test_prefill_on_hopper_takes_the_plain_kernel():
    from blockskip.attention.call import AttentionCall
    from blockskip.attention.prefill import plan
    from blockskip.config import TileConfig

    q = torch.empty((1, 2, 512, 128), dtype=torch.bfloat16, device="meta")
    config = TileConfig(128, 128, 12, 2)
    for k, specialized in ((q, True), (q.to(FLOAT8), False)):
        call = AttentionCall(q, k, k, bs.causal(), 0.1, None, 512, None, "auto", "triton", config, False, False)
        assert plan.plan_kernel(call, config, capability=(9, 0)).config.warp_specialized == specialized


def test_devices_without_float8_get_a_clear_error():
    from blockskip.attention.caches import check_float8_capability

    with pytest.raises(ValueError, match=r"k: given torch.float8_e4m3fn; .* from compute capability 8.9 on, .* 8.6"):
        check_float8_capability((8, 6))
    check_float8_capability((8, 9))


@pytest.mark.parametrize("as_number", [False, True])
def test_torch_compile_and_the_operators_go_through(device, as_number):
    q, k, v, scales = draw(device)
    scales = {"k_scale": 0.01, "v_scale": 0.5} if as_number else scales

    def model(q, k, v):
        return bs.decode(q * 2, k, v, kv_len=50, **scales), bs.attention(q, k, v, bs.causal(), **scales)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(q, k, v), model(q, k, v), strict=True):
        torch.testing.assert_close(got, expected)


def test_repeated_calls_read_the_scales_of_each(device):
    q, k, v, scales = draw(device)
    for factor in (1.0, 2.0, -1.0):
        more = {name: scale * factor for name, scale in scales.items()}
        decode("triton", q, k, v, **more, splits=2)
        attend("triton", q, k, v, bs.causal(), **more)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="sizes beyond the interpreter need CUDA")
@pytest.mark.parametrize("head_dim", [64, 80, 128, 256, 512])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_hardware_sizes_with_the_tables_tiles(device, head_dim, dtype):
    for q_len in (1, 4, 16):
        q, k, v, scales = draw(device, batch=2, heads=(12, 2), q_len=q_len, kv_len=3001, head_dim=head_dim, dtype=dtype)
        for window, kv_len, splits in ((None, 3001, "auto"), (1024, 2900, "auto"), (1, 3001, 1)):
            decode("triton", q, k, v, window=window, kv_len=kv_len, splits=splits, **scales)
    q, k, v, scales = draw(device, heads=(6, 2), q_len=300, kv_len=1100, head_dim=head_dim, dtype=dtype)
    expected, found = truth(bs.attention, q, k, v, bs.sliding_window(500), **scales), []
    for skip in ("none", "mask", "bounds", "map"):
        found.append(bs.attention(q, k, v, bs.sliding_window(500), skip=skip, return_lse=True, **scales))
        check(found[-1], expected, dtype, 1100)
        assert torch.equal(found[-1][0], found[0][0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
def test_a_cuda_graph_replays_with_new_scales(device):
    q, k, v, scales = draw(device, heads=(8, 4), q_len=1, kv_len=4096, head_dim=128, dtype=torch.bfloat16)
    bs.decode(q, k, v, **scales)  # compiles
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = bs.decode(q, k, v, return_lse=True, **scales)
    for factor in (1.0, 0.5):
        for scale in scales.values():
            scale.mul_(factor)
        graph.replay()
        check(found, truth(bs.decode, q, k, v, **scales), q.dtype, 4096)


Q, K = torch.ones(1, 4, 2, 16), torch.ones(1, 2, 20, 16)
K8 = K.to(FLOAT8)
ERRORS = [
    ({"k": K8}, TypeError, r"k: given torch.float8_e4m3fn; must be q's torch.float32, or k and v both"),
    ({"v": K8}, TypeError, r"v: given torch.float8_e4m3fn; must be q's torch.float32, or k and v both"),
    ({"q": Q.to(FLOAT8), "k": K8, "v": K8}, TypeError, "q: given torch.float8_e4m3fn; allowed are torch.float16"),
    ({"k": K.to(torch.float8_e5m2)}, TypeError, r"k: given torch.float8_e5m2; allowed are .*torch.float8_e4m3fn"),
    ({"k_scale": torch.ones(2)}, ValueError, "k_scale: given with k of torch.float32; only keys and values of"),
    ({"v_scale": 1.0}, ValueError, "v_scale: given with v of torch.float32"),
    ({"k": K8, "v": K8, "k_scale": torch.ones(4)}, ValueError, r"k_scale: given shape \(4,\); \[\] or \[2\] is needed"),
    ({"k": K8, "v": K8, "v_scale": torch.ones(2).double()}, TypeError, "v_scale: given torch.float64; allowed are"),
    ({"k": K8, "v": K8, "v_scale": "1"}, TypeError, "v_scale: given str '1'; a number is needed"),
    ({"k": K8, "v": K8, "k_scale": math.inf}, ValueError, "k_scale: given inf; must be finite"),
    ({"k": K8, "v": K8, "k_scale": 1e39}, ValueError, r"k_scale: given 1e\+39; float32 must hold it"),
    ({"k": K8, "v": K8, "k_scale": torch.ones(2, requires_grad=True)}, ValueError, "k_scale: requires grad"),
]


@pytest.mark.parametrize("call", [bs.attention, bs.decode, bs.explain, bs.explain_decode])
@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_name_the_argument_what_was_given_and_what_is_allowed(call, case):
    given, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call(**{"q": Q, "k": K, "v": K, **given})


def test_torch_s_own_call_takes_no_float8():
    with pytest.raises(TypeError, match=r"key: given torch.float8_e4m3fn; allowed are torch.float16, torch.bfloat16"):
        bs.scaled_dot_product_attention(Q, K8, K8, enable_gqa=True)


@pytest.mark.parametrize(
    ("x", "scale", "error", "message"),
    [
        (K8, None, TypeError, "x: given torch.float8_e4m3fn; allowed are"),
        (K[0], None, ValueError, r"x: given shape \(2, 20, 16\); \[batch, heads, length, head_dim\]"),
        (K, torch.ones(3), ValueError, r"scale: given shape \(3,\); \[\] or \[2\]"),
        (K, 1.0, TypeError, "scale: given float; a tensor is needed"),
        (K.clone().requires_grad_(), None, ValueError, "x: requires grad"),
    ],
)
def test_quantize_kv_checks_what_it_is_given(x, scale, error, message):
    with pytest.raises(error, match=message):
        bs.quantize_kv(x, scale)


@pytest.mark.parametrize("capability", [(8, 9), (9, 0), (12, 0)])
def test_few_dimensions_are_never_multiplied_by_wgmma(capability):
    """64 rows of words of up to 64 dimensions were wrong on an H200: data/TUNING.md, "Float8"."""
    configs = [decode_config(capability, d, FLOAT8, rows) for d in (16, 64) for rows in (1, 16, 64, 128, 1024)]
    assert max(config.block_m for config in configs) == WGMMA_ROWS // 2
