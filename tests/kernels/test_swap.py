"""quantize_ in models as they are: torch's own layers, hooks, shared and computed weights, the meta device."""

import copy

import blockskip as bs
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def encoder(layers=2, **options):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(64, 4, 96, batch_first=True, **options)
    return nn.TransformerEncoder(layer, layers, enable_nested_tensor=not options.get("norm_first")).eval()


def dequantized(model, quantised):
    """`model` with the weights that `quantised` stands for: what it must compute, but for int8 activations."""
    for name, child in quantised.named_modules():
        if isinstance(child, bs.QuantizedLinear):
            model.get_submodule(name).weight.data.copy_(child.weight.dequantize())
    return model


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("options", [{}, {"norm_first": True}, {"activation": "gelu"}], ids=str)
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("select", [None, lambda name, linear: name.startswith("layers.1.")], ids=["all", "second"])
def test_in_torchs_transformer_encoder(options, grad, select):
    model = encoder(**options).requires_grad_(False)
    expected, quantised = copy.deepcopy(model), bs.quantize_(model, bits=8, select=select)
    dequantized(expected, quantised)
    assert isinstance(quantised.layers[1].linear1, bs.QuantizedLinear)
    x = normal(3, 7, 64)  # 21 rows: activations stay as they are
    padding = torch.arange(7)[None] >= torch.tensor([7, 5, 2])[:, None]
    with torch.set_grad_enabled(grad):
        torch.testing.assert_close(quantised(x), expected(x), rtol=1e-4, atol=1e-4)
        found, wanted = (m(x, src_key_padding_mask=padding) for m in (quantised, expected))
        kept = ~padding[..., None]  # the parts of a nested tensor are short, and so rounded to int8
        torch.testing.assert_close(found.where(kept, 0), wanted.where(kept, 0), rtol=1e-4, atol=2e-2)


@pytest.mark.parametrize("kind", ["layer", "decoder layer", "transformer"])
def test_in_torchs_other_transformer_modules(kind):
    torch.manual_seed(0)
    model = {
        "layer": lambda: nn.TransformerEncoderLayer(64, 4, 96, batch_first=True),
        "decoder layer": lambda: nn.TransformerDecoderLayer(64, 4, 96, batch_first=True),
        "transformer": lambda: nn.Transformer(64, 4, 1, 1, 96, batch_first=True),
    }[kind]()
    model.eval().requires_grad_(False)
    inputs = [normal(2, 9, 64, seed=i) for i in range(1 if kind == "layer" else 2)]
    expected = copy.deepcopy(model)
    bs.quantize_(model, bits=8)
    wanted = dequantized(expected, model)(*inputs)
    torch.testing.assert_close(model(*inputs), wanted, rtol=1e-4, atol=1e-4)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*inputs), wanted, rtol=1e-4, atol=1e-4)


def test_a_packed_weight_in_torchs_own_functions():
    x, w, bias = normal(9, 64), bs.quantize(normal(5, 64, seed=1)), normal(5, seed=2)
    assert torch.equal(F.linear(x, w), bs.linear(x, w))
    assert torch.equal(F.linear(input=x, weight=w, bias=bias), bs.linear(x, w, bias))
    for name, call in {
        "matmul": lambda: torch.matmul(x, w),
        "add": lambda: torch.add(w, 1),
        "embedding": lambda: F.embedding(x, w),
    }.items():
        with pytest.raises(TypeError, match=rf"{name}.*: given a QuantizedWeight, .* use \.dequantize\(\)"):
            call()
    layer = bs.QuantizedLinear(w, bias)
    assert (layer.in_features, layer.out_features) == (64, 5)


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_activations(layout):
    layer = bs.QuantizedLinear(bs.quantize(normal(5, 64)), normal(5))
    parts = [normal(rows, 64, seed=rows) for rows in (2, 9)]
    out = layer(torch.nested.nested_tensor(parts, layout=layout))
    assert out.is_nested and out.layout == layout
    assert all(torch.equal(a, layer(b)) for a, b in zip(out.unbind(), parts, strict=True))
    with pytest.raises(ValueError, match="x: is a nested tensor"):
        bs.linear(torch.nested.nested_tensor(parts, layout=layout), layer.weight)


def test_forward_hooks_go_along_with_their_handles():
    model, calls = nn.Sequential(nn.Linear(64, 32)), []
    linear = model[0]
    handles = [
        linear.register_forward_pre_hook(lambda module, args: (args[0] * 2,)),
        linear.register_forward_pre_hook(lambda module, args, kwargs: calls.append("before"), with_kwargs=True),
        linear.register_forward_hook(lambda module, args, out: calls.append("after")),
        linear.register_forward_hook(lambda module, args, kwargs, out: out + 1, with_kwargs=True, always_call=True),
    ]
    bs.quantize_(model)
    x, w, bias = normal(2, 64), model[0].weight, model[0].bias
    assert torch.equal(model(x), bs.linear(x * 2, w, bias) + 1) and calls == ["before", "after"]
    for handle in handles:
        handle.remove()
    assert torch.equal(model(x), bs.linear(x, w, bias)) and len(calls) == 2


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.first, self.head = nn.Embedding(11, 64), nn.Linear(64, 64), nn.Linear(64, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        return self.head(self.first(self.embed(ids)))


def test_a_weight_tied_to_an_embedding():
    model = Tied().eval().requires_grad_(False)
    words = r"head shares its weight with embed\.weight \(Embedding\), which stays in floats; part them first, by head"
    with pytest.raises(ValueError, match=words):
        bs.quantize_(model)
    assert type(model.first) is type(model.head) is nn.Linear  # nothing was changed
    held = nn.Module()
    held.linear, held.table = nn.Linear(64, 8), nn.Parameter(torch.zeros(1))
    held.table = held.linear.weight
    with pytest.raises(ValueError, match=r"linear shares its weight with table \(Module\)"):
        bs.quantize_(held)
    plain = copy.deepcopy(model)
    bs.quantize_(model, bits=8, select=lambda name, linear: name != "head")
    assert model.head.weight is model.embed.weight and isinstance(model.first, bs.QuantizedLinear)
    plain.head.weight = nn.Parameter(plain.head.weight.detach())
    bs.quantize_(plain, bits=8)
    ids = torch.arange(9)
    torch.testing.assert_close(plain(ids), model(ids), rtol=0.01, atol=0.1)


def test_a_weight_that_linears_share_is_quantised_once():
    model = nn.ModuleDict({"a": nn.Linear(64, 8), "b": nn.Linear(64, 8), "c": nn.Linear(64, 8)})
    model["b"].weight, model["c"] = model["a"].weight, model["a"]
    with pytest.raises(ValueError, match=r"a shares its weight with b\.weight \(Linear\)"):
        bs.quantize_(model, select=lambda name, linear: linear is model["a"])
    bs.quantize_(model)
    assert model["c"] is model["a"] is not model["b"] and model["a"].data is model["b"].data
    assert not torch.equal(model["a"].bias, model["b"].bias)


def stateful(hook):
    linear = nn.Linear(64, 8)
    getattr(linear, hook)(lambda *args: None)
    return linear


def with_(**fields):
    linear = nn.Linear(64, 8)
    for name, value in fields.items():
        setattr(linear, name, value)
    return linear


class Marked(torch.Tensor):
    pass


def cannot_be_quantised():
    """What there is -> (linear, words of the error)."""
    marked = with_(weight=nn.Parameter(normal(8, 64).as_subclass(Marked)))
    return {
        "parametrized": (parametrizations.weight_norm(nn.Linear(64, 8)), "has parametrizations; .*remove_param"),
        "orthogonal": (parametrizations.orthogonal(nn.Linear(64, 8)), "has parametrizations; .*remove_param"),
        "spectral norm": (nn.utils.spectral_norm(nn.Linear(64, 8)), "computes its weight .*remove_spectral_norm"),
        "pruned": (prune.l1_unstructured(nn.Linear(64, 8), "weight", 0.5), "computes its weight .*prune.remove"),
        "lazy": (nn.LazyLinear(8), "is lazy .*call it once"),
        "of a subclass": (marked, "has a weight of Marked; make it a plain nn.Parameter"),
        "with an adapter": (with_(lora=nn.Linear(64, 2)), "holds lora besides"),
        "with a buffer": (with_(steps=nn.Buffer(torch.zeros(1))), "holds steps besides"),
        "forward replaced": (with_(forward=lambda x: x), "has a forward of its own"),
        "backward hook": (stateful("register_full_backward_hook"), "has backward hooks"),
        "backward pre-hook": (stateful("register_full_backward_pre_hook"), "has backward hooks"),
        "state hook": (stateful("_register_state_dict_hook"), "has hooks on the state_dict"),
        "load hook": (stateful("register_load_state_dict_pre_hook"), "has hooks on the state_dict"),
        "float64": (nn.Linear(64, 8, dtype=torch.float64), "weight: given torch.float64"),
        "not finite": (
            with_(weight=nn.Parameter(torch.full((8, 64), torch.inf))),
            "weight: holds values that are not finite",
        ),
        "float16's end": (
            with_(weight=nn.Parameter(torch.full((8, 64), 65504.0).half())),
            "weight: .*65504.* come back from int4 as infinity",
        ),
    }


@pytest.mark.parametrize("name", cannot_be_quantised())
def test_what_cannot_be_quantised_is_named_and_nothing_changes(name):
    child, words = cannot_be_quantised()[name]
    model = nn.Sequential(nn.Linear(64, 64), nn.Sequential(child))
    before = list(model.modules())
    with pytest.raises((TypeError, ValueError), match=rf"module: 1\.0:? {words}.*leave it out with select"):
        bs.quantize_(model)
    assert list(model.modules()) == before
    bs.quantize_(model, select=lambda name, linear: linear is not child)
    assert isinstance(model[0], bs.QuantizedLinear) and model[1][0] is child


@pytest.mark.parametrize("undo", ["parametrized", "spectral norm", "pruned", "lazy"])
def test_what_the_error_says_helps(undo):
    child, _ = cannot_be_quantised()[undo]
    model, x = nn.Sequential(child).eval(), normal(9, 64)
    expected = model(x)
    {
        "parametrized": lambda: nn.utils.parametrize.remove_parametrizations(child, "weight"),
        "spectral norm": lambda: nn.utils.remove_spectral_norm(child),
        "pruned": lambda: prune.remove(child, "weight"),
        "lazy": lambda: None,
    }[undo]()
    bs.quantize_(model, bits=8)
    torch.testing.assert_close(model(x), expected.detach(), rtol=0, atol=0.01 * expected.abs().max().item())


def test_other_subclasses_of_linear_are_left_alone():
    class Own(nn.Linear):
        pass

    model = nn.Sequential(Own(64, 8), nn.MultiheadAttention(64, 4))
    assert not any(isinstance(child, bs.QuantizedLinear) for child in bs.quantize_(model).modules())


@pytest.mark.parametrize("metadata", ["bfloat16", "uint8"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_model_on_the_meta_device_is_a_layout_to_load_into(bits, metadata):
    make = lambda device: nn.Sequential(nn.Linear(256, 32, device=device), nn.Linear(32, 3, device=device))  # noqa: E731
    options = {"bits": bits, "metadata": metadata, "select": lambda name, linear: name == "0"}
    empty = bs.quantize_(make("meta"), **options)
    assert empty[0].weight.device.type == "meta" and empty(torch.empty(9, 256, device="meta")).shape == (9, 3)
    torch.manual_seed(0)
    full, x = bs.quantize_(make("cpu"), **options).requires_grad_(False), normal(9, 256)
    assert empty[0].weight.nbytes == full[0].weight.nbytes
    empty.load_state_dict(full.state_dict(), assign=True)
    assert torch.equal(empty.requires_grad_(False)(x), full(x))
