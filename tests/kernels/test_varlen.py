"""Packed sequences against `attention` of each sequence alone, in float64: on CUDA, or in the interpreter."""

import math

import blockskip as bs
import pytest
import torch
from blockskip.config import TileConfig
from blockskip.gpu import HOPPER
from blockskip.launching.repeated import REPEATED

SMALL = (16, 16, 1, 1)
MASKS = {
    "all": None,
    "causal": bs.causal(),
    "window": bs.sliding_window(20),
    "both sides": bs.band(7, 9),
    "from the left": bs.band(5, None),
    "ahead": bs.band(None, 11),
    "nothing": bs.band(-5, 3),
    "elsewhere": bs.band(-9, 30),
}
LENGTHS = {
    "even": ([32, 32], [32, 32]),
    "ragged": ([5, 0, 70, 1, 33], [5, 3, 70, 0, 50]),
    "ones": ([1] * 9, [1] * 9),
    "more queries than keys": ([40, 17], [3, 16]),
    "one": ([113], [203]),
    "none has queries": ([0, 0, 0], [4, 0, 9]),
}
IMPLS = ("reference", "tiled", "triton")
IS_HOPPER = torch.cuda.is_available() and torch.cuda.get_device_capability() == HOPPER


def cu_of(lengths, device="cpu"):
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0).int().to(device)


def draw(device, lengths, *, heads=(4, 2), head_dim=16, dtype=torch.float32, behind=(0, 0), seed=0):
    """q, k, v and both cu_seqlens; behind: rows of NaN after the last query and the last key."""
    generator, (of_q, of_k) = torch.Generator().manual_seed(seed), lengths
    found = []
    for rows, more, number in ((sum(of_q), behind[0], heads[0]), *[(sum(of_k), behind[1], heads[1])] * 2):
        real = torch.randn((rows, number, head_dim), generator=generator)
        found.append(torch.cat([real, torch.full((more, number, head_dim), math.nan)]).to(device, dtype))
    return *found, cu_of(of_q, device), cu_of(of_k, device)


def truth(q, k, v, cu_q, cu_k, mask=None, *, sinks=None, **options):
    """(out, lse) in float64, sequence by sequence; of queries that none has, 0 and what sinks leave."""
    q, k, v = (t.double().cpu() for t in (q, k, v))
    sinks = None if sinks is None else sinks.cpu().float()
    out = torch.zeros_like(q)
    lse = torch.full((q.shape[1], len(q)), -math.inf)
    if sinks is not None:
        lse[:] = sinks[:, None]
    bounds = [cu.tolist() for cu in (cu_q, cu_k)]
    for q_first, q_end, k_first, k_end in zip(bounds[0], bounds[0][1:], bounds[1], bounds[1][1:], strict=False):
        if q_end > q_first and k_end > k_first:
            of_q, of_k, of_v = (t.transpose(0, 1)[None] for t in (q[q_first:q_end], k[k_first:k_end], v[k_first:k_end]))
            found = bs.attention(of_q, of_k, of_v, mask, impl="reference", return_lse=True, sinks=sinks, **options)
            out[q_first:q_end], lse[:, q_first:q_end] = found[0][0].transpose(0, 1), found[1][0]
    return out, lse


def close(found, expected, dtype, keys):
    """A rounding of the weights, one of the result, and float32 sums of exponentials over the keys."""
    out, lse = found
    rounding, single = torch.finfo(dtype).eps, torch.finfo(torch.float32).eps
    largest = expected[0].abs().max().item()
    assert out.dtype == dtype and out.is_contiguous()
    assert (out.double().cpu() - expected[0]).abs().max() <= largest * (
        rounding + 32 * single
    ) + 3 * rounding + keys * single
    torch.testing.assert_close(lse.cpu(), expected[1], rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_each_sequence_is_attended_alone(device, mask, lengths, impl):
    if impl == "tiled":
        device = "cpu"
    more = 11 if sum(lengths[0]) else 1
    q, k, v, cu_q, cu_k = draw(device, lengths, behind=(more, 7))
    config = SMALL if impl == "triton" else None
    found = bs.attention_varlen(q, k, v, cu_q, cu_k, mask=mask, impl=impl, config=config, return_lse=True)
    close(found, truth(q, k, v, cu_q, cu_k, mask), torch.float32, 203)
    assert (found[0][sum(lengths[0]) :] == 0).all() and (found[1][:, sum(lengths[0]) :] == -math.inf).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("heads", "head_dim"), [((2, 2), 64), ((6, 2), 40), ((8, 1), 16), ((3, 3), 8)])
@pytest.mark.parametrize("config", [None, (32, 16, 4, 1)], ids=["table", "32x16"])
def test_heads_and_dtypes(device, heads, head_dim, dtype, config):
    lengths = LENGTHS["ragged"]
    q, k, v, cu_q, cu_k = draw(device, lengths, heads=heads, head_dim=head_dim, dtype=dtype)
    options = {"mask": bs.sliding_window(21), "impl": "triton", "return_lse": True, "scale": 0.3}
    found = bs.attention_varlen(q, k, v, cu_q, cu_k, 70, 70, config=config, **options)
    close(found, truth(q, k, v, cu_q, cu_k, bs.sliding_window(21), scale=0.3), dtype, 70)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("scale", [None, 0.0, -0.7])
def test_sinks_soft_caps_and_scales(device, impl, softcap, scale):
    device = "cpu" if impl == "tiled" else device
    q, k, v, cu_q, cu_k = draw(device, LENGTHS["ragged"], behind=(3, 3))
    sinks = torch.tensor([1.0, -math.inf, 3.0, -2.0], device=device)
    options = {"sinks": sinks, "softcap": softcap, "scale": scale}
    found = bs.attention_varlen(q, k, v, cu_q, cu_k, mask=bs.causal(), impl=impl, return_lse=True, **options)
    close(found, truth(q, k, v, cu_q, cu_k, bs.causal(), **options), torch.float32, 70)


def test_the_last_query_stands_at_the_last_key():
    """As FlashAttention from 2.1 on: 2 queries of 5 keys see 4 and 5 of them, 5 queries of 2 keys see 0, 0, 0, 1, 2."""
    v = torch.eye(7).reshape(7, 1, 7)
    v = torch.nn.functional.pad(v, (0, 1))
    q, k = torch.zeros(7, 1, 8), torch.zeros(7, 1, 8)
    out = bs.attention_varlen(q, k, v, cu_of([2, 5]), cu_of([5, 2]), mask=bs.causal())
    assert [(row != 0).sum().item() for row in out] == [4, 5, 0, 0, 0, 1, 2]
    assert out[0, 0, :4].tolist() == [0.25] * 4 and out[6, 0, 5:7].tolist() == [0.5, 0.5]


@pytest.mark.parametrize("group", [1, 2], ids=["alone", "packed"])
def test_the_bits_are_those_of_attention_in_the_same_tiles(device, group):
    lengths = [5, 33, 70, 1], [9, 33, 70, 20]
    q, k, v, cu_q, cu_k = draw(device, lengths, heads=(2 * group, 2))
    for mask in (bs.causal(), bs.sliding_window(20)):
        options = {"mask": mask, "impl": "triton", "config": SMALL}
        plan = bs.explain_varlen(q, k, v, cu_q, cu_k, 5 if group == 2 else 70, **options)
        assert plan.packed == (group == 2)
        out = bs.attention_varlen(q, k, v, cu_q, cu_k, 5 if group == 2 else 70, **options)
        for i, (n, m) in enumerate(zip(*lengths, strict=True)):
            one = [
                t[cu[i] : cu[i] + n].transpose(0, 1)[None] for t, cu, n in ((q, cu_q, n), (k, cu_k, m), (v, cu_k, m))
            ]
            alone = bs.attention(*one, route="prefill", **options)
            if bs.explain(*one, route="prefill", **options).packed == plan.packed:
                assert torch.equal(out[cu_q[i] : cu_q[i] + n], alone[0].transpose(0, 1))


@pytest.mark.parametrize("impl", IMPLS)
def test_the_longest_is_a_hint(device, impl):
    """Tiles may differ by it, what is computed does not: a longer sequence too, and one that is far from it."""
    device = "cpu" if impl == "tiled" else device
    q, k, v, cu_q, cu_k = draw(device, LENGTHS["ragged"])
    expected = truth(q, k, v, cu_q, cu_k, bs.causal())
    for longest in ((None, None), (1, 1), (70, 70), (999999, 3)):
        found = bs.attention_varlen(q, k, v, cu_q, cu_k, *longest, mask=bs.causal(), impl=impl, return_lse=True)
        close(found, expected, torch.float32, 70)


@pytest.mark.parametrize("impl", IMPLS)
def test_no_keys_named_are_those_of_the_queries(device, impl):
    device = "cpu" if impl == "tiled" else device
    q, k, v, cu, _ = draw(device, ([9, 30], [9, 30]))
    options = {"mask": bs.causal(), "impl": impl}
    assert torch.equal(bs.attention_varlen(q, k, v, cu, **options), bs.attention_varlen(q, k, v, cu, cu, **options))


@pytest.mark.parametrize("impl", IMPLS)
def test_any_strides(device, impl):
    device = "cpu" if impl == "tiled" else device
    generator = torch.Generator().manual_seed(3)
    fused = torch.randn((60, 8, 16), generator=generator).to(device)
    q, k, v = fused[:, :4], fused[:, 4:6], fused[:, 6:]
    apart = fused.transpose(0, 2).contiguous().transpose(0, 2)
    shared = fused[:1, :2].expand(60, 2, 16)
    cu = cu_of([20, 7, 30], device)
    for one in ((q, k, v), (apart[:, :4], apart[:, 4:6], v), (q, shared, v), (q.flip(0), k, shared)):
        found = bs.attention_varlen(*one, cu, mask=bs.sliding_window(9), impl=impl, return_lse=True)
        close(found, truth(*one, cu, cu, bs.sliding_window(9)), torch.float32, 60)
    strided = cu.repeat_interleave(2)[::2]
    found = bs.attention_varlen(q, k, v, strided, mask=bs.causal(), impl=impl, return_lse=True)
    close(found, truth(q, k, v, cu, cu, bs.causal()), torch.float32, 60)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("what", [math.nan, math.inf])
def test_what_is_no_number_stays_with_its_sequence(device, impl, what):
    device = "cpu" if impl == "tiled" else device
    q, k, v, cu, _ = draw(device, ([20, 13, 30], [20, 13, 30]))
    options = {"mask": bs.causal(), "impl": impl, "config": SMALL if impl == "triton" else None}
    clean = bs.attention_varlen(q, k, v, cu, **options)
    k[20:33], v[20:33] = what, what
    found = bs.attention_varlen(q, k, v, cu, **options)
    for rows in (slice(0, 20), slice(33, 63)):
        assert torch.equal(found[rows], clean[rows])


def test_more_sequences_than_a_program_looks_at_together(device):
    lengths = [1 + i * 7 % 30 for i in range(150)]
    q, k, v, cu, _ = draw(device, (lengths, lengths), heads=(2, 1), head_dim=8)
    found = bs.attention_varlen(q, k, v, cu, None, 30, mask=bs.causal(), impl="triton", config=SMALL, return_lse=True)
    close(found, truth(q, k, v, cu, cu, bs.causal()), torch.float32, 30)


@pytest.mark.parametrize("numbers", [[0, 20, 10, 60], [5, 90, -3, 60], [60, 60, 60, 0], [-9, -1, 99, 2**31 - 1]])
def test_lengths_that_fall_or_lie_outside_read_and_write_nothing_there(device, numbers):
    """Around the rows is NaN, which a result that read it would be; what they leave unwritten is NaN as well."""
    memory = torch.full((100, 3, 2, 16), math.nan, device=device)
    memory[20:80] = torch.randn((60, 3, 2, 16), generator=torch.Generator().manual_seed(1)).to(device)
    q, k, v = memory[20:80].unbind(1)
    cu = torch.tensor(numbers, dtype=torch.int32, device=device)
    out = bs.attention_varlen(q, k, v, cu, mask=bs.causal(), impl="triton", config=SMALL)
    written = ~out.isnan().any(-1).any(-1).cpu()
    times = torch.zeros(60, dtype=torch.int64)
    for start, stop in zip(numbers, [*numbers[1:], 60], strict=True):
        first = max(0, min(start, 60))
        times[first : max(first, min(stop, 60))] += 1
    assert not (written & (times == 0)).any()
    assert times.max() > 1 or torch.equal(written, times == 1)


def test_it_says_what_it_does(device):
    q, k, v, cu, _ = draw(device, ([9, 70], [9, 70]))
    plan = bs.explain_varlen(q, k, v, cu, None, 70, mask=bs.sliding_window(20), impl="triton", softcap=3.0)
    said = str(plan)
    parts = "impl    triton", "2 sequences in 79 rows, up to 70 queries and 70 keys", "skip    bounds", "softcap 3"
    assert all(part in said for part in (*parts, "of the longest sequence", "listed on the device")), said
    assert (plan.skip, plan.splits, plan.sequences) == ("bounds", 1, 2)
    assert "tiled" in str(bs.explain_varlen(*(t.cpu() for t in (q, k, v, cu))))


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ({"mask": bs.causal() | bs.sink(3)}, "mask: given .* a band is needed"),
        ({"cu_seqlens_k": None, "k": torch.zeros(30, 2, 16), "v": torch.zeros(30, 2, 16)}, "cu_seqlens_k: None takes"),
        ({"q": torch.zeros(1, 4, 40, 16)}, "q: given 4 dimensions; .total, heads, head_dim."),
        ({"q": torch.zeros(0, 4, 16)}, "q: given shape .0, 4, 16."),
        ({"v": torch.zeros(40, 2, 8)}, "v: given shape .40, 2, 8.; must be k's .40, 2, 16."),
        ({"q": torch.zeros(40, 3, 16)}, "q: given 3 heads; must be a multiple of k's 2"),
        ({"q": torch.zeros(40, 4, 16).double()}, "q: given"),
    ],
)
def test_what_it_does_not_take_is_said(named, said):
    given = {"q": torch.zeros(40, 4, 16), "k": torch.zeros(40, 2, 16), "v": torch.zeros(40, 2, 16)}
    with pytest.raises((TypeError, ValueError), match=said):
        bs.attention_varlen(**{**given, "cu_seqlens_q": cu_of([9, 31]), **named})


def test_float64_is_for_the_reference():
    q, k, v, cu, _ = draw("cpu", ([9, 31], [9, 31]))
    out = bs.attention_varlen(q.double(), k.double(), v.double(), cu, impl="reference")
    assert out.dtype == torch.float64


@pytest.mark.parametrize("lse", [False, True])
def test_torch_compile(device, lse):
    q, k, v, cu_q, cu_k = draw(device, LENGTHS["ragged"], behind=(2, 2))

    def model(q, k, v, cu_q, cu_k):
        found = bs.attention_varlen(q * 2, k, v, cu_q, cu_k, 70, 70, mask=bs.sliding_window(9), return_lse=lse)
        return (found[0] + 1, found[1]) if lse else (found + 1,)

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for got, expected in zip(compiled(q, k, v, cu_q, cu_k), model(q, k, v, cu_q, cu_k), strict=True):
        torch.testing.assert_close(got, expected)


def test_the_operator_and_its_fake_agree(device):
    import blockskip.attention.varlen.ops  # noqa: F401

    q, k, v, cu_q, cu_k = draw(device, LENGTHS["ragged"])
    for lse in (False, True):
        arguments = (q, k, v, cu_q, cu_k, 70, None, "causal()", None, "auto", None, lse)
        torch.library.opcheck(torch.ops.blockskip.attention_varlen, arguments)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_a_graph_replays_with_other_lengths():
    q, k, v, cu, _ = draw("cuda", ([200, 300, 500],) * 2, head_dim=64, dtype=torch.bfloat16)
    bs.attention_varlen(q, k, v, cu, mask=bs.causal())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = bs.attention_varlen(q, k, v, cu, mask=bs.causal())
    for lengths in ([1, 999, 0], [700, 100, 100]):
        cu.copy_(cu_of(lengths))
        graph.replay()
        assert torch.equal(out, bs.attention_varlen(q, k, v, cu, mask=bs.causal()))


@pytest.mark.skipif(not IS_HOPPER, reason="warp-group products need a GPU of compute capability 9.0")
@pytest.mark.parametrize("head_dim", [128, 256, 512])
@pytest.mark.parametrize("mask", [bs.causal(), bs.sliding_window(150), None], ids=["causal", "window", "all"])
def test_hoppers_kernel_has_the_bits_of_attention(mask, head_dim):
    lengths = [300, 0, 1, 129, 2000], [300, 7, 500, 400, 2000]
    q, k, v, cu_q, cu_k = draw("cuda", lengths, heads=(8, 2), head_dim=head_dim, dtype=torch.bfloat16, behind=(5, 9))
    config = TileConfig(64, 32, 12, 2) if head_dim == 512 else TileConfig(128, 128 if head_dim == 128 else 64, 12, 2)
    options = {"mask": mask, "config": config, "return_lse": True}
    assert bs.explain_varlen(q, k, v, cu_q, cu_k, **options).config == config
    out, lse = bs.attention_varlen(q, k, v, cu_q, cu_k, **options)
    close((out, lse), truth(q, k, v, cu_q, cu_k, mask), torch.bfloat16, 2000)
    for i, (n, m) in enumerate(zip(*lengths, strict=True)):
        one = [
            t[cu[i] : cu[i] + rows].transpose(0, 1)[None] for t, cu, rows in ((q, cu_q, n), (k, cu_k, m), (v, cu_k, m))
        ]
        if n >= 128:
            alone, of_lse = bs.attention(*one, route="prefill", **options)
            assert torch.equal(out[cu_q[i] : cu_q[i] + n], alone[0].transpose(0, 1))
            assert torch.equal(lse[:, cu_q[i] : cu_q[i] + n], of_lse[0])


def test_calls_with_other_rows_share_nothing(device):
    q, k, v, cu, _ = draw(device, ([9, 31], [9, 31]))
    REPEATED.clear()
    options = {"mask": bs.causal(), "impl": "triton", "config": SMALL}
    for rows in (40, 39, 40, 12):
        found = bs.attention_varlen(q[:rows], k[:rows], v[:rows], cu, return_lse=True, **options)
        close(
            found,
            truth(q[:rows], k[:rows], v[:rows], cu.clamp(max=rows), cu.clamp(max=rows), bs.causal()),
            torch.float32,
            40,
        )
