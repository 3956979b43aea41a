"""The tiled implementation against the reference in float64: masks, shapes that have caught bugs, odd views."""

import blockskip as bs
import pytest
import torch
import torch.nn.functional as F
from blockskip.attention import pieces, reference
from blockskip.attention.prefill import tiled, tiled_plan
from blockskip.mask import SHARED

CPU = torch.device("cpu")
NAN, INF = float("nan"), float("inf")
EPS = torch.finfo(torch.float32).eps
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
SHAPES = [(1, 1), (239, 1), (799, 3), (113, 203), (108, 256), (384, 256), (640, 128), (1023, 1024), (1024, 1023)]
MASKS = [
    bs.band(None, None),
    bs.causal(),
    bs.sliding_window(1),
    bs.sliding_window(100),
    bs.sliding_window(200) | (bs.sink(4) & bs.causal()),
    bs.prefix_lm(70),
    bs.chunked(100),
    bs.document((50, 300, 33, 700)),
    bs.dilated(7) & bs.sliding_window(300),
    bs.band(3, 5),
    ~bs.causal(),
    ~bs.band(None, None),
    bs.mask_mod(lambda b, h, q_idx, kv_idx: (q_idx * 7 + kv_idx * 3 + h + b) % 5 == 0),
]


@pytest.fixture(autouse=True)
def few_threads(request):
    """Small problems: on a busy machine, threads cost more than they bring. `test_dtypes` keeps them."""
    before = torch.get_num_threads()
    if request.function is not test_dtypes:
        torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draw(b, hq, hkv, lq, lkv, d, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    sizes = (b, hq, lq, d), (b, hkv, lkv, d), (b, hkv, lkv, d)
    return [torch.randn(size, generator=generator).to(device, dtype) for size in sizes]


def check(q, k, v, mask, *, scale=None, q_start=None, kv_len=None):
    """Error at most twice torch's own in the same dtype, plus one rounding; blind rows exact; inputs untouched."""
    kv_len = k.shape[2] if kv_len is None else kv_len
    place = {
        "scale": q.shape[-1] ** -0.5 if scale is None else scale,
        "q_start": kv_len - q.shape[2] if q_start is None else q_start,
        "kv_len": kv_len,
    }
    before = [x.clone() for x in (q, k, v)]
    out, lse = tiled.attention(q, k, v, mask, **place)
    for x, was in zip((q, k, v), before, strict=True):
        torch.testing.assert_close(x, was, rtol=0, atol=0, equal_nan=True)
    assert out.dtype == q.dtype and lse.dtype == torch.float32 and out.shape == q.shape and lse.shape == q.shape[:-1]

    want, want_lse = reference.attention(*(x.double() for x in (q, k, v)), mask, **place)
    blind = want_lse == -INF
    assert torch.equal(lse == -INF, blind) and not out[blind].any()
    if blind.all():
        return
    kept = reference._kept(mask, q, torch.arange(kv_len, device=q.device), place["q_start"])
    group = q.shape[1] // k.shape[1]
    used = (x[:, :, :kv_len].repeat_interleave(group, 1) for x in (k, v))
    theirs = F.scaled_dot_product_attention(q, *used, attn_mask=kept, scale=place["scale"])
    rounding = torch.finfo(q.dtype).eps / 2 * want.abs().max().item()
    allowed = 2 * (theirs - want)[~blind].abs().max().item() + rounding
    assert (out - want).abs().max().item() <= allowed
    # a product of bfloat16 may be a few float32 roundings less exact than a product of float32
    loose = 2e-5 if q.dtype == torch.float32 else 2e-4
    torch.testing.assert_close(lse[~blind], want_lse[~blind], rtol=1e-5, atol=loose)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("mask", MASKS, ids=repr)
def test_masks_and_shapes(mask, shape, device):
    check(*draw(1, 3, 1, *shape, 40, device=device), mask)


@pytest.mark.parametrize("mask", MASKS[:6] + MASKS[-1:], ids=repr)
@pytest.mark.parametrize("shape", SHAPES[3:6], ids=str)
def test_the_form_for_other_devices(mask, shape, monkeypatch):
    monkeypatch.setattr(pieces, "_flash", pieces._plain)
    monkeypatch.setattr(pieces, "PLAIN_SCORES", 1 << 14)
    monkeypatch.setattr(pieces, "PLAIN_KEYS", 100)
    check(*draw(1, 2, 1, *shape, 40), mask)


@pytest.mark.parametrize("deviation", [1, 8])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("native", [False, True], ids=["float32 products", "products in the dtype"])
def test_dtypes(dtype, deviation, native, monkeypatch):
    if native:  # what a processor with bfloat16 products does; this one may have none
        monkeypatch.setattr(tiled, "_product_dtype", lambda dtype, device: dtype)
    for mask in (bs.sliding_window(130), bs.causal(), bs.sliding_window(100) | (bs.sink(4) & bs.causal())):
        check(*draw(1, 2, 1, 600, 600, 64, dtype), mask, scale=64**-0.5 * deviation)


@pytest.mark.parametrize("d", [8, 9, 80, 96, 257, 320, 384, 512])
def test_head_sizes(d):
    check(*draw(1, 2, 1, 130, 190, d), bs.sliding_window(50))


@pytest.mark.parametrize("heads", [(6, 2), (8, 1), (5, 5), (12, 4)], ids=str)
def test_head_groups(heads):
    check(*draw(2, *heads, 200, 200, 32, torch.bfloat16), bs.sliding_window(70))


@pytest.mark.parametrize("q_start", [-300, -5, 0, 17, 5000])
@pytest.mark.parametrize("mask", [bs.causal(), bs.sliding_window(60), bs.document((100, 150))], ids=repr)
def test_any_start(mask, q_start):
    check(*draw(1, 2, 2, 250, 300, 16), mask, q_start=q_start)


@pytest.mark.parametrize("kv_len", [1, 63, 64, 65, 299])
def test_unused_keys_may_hold_nan(kv_len):
    q, k, v = draw(1, 4, 2, 100, 300, 32)
    k[:, :, kv_len:] = v[:, :, kv_len:] = NAN
    for mask in (bs.causal(), bs.band(None, None), bs.sliding_window(40)):
        check(q, k, v, mask, kv_len=kv_len)


@pytest.mark.parametrize("scale", [0.0, -0.2, 1e4, -1e4])
def test_any_scale(scale):
    check(*draw(1, 2, 2, 300, 300, 16), bs.sliding_window(100) | (bs.sink(2) & bs.causal()), scale=scale)


def towering(b, hq, hkv, lq, lkv, dtype=torch.float32):
    """Inputs whose scores are near 10,240 and whole numbers apart: exact in float32, where their logarithms are not."""
    generator = torch.Generator().manual_seed(1)
    q = torch.randint(-1, 2, (b, hq, lq, 16), generator=generator)
    k = torch.randint(-2, 3, (b, hkv, lkv, 16), generator=generator)
    q[..., 0], k[..., 0] = 128, 80
    return q.to(dtype), k.to(dtype), torch.randn(b, hkv, lkv, 16, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("form", ["flash", "plain"])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(
    "mask",
    [bs.causal(), bs.sliding_window(1500), bs.sliding_window(200) | (bs.sink(90) & bs.causal()), bs.prefix_lm(1200),
     bs.sliding_window(1500) | (bs.sink(90) & bs.causal())],
    ids=repr,
)  # fmt: skip
def test_huge_logits_are_merged_without_their_rounded_logarithms(mask, sign, form, dtype, monkeypatch):
    if form == "plain":
        monkeypatch.setattr(pieces, "_flash", pieces._plain)
        monkeypatch.setattr(pieces, "PLAIN_KEYS", 500)
    check(*towering(1, 3, 1, 300, 2100, dtype), mask, scale=float(sign))


def test_only_heads_whose_logarithms_are_coarse_are_computed_again(monkeypatch):
    summed = []
    sums = pieces._sums
    monkeypatch.setattr(pieces, "_sums", lambda q, *rest: summed.append(q.shape) or sums(q, *rest))
    mask = bs.sliding_window(70) | (bs.sink(4) & bs.causal())
    q, k, v = draw(1, 3, 3, 600, 600, 16)
    check(q, k, v, mask)
    assert not summed
    for x, y in zip((q, k), towering(1, 3, 3, 600, 600), strict=False):
        x[:, 1] = y[:, 1]
    check(q, k, v, mask, scale=1.0)
    assert summed and all(len(shape) == 3 for shape in summed)  # of one head each
    assert len(summed) <= 2 * len(tiled_plan.make_tiled_plan(mask, 600, 600, 0, 0, 0, CPU).groups)


@pytest.mark.parametrize("native", [False, True])
def test_lse_where_it_is_asked_for_is_as_exact_as_float32(native, monkeypatch):
    """Errors of a score's and a sum's roundings; torch's flash kernel has coarser exponentials in 16 bits."""
    if native:
        monkeypatch.setattr(tiled, "_product_dtype", lambda dtype, device: dtype)
    for dtype in DTYPES:
        q, k, v = draw(1, 2, 1, 300, 900, 64, dtype)
        for mask in (bs.causal(), bs.sliding_window(60) | (bs.sink(4) & bs.causal())):
            _, lse = bs.attention(q, k, v, mask, return_lse=True)
            _, want = reference.attention(*(x.double() for x in (q, k, v)), mask, scale=1 / 8, q_start=600, kv_len=900)
            largest = q.double().norm(dim=-1).max() * k.double().norm(dim=-1).max() / 8
            assert (lse - want).abs().max() <= EPS * (largest + want.abs().max())


def test_views():
    q, k, v = draw(2, 4, 2, 150, 200, 32)
    mask = bs.sliding_window(70)
    check(q.mT.contiguous().mT, k.mT.contiguous().mT, v, mask)  # last dimension not dense
    check(*(x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)), mask)  # [B, L, H, D] in memory
    check(*(torch.cat([x, x], -1)[..., :32] for x in (q, k, v)), mask)
    check(q, k[:1].expand(2, -1, -1, -1), v[:, :1].expand(-1, 2, -1, -1), mask)  # one for all batches, for all heads
    check(q[:, :, :1].expand(-1, -1, 150, -1), k[:, :, :1].expand(-1, -1, 200, -1), v, mask)  # for all positions
    check(q[..., ::2], k[..., ::2], v[..., 1::2], mask)
    check(q[:, :, ::3], k[:, :, 1::2], v[:, :, 1::2], mask)


def test_a_mask_may_vary_by_batch_and_head():
    table = torch.rand(2, 4, 150, 200, generator=torch.Generator().manual_seed(1)) < 0.1
    table[0, 1, :100] = False
    for tensor in (table, table[:1], table[:, :1], table[0, 0]):
        check(*draw(2, 4, 2, 150, 200, 32), bs.dense(tensor))
        check(*draw(2, 4, 4, 150, 200, 32), bs.dense(tensor))


def test_long_runs_are_cut_and_merged(monkeypatch):
    """Masked spans of more keys than one call takes, bulks beside them, masks over the plan's memory."""
    monkeypatch.setattr(tiled_plan, "SPAN_KEYS", 128)
    monkeypatch.setattr(tiled_plan, "BULK_KEYS", 128)
    monkeypatch.setattr(tiled_plan, "BIAS_BYTES", 1 << 16)
    SHARED.clear()
    for mask in MASKS:
        mask.refresh()
        check(*draw(1, 2, 2, 500, 700, 16), mask)
        mask.refresh()
    SHARED.clear()


def test_plans_stay_small():
    length = 131072
    window = tiled_plan.make_tiled_plan(bs.sliding_window(512), length, length, 0, 0, 0, CPU)
    assert window.nbytes < 1 << 20 and len(window.groups) <= 8 + length // tiled_plan.GROUP_ROWS + 1
    scattered = bs.mask_mod(lambda b, h, q_idx, kv_idx: (q_idx * kv_idx) % 7 == 0)
    for mask, size in ((bs.causal(), length), (scattered, 3000)):
        assert tiled_plan.make_tiled_plan(mask, size, size, 0, 0, 0, CPU).nbytes <= tiled_plan.BIAS_BYTES + (1 << 20)


def test_a_plan_covers_the_kept_pairs_once():
    for mask in MASKS[:-1]:
        plan = tiled_plan.make_tiled_plan(mask, 700, 900, 100, 0, 0, CPU)
        seen = torch.zeros(700, 900, dtype=torch.int32)
        for group in plan.groups:
            for block in range(group.blocks):
                row = group.row + block * group.height
                for span in group.spans:
                    first = plan.first_key + span.first + block * span.step
                    bias = plan.bias(mask, group, span)
                    kept = torch.ones(group.height, span.keys) == 1 if bias is None else bias.values == 0
                    kept = kept.flip(0) if group.backwards else kept
                    seen[row : row + group.height, first : first + span.keys] += kept
        assert torch.equal(seen, mask.dense(700, 900, 100).int())


def test_only_the_keys_of_the_window_are_touched():
    """A chunk of queries at the end of a long buffer: what lies before its window is never read."""
    q, k, v = draw(1, 2, 1, 100, 5000, 16)
    k[:, :, :4700] = v[:, :, :4700] = NAN
    out, _ = tiled.attention(q, k, v, bs.sliding_window(64), scale=1.0, q_start=4900, kv_len=5000)
    assert out.isfinite().all()


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0, 0.0])], ids=["", "sinks"])
def test_decode_takes_batch_entries_of_one_length_in_one_product(monkeypatch, sinks):
    """Entry by entry the same, whatever the lengths of its neighbours, one of which has no key."""
    q, k, v = (torch.randn(6, h, n, 16) for h, n in ((4, 2), (2, 40), (2, 40)))
    lengths = torch.tensor([30, 30, 30, 7, 0, 40], dtype=torch.int32)
    flash, shapes = pieces._flash, []
    monkeypatch.setattr(pieces, "_flash", lambda q, *others: shapes.append(len(q)) or flash(q, *others))
    options = {"window": 12, "sinks": sinks, "return_lse": True}
    out, lse = bs.decode(q, k, v, kv_len=lengths, **options)
    assert sorted(set(shapes)) == [1, 3] and sum(shapes) == 3 * (3 + 1 + 1) - 1  # pieces: 7 keys are within the window
    for i in range(6):
        one, wanted = slice(i, i + 1), bs.decode(*(x[i : i + 1] for x in (q, k, v)), kv_len=lengths[i], **options)
        assert torch.equal(out[one], wanted[0]) and torch.equal(lse[one], wanted[1])
    assert not out[4].any()
