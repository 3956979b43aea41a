"""The public calls: what they promise whatever the implementation, their errors, torch.compile and torch.export."""

import math
import subprocess
import sys

import blockskip as bs
import pytest
import torch
import torch.nn.functional as F

IMPLS = ["reference", "tiled", "triton"]


def qkv(q_len=20, kv_len=24, heads=(4, 2), head_dim=16, batch=2, dtype=torch.float32, device="cpu"):
    generator = torch.Generator().manual_seed(0)
    return tuple(
        torch.randn(batch, h, n, head_dim, generator=generator).to(dtype).to(device)
        for h, n in ((heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len))
    )


def config_of(impl):
    return (16, 16, 1, 1) if impl == "triton" else None


@pytest.mark.parametrize("impl", IMPLS)
def test_what_comes_back_is_what_was_asked_for(device, impl):
    q, k, v = qkv(device=device)
    out = bs.attention(q, k, v, bs.causal(), impl=impl, config=config_of(impl))
    assert isinstance(out, torch.Tensor) and out.shape == q.shape and out.dtype == q.dtype
    out, lse = bs.attention(q, k, v, bs.causal(), impl=impl, config=config_of(impl), return_lse=True)
    assert lse.shape == q.shape[:3] and lse.dtype == torch.float32
    if impl == "triton":
        _, visits = bs.attention(q, k, v, bs.causal(), impl=impl, config=config_of(impl), record=True)
        assert visits.dtype == torch.uint8


@pytest.mark.parametrize("impl", IMPLS)
def test_a_query_that_sees_nothing_gets_zero(device, impl):
    q, k, v = qkv(20, 8, device=device)
    out, lse = bs.attention(q, k, v, bs.causal(), impl=impl, config=config_of(impl), return_lse=True)
    assert (out[:, :, :12] == 0).all() and (lse[:, :, :12] == -math.inf).all()
    assert lse[:, :, 12:].isfinite().all()


@pytest.mark.parametrize("impl", IMPLS)
def test_lengths_in_a_tensor(device, impl):
    q, k, v = qkv(6, 24, device=device)
    k[0, :, 9:], v[0, :, 9:] = math.nan, math.nan
    lengths = torch.tensor([9, 24], dtype=torch.int32, device=device)
    if impl == "tiled" and device == "cuda":
        with pytest.raises(ValueError, match="reading it back"):
            bs.attention(q, k, v, bs.causal(), impl=impl, kv_len=lengths)
        return
    out = bs.attention(q, k, v, bs.sliding_window(5), impl=impl, kv_len=lengths, config=config_of(impl))
    for b, n in enumerate((9, 24)):
        alone = bs.attention(*(t[b : b + 1] for t in (q, k, v)), bs.sliding_window(5), impl="reference", kv_len=n)
        torch.testing.assert_close(out[b : b + 1], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("enable_gqa", [False, True])
@pytest.mark.parametrize("kind", ["plain", "causal", "bool", "broadcast", "additive"])
def test_the_drop_in_gives_torchs_results(device, kind, enable_gqa):
    q, k, v = qkv(20, 24, heads=(4, 2) if enable_gqa else (4, 4), device=device)
    arguments = {"enable_gqa": enable_gqa}
    generator = torch.Generator().manual_seed(1)
    if kind == "causal":
        arguments["is_causal"] = True  # top-left, although the queries are fewer
    elif kind == "bool":
        arguments["attn_mask"] = (torch.rand(2, 4, 20, 24, generator=generator) < 0.5).to(device)
    elif kind == "broadcast":
        arguments["attn_mask"] = (torch.rand(20, 24, generator=generator) < 0.5).to(device)
    elif kind == "additive":
        arguments["attn_mask"] = torch.randn(2, 1, 20, 24, generator=generator).to(device)
    ours = bs.scaled_dot_product_attention(q, k, v, **arguments, scale=0.3)
    torchs = F.scaled_dot_product_attention(q, k, v, **arguments, scale=0.3)
    torch.testing.assert_close(ours, torchs, atol=1e-5, rtol=1e-5)


def test_explain_says_what_will_be_done(device):
    q, k, v = qkv(device=device)
    plan = bs.explain(q, k, v, bs.sliding_window(8), impl="triton", config=(16, 32, 2, 3))
    assert (plan.impl, plan.skip, plan.splits) == ("triton", "bounds", 1)
    assert (plan.config.block_m, plan.config.block_n, plan.config.num_warps, plan.config.num_stages) == (16, 32, 2, 3)
    assert plan.tilemap.block_n == 32 and "tiles" in str(plan)
    assert bs.explain(q, k, v, bs.sink(3), impl="triton").skip == "map"
    if device == "cpu":
        plan = bs.explain(q, k, v)
        assert plan.impl == "tiled" and "cpu" in str(plan)
    reference = bs.explain(q, k, v, impl="reference")
    assert reference.tilemap is None and "asked for" in str(reference)


def test_auto_takes_the_mask_where_no_map_can_be_planned(device):
    q, k, v = qkv(device=device)
    lengths = torch.tensor([9, 24], dtype=torch.int32, device=device)
    assert bs.explain(q, k, v, bs.sink(3), impl="triton", kv_len=lengths).skip == "mask"
    assert bs.explain(q, k, v, bs.sink(3), impl="triton", kv_len=lengths, q_start=4).skip == "map"
    assert bs.explain(q, k, v, bs.causal(), impl="triton", kv_len=lengths).skip == "bounds"


def wrong(**change):
    def call():
        q, k, v = qkv()
        arguments = {"q": q, "k": k, "v": v, **change}
        return bs.attention(arguments.pop("q"), arguments.pop("k"), arguments.pop("v"), **arguments)

    return call


Q, K, V = qkv()
ERRORS = [
    (wrong(q=3), TypeError, "q: given int; a tensor"),
    (wrong(q=Q.double()), TypeError, "q: given torch.float64; allowed are"),
    (wrong(k=K.half()), TypeError, "k: given torch.float16; must be q's"),
    (wrong(q=Q[0]), ValueError, "q: given 3 dimensions"),
    (wrong(q=Q[:, :3]), ValueError, "q: given 3 heads; must be a multiple of k's 2"),
    (wrong(q=Q[:1]), ValueError, "k: given batch 2; must be q's 1"),
    (wrong(v=V[:, :, :5]), ValueError, "v: given shape"),
    (wrong(q=Q[..., :7], k=K[..., :7], v=V[..., :7]), ValueError, "head_dim 7; must be from 8 to 512"),
    (wrong(q=Q[:, :, :0]), ValueError, "every size must be at least 1"),
    (wrong(mask="causal"), TypeError, "mask: given str"),
    (wrong(mask=bs.dense(torch.ones(3, 3, dtype=torch.bool))), ValueError, "dense has 3 query rows"),
    (wrong(mask=bs.dense(torch.ones(3, 1, 20, 24, dtype=torch.bool))), ValueError, "has 3 batches; must be 1 or q's 2"),
    (wrong(scale=math.nan), ValueError, "scale: given nan; must be finite"),
    (wrong(scale="big"), TypeError, "scale: given str"),
    (wrong(q_start=1.5), TypeError, "q_start: given 1.5"),
    (wrong(q_start=1 << 40), ValueError, "q_start: given"),
    (wrong(kv_len=25), ValueError, "kv_len: given 25; must be from 1 to k's length 24"),
    (wrong(kv_len=0), ValueError, "kv_len: given 0"),
    (wrong(kv_len=torch.tensor([3, 4])), TypeError, "kv_len: given a tensor of torch.int64; int32"),
    (wrong(kv_len=torch.tensor([3], dtype=torch.int32)), ValueError, r"kv_len: given shape \(1,\); \[\] or \[2\]"),
    (
        wrong(
            q=Q[:1].expand(65536, -1, -1, -1),
            k=K[:1].expand(65536, -1, -1, -1),
            v=V[:1].expand(65536, -1, -1, -1),
            impl="triton",
        ),
        ValueError,
        "q: given 65536 batches; impl='triton' takes up to 65535",
    ),
    (
        lambda: bs.decode(Q[:, :1, :1].expand(2, 70000, 1, 16), K, V, impl="triton"),
        ValueError,
        "q: given 70000 heads; impl='triton' takes up to 65535",
    ),
    (wrong(k=torch._neg_view(K), impl="triton"), ValueError, r"k: is a negated view.* \.resolve_neg\(\)"),
    (wrong(skip="fast"), ValueError, "skip: given 'fast'; allowed are auto, none, mask, bounds, map"),
    (wrong(impl="cuda"), ValueError, "impl: given 'cuda'; allowed are"),
    (wrong(impl="tiled", skip="map"), ValueError, "impl='tiled' takes 'auto' alone"),
    (wrong(impl="reference", config=(16, 16, 1, 1)), ValueError, "config"),
    (wrong(impl="triton", skip="bounds", mask=bs.sink(3)), ValueError, "'bounds' needs a band"),
    (wrong(impl="triton", config=(17, 16, 1, 1)), ValueError, "config: block_m: given 17; allowed are"),
    (wrong(impl="triton", config=16), TypeError, "config: given 16"),
    (wrong(impl="tiled", record=True), ValueError, "record: True needs impl='triton'"),
    (wrong(q=Q.clone().requires_grad_()), ValueError, "q: requires grad"),
    (
        wrong(impl="triton", skip="map", kv_len=torch.tensor(9, dtype=torch.int32)),
        ValueError,
        "'map' with a kv_len tensor needs q_start",
    ),
    (lambda: bs.scaled_dot_product_attention(Q, Q, Q, dropout_p=0.1), ValueError, "dropout_p: given 0.1"),
    (
        lambda: bs.scaled_dot_product_attention(Q, Q, Q, Q[0, 0, :, :1].half()),
        TypeError,
        "attn_mask: given torch.float16",
    ),
    (
        lambda: bs.scaled_dot_product_attention(Q, Q, Q, Q[0, 0, :, :1].clone().requires_grad_()),
        ValueError,
        "attn_mask: requires grad",
    ),
    (lambda: bs.scaled_dot_product_attention(Q, K, V), ValueError, "enable_gqa: False, but query has 4"),
    (lambda: bs.scaled_dot_product_attention(Q, Q, Q, torch.ones(3, 3).bool()), ValueError, "attn_mask: given shape"),
    (lambda: bs.scaled_dot_product_attention(Q, Q, Q, torch.ones(20, 20).int()), TypeError, "attn_mask: given"),
    (lambda: bs.scaled_dot_product_attention(Q, Q, Q, Q[0, 0], is_causal=True), ValueError, "is_causal"),
]


@pytest.mark.skipif(torch.cuda.is_available(), reason="the calls are written for CPU tensors")
@pytest.mark.parametrize("case", range(len(ERRORS)))
def test_errors_name_the_argument_what_was_given_and_what_is_allowed(case):
    call, error, message = ERRORS[case]
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize("impl", IMPLS)
def test_torchs_default_device_decides_nothing(device, impl):
    q, k, v = qkv(device=device)
    lengths = torch.tensor([9, 24], dtype=torch.int32, device=device)
    masks = [
        None,
        bs.causal(),
        bs.document([11, 13]) & bs.causal(),
        bs.dilated(3),
        bs.mask_mod(lambda b, h, q, k: q >= k),
    ]
    with torch.device("meta"):
        for mask in masks:
            for skip in ("auto", "none", "map") if impl == "triton" else ("auto",):
                out = bs.attention(q, k, v, mask, impl=impl, skip=skip, q_start=3, config=config_of(impl))
                assert out.device == q.device
        if impl != "tiled" or device == "cpu":
            assert bs.decode(q[:, :, :2], k, v, kv_len=lengths, impl=impl).device == q.device
        tilemap = bs.TileMap.build(masks[2], 24, 24, 8, 8)
        assert tilemap.to_block_mask().kv_num_blocks.device.type == "cpu" and not tilemap.tile(0, 0).all()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_triton_on_cpu_tensors_says_how(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET")
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        bs.attention(*qkv(), impl="triton")


def test_grad_is_refused_only_while_grad_mode_is_on():
    q, k, v = (t.requires_grad_() for t in qkv())
    with torch.no_grad():
        bs.attention(q, k, v)


def test_float64_is_for_the_reference_alone():
    q, k, v = (t.double() for t in qkv())
    assert bs.attention(q, k, v, impl="reference").dtype == torch.float64


def test_old_devices_get_a_clear_error():
    from blockskip.config import prefill_config

    with pytest.raises(ValueError, match=r"compute capability 8.0 or higher, this device has 7.5"):
        prefill_config((7, 5), 128, torch.float16)


def test_calls_that_cannot_fill_a_device_take_smaller_tiles():
    from blockskip.config import prefill_config

    def block_m(rows, head_dim=256):
        return prefill_config((9, 0), head_dim, torch.bfloat16, rows, 132).block_m

    assert block_m(32 * 256) < block_m(32 * 512) == prefill_config((9, 0), 256, torch.bfloat16).block_m
    assert block_m(1, head_dim=512) == block_m(1 << 20, head_dim=512)


MASKS = [None, bs.sliding_window(7) | bs.sink(2), bs.dense(torch.rand(20, 24, generator=torch.Generator()) < 0.5)]


@pytest.mark.parametrize("mask", MASKS, ids=["all", "window and sink", "dense"])
def test_torch_compile_overlaps_items(device, mask):
    q, k, v = qkv(device=device)

    def model(q, k, v):
        out, lse = bs.attention(q * 2, k, v, mask, scale=0.2, return_lse=True)
        return out + 1, lse

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(q, k, v), model(q, k, v), strict=True):
        torch.testing.assert_close(got, expected)


def test_torch_export_overlaps_items(device):
    class Model(torch.nn.Module):
        def forward(self, q, k, v):
            return bs.attention(q, k, v, bs.causal())

    q, k, v = qkv(device=device)
    program = torch.export.export(Model(), (q, k, v))
    assert "blockskip.attention" in str(program.graph)
    torch.testing.assert_close(program.module()(q, k, v), bs.attention(q, k, v, bs.causal()))


def test_the_operator_and_its_fake_agree(device):
    import blockskip.attention.ops  # noqa: F401

    q, k, v = qkv(device=device)
    arguments = (q, k, v, "causal()", [], 0.25, None, None, None, "auto", "auto", None, True)
    torch.library.opcheck(torch.ops.blockskip.attention, arguments)


def test_importing_needs_neither_triton_nor_the_lab():
    """Nor transformers, until blockskip is registered there; nor numba, before a call takes it; nor masks sympy."""
    optional = "triton", "skiplab", "pandas", "plotly", "transformers", "numba", "sympy"
    code = f"""
import sys, blockskip as bs, blockskip.integrations.transformers
bs.TileMap.build(bs.prefix_lm(9) | bs.chunked(7), 40, 40).kept_pairs
print([m for m in {optional} if m in sys.modules])"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=_environment())
    assert found.stdout.strip() == "[]"


def _environment():
    import os
    from pathlib import Path

    root = Path(__file__).parents[2]
    return {**os.environ, "PYTHONPATH": f"{root / 'kernels'}{os.pathsep}{root / 'lab'}"}
