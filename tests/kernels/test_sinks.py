"""Attention sinks and soft caps, of `attention` and `decode`, by every implementation against plain float64 loops."""

import math

import blockskip as bs
import pytest
import torch
from blockskip.attention import pieces

IMPLS = ["tiled", "triton"]
EPS = torch.finfo(torch.float32).eps
OPTIONS = {"sinks": (True, None), "softcap": (False, 1.5), "both": (True, 2.0), "high cap": (False, 1e4)}
SMALL = (16, 16, 1, 1)


def draw(device, *, batch=1, heads=(4, 2), q_len=21, kv_len=37, head_dim=16, dtype=torch.float32, seed=0):
    """q, k, v, and sinks in q's dtype with a stride."""
    generator = torch.Generator().manual_seed(seed)
    sizes = ((batch, heads[0], q_len, head_dim), *[(batch, heads[1], kv_len, head_dim)] * 2, (heads[0], 2))
    q, k, v, sinks = (torch.randn(size, generator=generator).to(device, dtype) for size in sizes)
    return q, k, v, sinks[:, 1]


def options_of(name, sinks):
    has_sinks, softcap = OPTIONS[name]
    return {"sinks": sinks if has_sinks else None, "softcap": softcap}


def truth(call, *tensors, **arguments):
    """The reference in float64."""
    arguments = {name: a.cpu() if isinstance(a, torch.Tensor) else a for name, a in arguments.items()}
    if arguments.get("sinks") is not None:
        arguments["sinks"] = arguments["sinks"].double()
    return call(*(t.double().cpu() for t in tensors[:3]), *tensors[3:], impl="reference", return_lse=True, **arguments)


def check(found, expected, dtype, keys, scores=8.0):
    """Derived: a rounding of the weights and one of the result; in the exponent the score's roundings, with a cap 16
    more of its tangent's (`softmax.tanh_of`), and a sink's; float32 sums. `scores` bounds |scale q k|."""
    (out, lse), (want, want_lse) = found, expected
    assert out.dtype == dtype and lse.dtype == torch.float32
    rounding = torch.finfo(dtype).eps
    exponent = (scores + 4) * EPS * 12
    tolerance = want.abs().max().item() * (rounding + exponent) + rounding * 3 + keys * EPS
    assert (out.double().cpu() - want).abs().max() <= tolerance
    seen = want_lse.isfinite()
    assert torch.equal(lse.cpu().isfinite(), seen) and (lse.cpu()[~seen] == -math.inf).all()
    assert (out.cpu()[~seen] == 0).all()
    slack = exponent * 2 + (1e-4 if dtype != torch.float32 else 0)
    assert ((lse.cpu() - want_lse)[seen].abs() <= slack).all()


def attend(q, k, v, mask, impl, *, scores=8.0, modes=False, **arguments):
    """Checked; modes: by all skip modes of the kernel, which give the same bits."""
    expected = truth(bs.attention, q, k, v, mask, **arguments)
    is_band, tensor = mask is None or isinstance(mask, bs.Band), isinstance(arguments.get("kv_len"), torch.Tensor)
    if impl == "tiled" and tensor and q.is_cuda:
        pytest.skip("tiled does not read a kv_len tensor back from a GPU")
    skips = ["none", "mask", "map"] + ["bounds"] * is_band if modes and impl == "triton" else ["auto"]
    config = {} if impl == "tiled" else {"config": SMALL}
    found = [
        bs.attention(q, k, v, mask, impl=impl, skip=skip, return_lse=True, **config, **arguments) for skip in skips
    ]
    for out, lse in found:
        check((out, lse), expected, q.dtype, k.shape[2], scores)
        assert torch.equal(out, found[0][0]) and torch.equal(lse, found[0][1])
    return found[0]


def decode(q, k, v, impl, *, splits="auto", **arguments):
    expected = truth(bs.decode, q, k, v, **arguments)
    if impl == "tiled" and isinstance(arguments.get("kv_len"), torch.Tensor) and q.is_cuda:
        pytest.skip("tiled does not read a kv_len tensor back from a GPU")
    found = bs.decode(q, k, v, impl=impl, splits=splits, return_lse=True, **arguments)
    check(found, expected, q.dtype, k.shape[2])
    return found


def by_loops(q, k, v, mask, scale, q_start, sinks, softcap):
    """(out, lse), row by row, as a textbook has it."""
    out, lse = torch.zeros_like(q), torch.zeros(q.shape[:3], dtype=q.dtype)
    for b, h, i in torch.cartesian_prod(*(torch.arange(n) for n in q.shape[:3])).tolist():
        kv_head = h // (q.shape[1] // k.shape[1])
        keys = [n for n in range(k.shape[2]) if bool(mask.keep(q_start + i, n))]
        logits = [float(scale * q[b, h, i] @ k[b, kv_head, n]) for n in keys]
        if softcap is not None:
            logits = [softcap * math.tanh(logit / softcap) for logit in logits]
        total = sum(map(math.exp, logits)) + (0.0 if sinks is None else math.exp(float(sinks[h])))
        for n, logit in zip(keys, logits, strict=True):
            out[b, h, i] += math.exp(logit) / total * v[b, kv_head, n]
        lse[b, h, i] = math.log(total) if total else -math.inf
    return out, lse


@pytest.mark.parametrize("name", OPTIONS)
def test_the_reference_is_what_a_textbook_has(name):
    q, k, v, sinks = (t.double() for t in draw("cpu", batch=2, q_len=7, kv_len=9, head_dim=8))
    options = options_of(name, sinks)
    for mask, q_start in ((bs.causal(), -2), (bs.sliding_window(3), 2)):
        out, lse = bs.attention(q, k, v, mask, q_start=q_start, impl="reference", return_lse=True, **options)
        want, want_lse = by_loops(q, k, v, mask, 8**-0.5, q_start, **options)
        torch.testing.assert_close(out, want, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(lse, want_lse.float(), rtol=1e-6, atol=1e-6)


MASKS = {
    "all": None,
    "causal": bs.causal(),
    "window": bs.sliding_window(9),
    "nothing": bs.band(-5, 3),
    "sink": bs.sliding_window(9) | (bs.sink(4) & bs.causal()),
    "dilated": bs.dilated(3) & bs.causal(),
}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("name", "mask"), [*(("both", mask) for mask in MASKS), *((name, "window") for name in OPTIONS)]
)
def test_masks_and_skip_modes(device, impl, name, mask):
    q, k, v, sinks = draw(device, heads=(2, 1), kv_len=35)
    attend(q, k, v, MASKS[mask], impl, modes=True, **options_of(name, sinks))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", ["sinks", "both"])
def test_a_query_that_sees_nothing_has_the_sink_alone(device, impl, name):
    q, k, v, sinks = draw(device, batch=2, heads=(4, 2), q_len=15, kv_len=12)
    out, lse = attend(q, k, v, bs.causal(), impl, q_start=-9, **options_of(name, sinks))
    alone = sinks.float()[:, None].expand(2, 4, 9)
    assert (out[:, :, :9] == 0).all() and (lse[:, :, :9] - alone).abs().max() <= 4 * EPS * sinks.abs().max()
    lengths = torch.tensor([12, 0], dtype=torch.int32, device=device)
    out, lse = attend(q, k, v, bs.causal(), impl, kv_len=lengths, **options_of(name, sinks))
    assert (out[1] == 0).all() and (lse[1] - sinks[:, None]).abs().max() <= 4 * EPS * sinks.abs().max()
    out, lse = decode(q, k, v, impl, kv_len=lengths, splits=3, **options_of(name, sinks))
    assert (out[1] == 0).all() and (lse[1] - sinks[:, None]).abs().max() <= 4 * EPS * sinks.abs().max()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(("heads", "q_len", "packed"), [((6, 2), 5, True), ((6, 2), 16, False), ((5, 1), 3, True)])
def test_grouped_heads_packed_and_not(device, impl, heads, q_len, packed):
    q, k, v, sinks = draw(device, heads=heads, q_len=q_len, kv_len=20, batch=2, head_dim=24)
    assert bs.explain(q, k, v, bs.causal(), impl="triton", config=SMALL).packed == packed
    attend(q, k, v, bs.sliding_window(9), impl, sinks=sinks, softcap=3.0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("in_float32", [False, True])
def test_half_precision_and_sinks_of_either_dtype(device, impl, dtype, in_float32):
    q, k, v, sinks = draw(device, dtype=dtype, q_len=12)
    sinks = sinks.float() if in_float32 else sinks
    attend(q, k, v, bs.causal(), impl, sinks=sinks, softcap=2.0)
    decode(q, k, v, impl, sinks=sinks, softcap=2.0, window=20, splits=2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("level", [-math.inf, -300.0, 0.0, 300.0])
def test_sinks_far_from_the_scores(device, impl, level):
    """-inf is no sink; one far above takes all."""
    q, k, v, sinks = draw(device, q_len=9)
    sinks = sinks * 0 + level if math.isinf(level) else sinks + level
    out, lse = attend(q, k, v, bs.causal(), impl, scores=abs(level) if math.isfinite(level) else 8.0, sinks=sinks)
    found = bs.decode(q, k, v, impl=impl, splits=2, sinks=sinks, return_lse=True)
    if level < 0:
        plain = bs.attention(q, k, v, bs.causal(), impl=impl, return_lse=True)
        for got in ((out, lse), found):
            for a, b in zip(got, plain, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    if level > 0:
        assert (out == 0).all() and (found[0] == 0).all()


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("scale", "softcap"), [(0.0, 5.0), (-0.4, 1e-3), (-0.4, 5.0), (2.5, 1e-3), (2.5, 1e30), (1e-300, 1e8)]
)
def test_any_scale_and_cap(device, impl, scale, softcap):
    """A cap far above the scores leaves them, digits included; one far below lets their signs alone count."""
    q, k, v, _ = draw(device, heads=(2, 1), q_len=9)
    attend(q, k, v, bs.causal(), impl, scores=40.0, scale=scale, softcap=softcap)
    decode(q, k, v, impl, splits=2, scale=scale, softcap=softcap)


@pytest.mark.parametrize("impl", IMPLS)
def test_logits_of_ten_thousand_under_a_cap(device, impl):
    q, k, v, sinks = draw(device, q_len=9)
    attend(q * 1000, k * 10, v, bs.causal(), impl, scale=0.25, softcap=30.0, sinks=sinks, scores=30.0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize(
    ("name", "q_len", "splits"),
    [("sinks", 1, 1), ("both", 1, 4), ("softcap", 9, 3), ("high cap", 16, 1), ("both", 16, 1), ("sinks", 16, 5)],
)
def test_decode_counts_a_sink_once_however_many_splits(device, impl, name, q_len, splits):
    q, k, v, sinks = draw(device, batch=2, heads=(3, 1), q_len=q_len, kv_len=100, head_dim=24)
    decode(q, k, v, impl, splits=splits, window=None if q_len == 1 else 40, **options_of(name, sinks))


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("ring", [False, True])
def test_lengths_on_the_device_rings_and_nan_behind_them(device, impl, ring):
    q, k, v, sinks = draw(device, batch=3, q_len=4, kv_len=32)
    lengths = torch.tensor([70, 17, 3] if ring else [32, 17, 3], dtype=torch.int32, device=device)
    for b, n in enumerate(lengths.tolist()):
        k[b, :, n:] = v[b, :, n:] = math.nan
    more = {"ring": True} if ring else {}
    attend(q, k, v, bs.sliding_window(20), impl, kv_len=lengths, sinks=sinks, softcap=2.0, **more)
    decode(q, k, v, impl, kv_len=lengths, window=20, splits=3, sinks=sinks, softcap=2.0, **more)


@pytest.mark.parametrize("impl", IMPLS)
def test_any_strides(device, impl):
    q, k, v, sinks = draw(device, batch=2, q_len=12, kv_len=12, heads=(4, 4))
    q, k, v = (t.mT.contiguous().mT for t in (q, k, v))
    one = sinks[:1].expand(4)  # stride 0
    for given in (sinks, one):
        attend(q, k[:, :1].expand(-1, 2, -1, -1), v[:, :2], bs.causal(), impl, sinks=given, softcap=4.0)
        decode(q, k, v, impl, sinks=given, softcap=4.0, splits=2)


@pytest.mark.parametrize("impl", IMPLS)
def test_nan_in_a_visible_key_or_a_sink_is_not_hidden(device, impl):
    q, k, v, sinks = draw(device, heads=(2, 2), kv_len=21)
    broken = k.clone()
    broken[0, 0, 3] = math.nan
    out = bs.attention(q, broken, v, bs.causal(), impl=impl, sinks=sinks, softcap=3.0)
    assert out[0, 0, 3:].isnan().all() and not out[0, 1].isnan().any()
    sinks = sinks.clone()
    sinks[1] = math.nan
    for out in (
        bs.attention(q, k, v, bs.causal(), impl=impl, sinks=sinks),
        bs.decode(q[:, :, :2], k, v, impl=impl, splits=2, sinks=sinks),
    ):
        assert out[0, 1].isnan().all() and not out[0, 0].isnan().any()


@pytest.mark.parametrize("name", OPTIONS)
def test_pytorch_in_steps(name, monkeypatch):
    """Long pieces with and without a mask, cut along keys, heads and blocks."""
    monkeypatch.setattr(pieces, "PLAIN_SCORES", 1 << 14)
    monkeypatch.setattr(pieces, "PLAIN_KEYS", 100)
    q, k, v, sinks = draw("cpu", q_len=150, kv_len=700, dtype=torch.bfloat16)
    for mask in (bs.causal(), bs.sliding_window(300), MASKS["sink"], None):
        attend(q, k, v, mask, "tiled", **options_of(name, sinks))
    decode(q[:, :, :16], k, v, "tiled", **options_of(name, sinks))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sink_is_weighed_exactly_at_huge_logits(dtype):
    """Scores are whole numbers near 10,240, where a log-sum-exp in float32 is rounded by 5e-4: as is a weight by it."""
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randint(-2, 3, (1, h, n, 16), generator=generator).to(dtype) for h, n in ((4, 9), (2, 300)))
    q[..., 0], k[..., 0] = 128, 80
    v = torch.randn(1, 2, 300, 16, generator=generator).to(dtype)
    sinks = torch.tensor([10240.0, 10250.0, 10262.0, 10270.0])
    for attend, mask in ((bs.attention, [bs.causal()]), (bs.decode, [])):
        out = attend(q, k, v, *mask, scale=1.0, impl="tiled", sinks=sinks)
        want, _ = truth(attend, q, k, v, *mask, scale=1.0, sinks=sinks)
        assert (out - want).abs().max() <= want.abs().max() * (torch.finfo(dtype).eps + 64 * EPS)


@pytest.mark.parametrize("call", ["attention", "decode"])
def test_torch_compile_and_opcheck(device, call):
    q, k, v, sinks = draw(device, q_len=5)
    run = bs.attention if call == "attention" else bs.decode

    def model(q, k, v, sinks):
        return run(q, k, v, sinks=sinks, softcap=2.5, return_lse=True)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(q, k, v, sinks), model(q, k, v, sinks), strict=True):
        assert torch.equal(got, expected)
    if call == "attention":
        arguments = (q, k, v, "causal()", [], None, None, None, None, "auto", "auto", None, True, False, "measured")
    else:
        arguments = (q, k, v, None, None, 20, None, None, "auto", True, False)
    torch.library.opcheck(getattr(torch.ops.blockskip, call), (*arguments, sinks, 2.5))
    with torch.no_grad():  # as a learned parameter comes
        assert torch.equal(model(q, k, v, torch.nn.Parameter(sinks))[0], model(q, k, v, sinks)[0])


Q, K = torch.ones(1, 4, 2, 16), torch.ones(1, 2, 20, 16)
ERRORS = [
    ({"sinks": torch.ones(2)}, ValueError, r"sinks: given shape \(2,\); \[4\] is needed, a logit a query head"),
    ({"sinks": torch.ones(1, 4)}, ValueError, r"sinks: given shape \(1, 4\)"),
    ({"sinks": torch.ones(4).half()}, TypeError, "sinks: given torch.float16; allowed are torch.float32"),
    ({"sinks": torch.ones(4).requires_grad_()}, ValueError, "sinks: requires grad"),
    ({"sinks": torch.ones(4, device="meta")}, ValueError, "sinks: is on meta; must be on q's cpu"),
    ({"softcap": 0.0}, ValueError, "softcap: given 0; must be positive, from 1.175e-38 to"),
    ({"softcap": -30}, ValueError, "softcap: given -30; must be positive"),
    ({"softcap": 1e38, "scale": 1e-3}, ValueError, "softcap: given 1e.38; .* at a scale of 0.001"),
    ({"softcap": 0.5, "scale": 1e38}, ValueError, "softcap: given 0.5; must be positive, from 0.8479"),
]


@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors(case):
    arguments, error, message = ERRORS[case]
    for call in (bs.attention, bs.explain, bs.decode, bs.explain_decode):
        with pytest.raises(error, match=message):
            call(Q, K, K, **arguments)


def test_explain_says_what_becomes_of_the_scores():
    sinks = torch.zeros(4)
    for explain in (bs.explain, bs.explain_decode):
        said = str(explain(Q, K, K, sinks=sinks, softcap=30))
        assert "scores  softcap 30; a sink a query head" in said
        assert "scores" not in str(explain(Q, K, K))
