"""Which kernel `attention` takes for a few last queries, and that either gives the same result."""

import blockskip as bs
import pytest
import torch
from blockskip.attention import route

IMPLS = ["tiled", "triton"]


def draw(device="cpu", *, q_len=1, kv_len=300, batch=1, heads=(4, 2), head_dim=16):
    generator = torch.Generator().manual_seed(0)
    sizes = ((heads[0], q_len), (heads[1], kv_len), (heads[1], kv_len))
    return tuple(torch.randn((batch, h, n, head_dim), generator=generator).to(device) for h, n in sizes)


def kernel(mask, sizes=None, device="cpu", **arguments):
    arguments = {"impl": "triton", **arguments}
    return bs.explain(*draw(device, **(sizes or {})), mask, **arguments).kernel


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("case", ["causal", "window", "all", "both sides", "ring", "kv_len", "lengths"])
def test_either_kernel_gives_the_result(device, impl, case):
    if impl == "tiled" and device == "cuda" and case == "lengths":
        pytest.skip("tiled does not read a kv_len tensor back from a GPU")
    q_len = 1 if case in ("all", "both sides") else 4
    q, k, v = draw(device, q_len=q_len, kv_len=90, batch=2)
    mask = {"causal": bs.causal(), "all": None, "both sides": bs.band(20, 5)}.get(case, bs.sliding_window(20))
    named = {
        "ring": {"ring": True, "kv_len": 200},
        "kv_len": {"kv_len": 61, "q_start": 57},
        "lengths": {"kv_len": torch.tensor([90, 2], dtype=torch.int32, device=device)},
        "all": {"q_start": 3},
    }.get(case, {})
    expected, expected_lse = bs.attention(q, k, v, mask, impl="reference", return_lse=True, **named)
    for policy in ("decode", "prefill"):
        plan = bs.explain(q, k, v, mask, impl=impl, route=policy, **named)
        assert plan.kernel == policy and (plan.decode is not None) == (policy == "decode")
        out, lse = bs.attention(q, k, v, mask, impl=impl, route=policy, return_lse=True, **named)
        torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(lse, expected_lse, atol=1e-5, rtol=1e-5)


def test_the_routed_call_is_decode_itself(device):
    q, k, v = draw(device, q_len=3)
    for impl in IMPLS:
        out = bs.attention(q, k, v, bs.sliding_window(280), impl=impl, route="decode")
        assert torch.equal(out, bs.decode(q, k, v, window=280, impl=impl))


def test_measured_goes_by_the_keys_that_are_seen(device):
    keys = route.crossover(torch.cuda.get_device_capability() if device == "cuda" else (9, 0), 16).keys
    assert kernel(bs.causal(), {"kv_len": keys}, device) == "decode"
    assert kernel(bs.causal(), {"kv_len": keys - 1}, device) == "prefill"
    long = {"kv_len": 2 * keys + 64}
    assert kernel(bs.sliding_window(keys), long, device) == "decode"
    assert kernel(bs.sliding_window(keys - 1), long, device) == "prefill"
    assert kernel(bs.sliding_window(keys - 1), {**long, "q_len": 2}, device) == "decode"  # two windows, one key apart
    assert kernel(bs.causal(), long, device, kv_len=keys - 1) == "prefill"
    length = torch.tensor(3, dtype=torch.int32, device=device)
    assert kernel(bs.causal(), long, device, kv_len=length) == "decode"  # the buffer's length counts
    assert kernel(bs.sliding_window(64), {"kv_len": 100}, device, kv_len=length, ring=True) == "prefill"


def test_every_gpu_and_head_size_has_a_crossover_with_its_source():
    for capability in ((8, 0), (8, 9), (9, 0), (12, 0)):
        for head_dim in (8, 64, 128, 256, 512):
            row = route.crossover(capability, head_dim)
            assert row.keys >= 1 and row.source.startswith(("published by", "measured on"))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ({"kv_len": 256}, "decode"),
        ({"kv_len": 255}, "prefill"),
        ({"kv_len": 256, "q_len": 2}, "prefill"),
        ({"kv_len": 256, "head_dim": 24}, "prefill"),
        ({"kv_len": 256, "head_dim": 64}, "decode"),
    ],
)
def test_executorchs_rule(device, sizes, expected):
    assert kernel(bs.sliding_window(8), sizes, device, route="executorch") == expected  # it does not ask for the window


STAYS = [
    (bs.causal(), {"q_len": 129}, {}, "129 queries, the route to decode is for up to 128"),
    (bs.causal(), {"q_len": 9}, {"impl": "tiled"}, "9 queries, the route to decode is for up to 8"),
    (bs.causal(), {}, {"skip": "bounds"}, "skip, config and record are the prefill kernel's"),
    (bs.causal(), {}, {"config": (16, 16, 1, 1)}, "skip, config and record"),
    (bs.causal(), {}, {"record": True}, "skip, config and record"),
    (bs.causal(), {}, {"q_start": 5}, "q_start is 5"),
    (bs.band(3, 1), {"q_len": 2}, {}, "neither causal nor a sliding window"),
    (None, {"q_len": 2}, {}, "neither causal nor a sliding window"),
    (bs.band(-1, 3), {}, {}, "neither causal nor a sliding window"),
    (bs.sliding_window(8) | (bs.sink(4) & bs.causal()), {}, {}, "neither causal nor a sliding window"),
    (bs.causal(), {}, {"impl": "reference"}, "the reference has one way"),
]


@pytest.mark.parametrize("case", range(len(STAYS)))
def test_what_decode_cannot_take_stays_with_prefill_and_says_why(device, case):
    mask, sizes, arguments, why = STAYS[case]
    arguments = {"impl": "triton", **arguments}
    plan = bs.explain(*draw(device, **sizes), mask, **arguments)
    assert plan.kernel == "prefill" and plan.splits == 1 and why in plan.route.reason
    with pytest.raises(ValueError, match=f"route: 'decode' cannot take this call: .*{why}"):
        bs.attention(*draw(device, **sizes), mask, **{**arguments, "route": "decode"})


def test_the_plan_shows_the_kernel_the_splits_and_the_reason(device):
    q, k, v = draw(device, q_len=3, kv_len=4000)
    plan = bs.explain(q, k, v, bs.causal(), impl="triton")
    assert plan.splits == bs.explain_decode(q, k, v, impl="triton").splits > 1
    assert (plan.skip, plan.packed, plan.queries_per_tile) == ("bounds", True, 3)
    assert plan.tilemap.rows == 1 and plan.tilemap.block_n == plan.config.block_n
    text = str(plan)
    assert "kernel  decode: 4000 live keys, from the crossover" in text and f"splits  {plan.splits} of" in text
    if device == "cpu":
        tiled = bs.explain(q, k, v, bs.causal())
        assert (tiled.impl, tiled.kernel, tiled.config, tiled.splits) == ("tiled", "decode", None, 1)
        assert tiled.tilemap.kept_pairs == plan.tilemap.kept_pairs and tiled.tilemap.rows == 1
        assert "kernel  decode" in str(tiled)
    assert "kernel  prefill: asked for" in str(bs.explain(q, k, v, bs.causal(), impl="triton", route="prefill"))


def test_unknown_policies_are_errors():
    with pytest.raises(ValueError, match="route: given 'fast'; allowed are prefill, measured, executorch, decode"):
        bs.attention(*draw(), route="fast")


def test_torch_compile_goes_the_same_way(device):
    q, k, v = draw(device, q_len=2)
    model = lambda q, k, v: bs.attention(q, k, v, bs.causal(), route="decode")  # noqa: E731
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(q, k, v), bs.decode(q, k, v))
