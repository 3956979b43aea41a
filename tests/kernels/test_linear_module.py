"""QuantizedLinear in nn.Linear's place: swapping, state_dicts in memory and in safetensors, dtypes, compiling."""

import contextlib
import copy
import gc
import weakref
from dataclasses import replace

import blockskip as bs
import pytest
import torch
from torch import nn


def inputs(device, rows, k=384, kind=(4, 32, False), seed=0):
    """x [rows, K], a quantised weight [11, K] and a bias."""
    generator = torch.Generator().manual_seed(seed + rows)
    x, weight, bias = (torch.randn(shape, generator=generator) for shape in ((rows, k), (11, k), (11,)))
    return x.to(device), bs.quantize(weight.to(device), *kind), bias.to(device)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.act = nn.Linear(64, 96), nn.GELU()
        self.inner = nn.Sequential(nn.Linear(96, 64, bias=False))
        self.tied = self.inner[0]

    def forward(self, x):
        return self.inner(self.act(self.first(x))) + self.tied(self.first(x))


def test_quantize_swaps_linears_in_place():
    torch.manual_seed(0)
    model = Model().eval()
    plain = copy.deepcopy(model)
    assert bs.quantize_(model, bits=8) is model
    assert isinstance(model.first, bs.QuantizedLinear) and isinstance(model.inner[0], bs.QuantizedLinear)
    assert model.tied is model.inner[0] and not model.first.training
    x = torch.randn(3, 64)
    torch.testing.assert_close(model(x), plain(x).detach(), rtol=0.05, atol=0.05)
    assert "int8, groups of 32" in repr(model)


def test_quantize_takes_what_select_says_and_changes_nothing_on_an_error():
    model = nn.Sequential(nn.Linear(64, 100), nn.Linear(100, 64))
    with pytest.raises(ValueError, match=r"module: 1 has in_features 100, no multiple of group_size 32; .*select"):
        bs.quantize_(model)
    assert all(type(child) is nn.Linear for child in model)
    bs.quantize_(model, select=lambda name, linear: linear.in_features == 64)
    assert [type(child) for child in model] == [bs.QuantizedLinear, nn.Linear]
    assert isinstance(bs.quantize_(nn.Linear(64, 8)), bs.QuantizedLinear)
    with pytest.raises(ValueError, match="bits: given 5"):
        bs.quantize_(model, bits=5)
    with pytest.raises(ValueError, match="metadata: given 'int8'"):
        bs.quantize_(model, metadata="int8")
    with pytest.raises(TypeError, match="module: given int"):
        bs.quantize_(3)
    with pytest.raises(ValueError, match="it has in_features 64, no multiple of 256, for metadata='uint8'"):
        bs.quantize_(nn.Linear(64, 8), metadata="uint8")
    assert bs.quantize_(nn.Linear(512, 8), metadata="uint8").weight.encoded


def gguf(kind, nbytes, at=0, n=11, k=512):
    """A weight of any codes, with float16 metadata of 1 in four bytes from `at` on."""
    weights = 256 if kind.endswith("_K") else 32
    generator = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, 256, (n, k // weights, nbytes), dtype=torch.uint8, generator=generator)
    blocks[..., at : at + 4] = torch.tensor([0, 0x3C, 0, 0x3C], dtype=torch.uint8)
    return bs.from_gguf(blocks, kind, (n, k))


def torchao(n=11, k=512):
    generator = torch.Generator().manual_seed(0)
    qdata = torch.randint(-128, 128, (n, k // 2), dtype=torch.int8, generator=generator)
    return bs.from_torchao(qdata, *torch.randn((2, k // 32, n), generator=generator).bfloat16())


LAYOUTS = {
    f"int{bits}, {metadata}, {'symmetric' if symmetric else 'asymmetric'}": lambda weight, kind=kind: bs.quantize(
        weight, *kind
    )
    for bits in (4, 8)
    for symmetric in (False, True)
    for metadata in ("bfloat16", "uint8")
    for kind in [(bits, 32, symmetric, metadata)]
}
LAYOUTS |= {
    "Q4_0": lambda weight: gguf("Q4_0", 18),
    "Q4_1": lambda weight: gguf("Q4_1", 20),
    "Q8_0": lambda weight: gguf("Q8_0", 34),
    "Q6_K": lambda weight: gguf("Q6_K", 210, 206),
    "torchao": lambda weight: torchao(),
}


@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_safetensors_round_trip(layout, has_bias, tmp_path):
    from safetensors.torch import load_file, save_file

    weight, x = torch.randn((11, 512), generator=torch.Generator().manual_seed(1)), torch.randn(3, 512)
    w, bias = LAYOUTS[layout](weight), torch.randn(11) if has_bias else None
    model = nn.Sequential(bs.QuantizedLinear(w, bias), nn.ReLU())
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    state = load_file(tmp_path / "model.safetensors")
    assert set(state) == {f"0.{name}" for name in (*w.named_tensors(), *(["bias"] if has_bias else []))}
    empty = replace(w, **{name: torch.zeros_like(t) for name, t in w.named_tensors().items()})
    for assign in (False, True):
        fresh = nn.Sequential(bs.QuantizedLinear(empty, None if bias is None else torch.zeros(11)), nn.ReLU())
        fresh.load_state_dict(state, assign=assign)
        for name, t in w.named_tensors().items():
            loaded = getattr(fresh[0], name)
            assert loaded.dtype == t.dtype and torch.equal(loaded.view(torch.uint8), t.view(torch.uint8))
        assert torch.equal(fresh(x), model(x))
        assert has_bias == (fresh[0].bias is not None)


def test_the_weight_is_made_once_and_follows_the_modules_tensors(monkeypatch):
    weights = [bs.quantize(torch.randn((11, 64), generator=torch.Generator().manual_seed(seed))) for seed in (1, 2)]
    layer, x = bs.QuantizedLinear(weights[0]), torch.randn(3, 64)
    wanted = [bs.linear(x, w) for w in weights]
    assert layer.weight is layer.weight and torch.equal(layer(x), wanted[0])
    with monkeypatch.context() as patched:
        patched.setattr(bs.QuantizedLinear, "_made_weight", None)
        assert torch.equal(layer(x), wanted[0])
        twin = copy.deepcopy(layer)
        assert twin.weight.data is twin.data is not layer.data
    state = bs.QuantizedLinear(weights[1]).state_dict()
    assert set(state) == set(weights[1].named_tensors())
    for assign in (False, True):
        other = copy.deepcopy(layer)
        assert torch.equal(other(x), wanted[0])
        other.load_state_dict(state, assign=assign)
        assert torch.equal(other(x), wanted[1]) and other.weight.data is other.data
    called = torch.func.functional_call(layer, state, (x,))
    assert torch.equal(called, wanted[1]) and torch.equal(layer(x), wanted[0])
    left = weakref.ref(layer.data)
    del weights, wanted
    layer.to("meta")
    gc.collect()
    assert left() is None and layer.weight.device.type == "meta"


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_another_layout_is_refused_and_changes_nothing(strict):
    weight = torch.randn((11, 512), generator=torch.Generator().manual_seed(1))
    layers = {name: bs.QuantizedLinear(make(weight)) for name, make in LAYOUTS.items()}
    for name, layer in layers.items():
        model = nn.Sequential(layer)
        before = {key: t.clone() for key, t in model.state_dict().items()}
        for other, given in layers.items():
            if other != name:
                with pytest.raises(RuntimeError, match=r"0\.: given data .*; this module holds data .*same layout"):
                    model.load_state_dict(nn.Sequential(given).state_dict(), strict=strict)
        assert all(torch.equal(t, before[key]) for key, t in model.state_dict().items())
    half = bs.QuantizedLinear(bs.quantize(weight, group_size=64))
    with pytest.raises(RuntimeError, match=r"given data uint8 \[11, 256\], scale bfloat16 \[11, 8\], zero"):
        layers["int4, bfloat16, asymmetric"].load_state_dict(half.state_dict(), strict=strict)
    with pytest.raises(RuntimeError, match="Missing key") if strict else contextlib.nullcontext():
        half.load_state_dict({}, strict=strict)


def test_a_change_of_dtype_leaves_the_packed_weight_alone():
    x, w, bias = inputs("cpu", 2)
    layer = bs.QuantizedLinear(w, bias).half()
    assert layer.bias.dtype == torch.float16 and layer.scale.dtype == layer.zero.dtype == torch.bfloat16
    assert torch.equal(layer(x.half()), bs.linear(x.half(), w, bias.half()))
    encoded = bs.QuantizedLinear(bs.quantize(torch.ones(1, 256), metadata="uint8")).double()
    assert encoded.scale_step.dtype == torch.float16 and encoded.scale.dtype == torch.uint8
    assert not any(p.requires_grad for p in layer.parameters())
    assert layer.to("meta").data.device.type == "meta"


@pytest.mark.parametrize("rows", [2, 9])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
def test_torch_compile_and_export_go_through(device, rows, bits, metadata):
    x, w, bias = inputs(device, rows, k=512, kind=(bits, 32, bits == 8, metadata))
    model = nn.Sequential(bs.QuantizedLinear(w, bias), nn.ReLU()).to(device)
    compiled = torch.compile(lambda x: model(x * 2) + bs.linear(x, w), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x * 2) + bs.linear(x, w))
        program = torch.export.export(model, (x,))
        assert "blockskip.linear" in str(program.graph)
        torch.testing.assert_close(program.module()(x), model(x))
