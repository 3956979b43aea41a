"""Every optional tensor of a call, as a view of any strides: the same bits as from a dense copy of it."""

import blockskip as bs
import pytest
import torch
import torch.nn.functional as F

IMPLS = ("reference", "tiled", "triton")


def strided(values):
    """A view of every third number of a larger tensor, whose others are NaN or wrong."""
    wrong = values * float("nan") if values.is_floating_point() else ~values
    return torch.stack((wrong, values, wrong), -1)[..., 1]


def transposed(values):
    return values.mT.contiguous().mT


def expanded(values):
    """The first along the last dimension, for all of it, without memory of their own."""
    return values[..., :1].expand(values.shape)


VIEWS = {"strided": strided, "expanded": expanded}
views = pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
matrix_views = pytest.mark.parametrize("view", [*VIEWS.values(), transposed], ids=[*VIEWS, "transposed"])
impls = pytest.mark.parametrize("impl", IMPLS)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def attention_inputs(device, q_len=5):
    shapes = (2, 6, q_len, 16), (2, 2, 40, 16), (2, 2, 40, 16)
    return [normal(*shape, seed=i).to(device) for i, shape in enumerate(shapes)]


@impls
@views
@pytest.mark.parametrize(("rows", "dtype"), [(1, "float32"), (9, "float16")])
def test_a_bias_of_any_strides(device, impl, view, rows, dtype):
    dtype = getattr(torch, dtype)
    x, w = normal(rows, 64).to(device, dtype), bs.quantize(normal(3, 64, seed=1).to(device))
    for seed in (2, 3):  # the second call is one of a kind that is known
        bias = view(normal(3, seed=seed).to(device, dtype))
        assert not bias.is_contiguous()
        expected = bs.linear(x, w, bias.contiguous(), impl=impl)
        assert torch.equal(bs.linear(x, w, bias, impl=impl), expected)
        plain = bs.linear(x, w, impl=impl).float() + bias.float()
        torch.testing.assert_close(expected.float(), plain, rtol=2**-9, atol=2**-8)
        assert torch.equal(bs.QuantizedLinear(w, bias)(x), bs.linear(x, w, bias.contiguous()))


@views
@pytest.mark.parametrize("route", ["fused", "dequantize"])
def test_a_bias_of_any_strides_by_each_route(device, view, route):
    x, w = normal(9, 2048).to(device).half(), bs.quantize(normal(3, 2048, seed=1).to(device))
    bias = view(normal(3, seed=2).to(device).half())
    splits = bs.explain_linear(x, w, bias, impl="triton", route=route).splits
    assert (splits > 1) == (route == "fused")
    found = [bs.linear(x, w, b, impl="triton", route=route) for b in (bias, bias.contiguous())]
    assert torch.equal(*found)


@impls
@views
@pytest.mark.parametrize("call", ["attention", "decode"])
def test_a_kv_len_of_any_strides(device, impl, view, call):
    q, k, v = attention_inputs(device, q_len=3)
    length = view(torch.tensor([17, 33], dtype=torch.int32, device=device))
    assert not length.is_contiguous()
    if impl == "tiled" and device == "cuda":
        with pytest.raises(ValueError, match="without reading it back"):
            bs.decode(q, k, v, kv_len=length, impl=impl)
        return
    for _ in range(2):
        if call == "decode":
            found = [bs.decode(q, k, v, kv_len=n, impl=impl) for n in (length, length.contiguous())]
        else:
            found = [bs.attention(q, k, v, bs.causal(), kv_len=n, impl=impl) for n in (length, length.contiguous())]
        assert torch.equal(*found)
    lengths = length.tolist()
    each = [bs.decode(*(t[b : b + 1] for t in (q, k, v)), kv_len=lengths[b], impl=impl) for b in range(2)]
    torch.testing.assert_close(found[0], torch.cat(each), rtol=1e-5, atol=1e-6)


@impls
@matrix_views
def test_a_dense_mask_of_any_strides(device, impl, view):
    q, k, v = attention_inputs(device)
    keep = view(normal(2, 6, 5, 40, seed=4).to(device) > 0)
    found = [bs.attention(q, k, v, bs.dense(t), impl=impl) for t in (keep, keep.contiguous())]
    assert torch.equal(*found)


@matrix_views
def test_an_attn_mask_of_any_strides(device, view):
    q, k, v = attention_inputs(device)
    for shape in ((5, 40), (1, 1, 5, 40), (2, 1, 1, 40), (2, 6, 5, 40)):
        for mask in (view(normal(*shape, seed=4).to(device)), view(normal(*shape, seed=4).to(device) > -2)):
            given = F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
            found = bs.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
            dense = bs.scaled_dot_product_attention(q, k, v, mask.contiguous(), enable_gqa=True)
            assert torch.equal(found, dense)
            sees = mask.isfinite() if mask.is_floating_point() else mask
            some = sees.expand(2, 6, 5, 40).any(-1, keepdim=True)
            torch.testing.assert_close(found.where(some, 0), given.where(some, 0), rtol=1e-5, atol=1e-5)


@matrix_views
def test_imported_metadata_of_any_strides(view):
    generator = torch.Generator().manual_seed(0)
    qdata = torch.randint(-128, 128, (11, 64), dtype=torch.int8, generator=generator)
    scale, zero = normal(4, 11, seed=1), normal(4, 11, seed=2)
    found = bs.from_torchao(view(qdata), view(scale), view(zero)).dequantize()
    dense = (view(t).contiguous() for t in (qdata, scale, zero))
    assert torch.equal(found, bs.from_torchao(*dense).dequantize())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_result_lies_as_its_queries_do(device, dtype):
    """[B, L, H, D] seen as [B, H, L, D]: the product behind attention then reads a token's heads without a copy."""
    q, k, v = (t.to(dtype) for t in attention_inputs(device, q_len=35))
    apart = q.transpose(1, 2).contiguous().transpose(1, 2)
    for _ in range(2):  # the second call is one of a kind that is known
        out, lse = bs.attention(apart, k, v, bs.causal(), impl="triton", return_lse=True)
        expected, expected_lse = bs.attention(q, k, v, bs.causal(), impl="triton", return_lse=True)
        assert expected.is_contiguous() and out.transpose(1, 2).is_contiguous()
        assert torch.equal(out, expected) and torch.equal(lse, expected_lse)
