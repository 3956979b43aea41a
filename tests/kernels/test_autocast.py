"""Inside this library's calls autocast is off: the same bits under torch.autocast as without, compiled ones too."""

import functools

import blockskip as bs
import pytest
import torch
import torch.nn.functional as F
from torch import nn

IMPLS = ("reference", "tiled", "triton")
AUTOCAST = torch.bfloat16


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads(device, q_len=5):
    shapes = (1, 4, q_len, 16), (1, 2, 40, 16), (1, 2, 40, 16)
    return [normal(*shape, seed=i).to(device) for i, shape in enumerate(shapes)]


def linear(device, rows):
    x, w, bias = normal(rows, 64), bs.quantize(normal(3, 64, seed=1).to(device)), normal(3, seed=2)
    x, bias = x.to(device), bias.to(device)
    return lambda impl: bs.linear(x, w, bias, impl=impl)


def attention(device, mask):
    q, k, v = heads(device)
    return lambda impl: torch.cat([t.flatten() for t in bs.attention(q, k, v, mask, impl=impl, return_lse=True)])


def decode(device, window):
    q, k, v = heads(device, q_len=2)
    return lambda impl: bs.decode(q, k, v, window=window, impl=impl)


def varlen(device):
    q, k, v = (t[0].transpose(0, 1) for t in heads(device, q_len=20))
    cu_q, cu_k = (torch.tensor(cu, dtype=torch.int32, device=device) for cu in ([0, 3, 20], [0, 30, 40]))
    return lambda impl: bs.attention_varlen(q, k, v, cu_q, cu_k, mask=bs.causal(), impl=impl)


def exact_lse(device, call):
    """16-bit inputs: on a CPU `tiled` sums their exponentials by a product in float32, which autocast would round."""
    tensors = [t.half() for t in heads(device, q_len=2)]
    return lambda impl: call(*tensors, impl=impl, return_lse=True)[1]


CALLS = {
    "linear, 1 row": lambda device: linear(device, 1),
    "linear, 9 rows": lambda device: linear(device, 9),
    "causal": lambda device: attention(device, bs.causal()),
    "chunked": lambda device: attention(device, bs.chunked(8) | bs.sink(3)),
    "dense": lambda device: attention(device, bs.dense(normal(5, 40).to(device) > 0)),
    "decode": lambda device: decode(device, None),
    "decode, window": lambda device: decode(device, 7),
    "varlen": varlen,
    "decode, lse": lambda device: exact_lse(device, bs.decode),
    "all keys, lse": lambda device: exact_lse(device, functools.partial(bs.attention, route="prefill")),
}


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("name", CALLS)
def test_autocast_changes_no_bit(device, name, impl):
    call = CALLS[name](device)
    expected = call(impl)
    with torch.autocast(device, AUTOCAST):
        found = [call(impl) for _ in range(2)]
        assert torch.is_autocast_enabled(device)
    assert all(out.dtype == torch.float32 and torch.equal(out, expected) for out in found)


MASKS = {
    "none": lambda device: None,
    "bool": lambda device: normal(5, 40).to(device) > 0,
    "additive": lambda device: normal(5, 40).to(device),
}


def sdpa(device, kind):
    q, k, v = heads(device)
    mask = MASKS[kind](device)
    return lambda: bs.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)


@pytest.mark.parametrize("kind", MASKS)
def test_autocast_changes_no_bit_of_the_drop_in(device, kind):
    call = sdpa(device, kind)
    expected = call()
    with torch.autocast(device, AUTOCAST):
        assert torch.equal(call(), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
def test_autocast_changes_no_bit_of_a_quantised_weight(device, metadata, dtype):
    weight = normal(3, 256).to(device)
    expected = bs.quantize(weight, metadata=metadata).named_tensors()
    layer = nn.Linear(256, 3, device=device)
    layer.weight = nn.Parameter(weight)
    with torch.autocast(device, dtype):
        found = bs.quantize(weight=weight, metadata=metadata), bs.quantize_(layer, metadata=metadata).weight
    for w in found:
        assert all(torch.equal(own, expected[name]) for name, own in w.named_tensors().items())


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("inside", [False, True], ids=["around", "inside"])
def test_autocast_changes_no_bit_of_a_compiled_call(device, backend, inside):
    calls = [CALLS[name](device) for name in ("linear, 9 rows", "causal", "decode")]
    drop_in = sdpa(device, "additive")
    plain = lambda: [drop_in(), *[call("auto") for call in calls]]  # noqa: E731

    def within():
        with torch.autocast(device, AUTOCAST):
            return plain()

    expected = plain()
    compiled = torch.compile(within if inside else plain, fullgraph=True, backend=backend)
    with torch.no_grad(), torch.autocast(device, AUTOCAST, enabled=not inside):
        found = compiled()
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize("rows", [2, 9])
def test_a_biased_module_behind_an_autocast_layer_casts_its_bias(device, rows, compiled):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 32), nn.Linear(32, 3)).to(device).eval()
    bs.quantize_(model, bits=8, select=lambda name, linear: name == "1")
    x, layer = normal(rows, 32).to(device), model[1]
    run = torch.compile(model, fullgraph=True, backend="aot_eager") if compiled else model
    with torch.no_grad(), torch.autocast(device, AUTOCAST):
        out = run(x)
        behind = model[0](x)
        found = layer(behind)
    assert out.dtype == found.dtype == behind.dtype == AUTOCAST and layer.bias.dtype == torch.float32
    assert torch.equal(found, bs.linear(behind, layer.weight, layer.bias.to(AUTOCAST)))
    wanted = F.linear(behind.float(), layer.weight.dequantize(torch.float32), layer.bias.to(AUTOCAST).float())
    # rounding to int8 of two rows, the weights' and one of the result
    torch.testing.assert_close(found.float(), wanted, rtol=2**-7, atol=0.02 * wanted.abs().max().item())
    with pytest.raises(TypeError, match=r"bias: given torch\.float32; allowed are torch\.bfloat16"):
        layer(behind)  # nn.Linear, too, takes no mixed dtypes without autocast
