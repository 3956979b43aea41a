"""The reference against torch's own attention in float64, and the parts of the contract that torch has no word for."""

import blockskip as bs
import pytest
import torch
import torch.nn.functional as F
from blockskip.attention import reference

NAN = float("nan")


def draw(b, hq, hkv, lq, lkv, d, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (b, hq, lq, d), (b, hkv, lkv, d), (b, hkv, lkv, d)
    return [torch.randn(size, generator=generator, dtype=torch.float64).to(dtype) for size in sizes]


@pytest.mark.parametrize(
    "mask", [bs.band(None, None), bs.causal(), bs.sliding_window(5), bs.prefix_lm(3) & bs.dilated(2)], ids=repr
)
@pytest.mark.parametrize("heads", [(4, 4), (6, 2), (3, 1)])
def test_agrees_with_torch(mask, heads):
    q, k, v = draw(2, *heads, 33, 40, 24)
    out, lse = reference.attention(q, k, v, mask, scale=0.3, q_start=7, kv_len=40)
    kept = mask.dense(33, 40, 7)
    k, v = (x.repeat_interleave(heads[0] // heads[1], 1) for x in (k, v))
    torch.testing.assert_close(out, F.scaled_dot_product_attention(q, k, v, attn_mask=kept, scale=0.3))
    want = (q @ k.mT * 0.3).masked_fill(~kept, float("-inf")).logsumexp(-1)
    torch.testing.assert_close(lse, want.float())


def test_a_tensor_of_lengths_is_a_call_per_batch_entry():
    q, k, v = draw(3, 4, 2, 5, 20, 16)
    kv_len = torch.tensor([20, 7, 11], dtype=torch.int32)
    for b, used in enumerate(kv_len.tolist()):
        k[b, :, used:] = v[b, :, used:] = NAN
    mask = bs.sliding_window(4)
    out, lse = reference.attention(q, k, v, mask, scale=1.0, q_start=kv_len - 5, kv_len=kv_len)
    for b, used in enumerate(kv_len.tolist()):
        one = (x[b : b + 1] for x in (q, k, v))
        want = reference.attention(*one, mask, scale=1.0, q_start=used - 5, kv_len=used)
        torch.testing.assert_close((out[b : b + 1], lse[b : b + 1]), want)


def test_a_scalar_tensor_serves_all_batch_entries():
    q, k, v = draw(2, 2, 2, 3, 9, 8)
    want = reference.attention(q, k, v, bs.causal(), scale=1.0, q_start=4, kv_len=7)
    got = reference.attention(q, k, v, bs.causal(), scale=1.0, q_start=torch.tensor(4), kv_len=torch.tensor(7))
    torch.testing.assert_close(got, want)


def test_rows_that_see_nothing_are_zero_and_unused_keys_do_not_leak():
    q, k, v = draw(1, 2, 1, 6, 8, 8, torch.float32)
    k[:, :, 5:] = v[:, :, 5:] = NAN
    out, lse = reference.attention(q, k, v, bs.causal(), scale=1.0, q_start=-2, kv_len=5)
    assert not out[:, :, :2].any() and (lse[:, :, :2] == float("-inf")).all()
    assert out.isfinite().all() and lse[:, :, 2:].isfinite().all()


def test_a_mask_may_vary_by_batch_and_head():
    q, k, v = draw(2, 4, 2, 10, 12, 8)
    table = torch.rand(2, 4, 10, 12, generator=torch.Generator().manual_seed(1)) < 0.5
    table[..., 0] = True
    whole = bs.dense(table), bs.mask_mod(lambda b, h, q_idx, kv_idx: table[b, h, q_idx, kv_idx])
    want = F.scaled_dot_product_attention(q, *(x.repeat_interleave(2, 1) for x in (k, v)), attn_mask=table, scale=1.0)
    for mask in whole:
        out, _ = reference.attention(q, k, v, mask, scale=1.0, q_start=3, kv_len=12)
        torch.testing.assert_close(out, want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_compute_dtype(dtype):
    q, k, v = draw(1, 2, 2, 16, 16, 32, dtype)
    exact, _ = reference.attention(*(x.double() for x in (q, k, v)), bs.causal(), scale=1.0, q_start=0, kv_len=16)
    for compute in (None, torch.float64):
        out, lse = reference.attention(q, k, v, bs.causal(), scale=1.0, q_start=0, kv_len=16, compute_dtype=compute)
        assert out.dtype == dtype and lse.dtype == torch.float32
        torch.testing.assert_close(out, exact.to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_it_is_better_than_what_it_judges(dtype):
    """At scores of 10,000 and more: off by the result's own rounding alone, whatever the inputs' dtype."""
    q, k, v = (x.to(dtype) for x in draw(1, 2, 1, 40, 300, 16))
    q[..., 0], k[..., 0] = 128, 80
    scores = (q.double() @ k.double().mT).masked_fill(~bs.causal().dense(40, 300), float("-inf"))
    want = scores.softmax(-1) @ v.double()
    for out, lse in (
        bs.attention(q, k, v, bs.causal(), scale=1.0, impl="reference", return_lse=True),
        bs.attention(
            q, k, v, bs.causal(), scale=1.0, impl="reference", return_lse=True, kv_len=torch.tensor([300]).int()
        ),
    ):
        assert (
            torch.equal(out, want.to(dtype))
            or (out - want).abs().max() <= torch.finfo(dtype).eps * want.abs().max() / 2
        )
        assert torch.equal(lse, scores.logsumexp(-1).float())
