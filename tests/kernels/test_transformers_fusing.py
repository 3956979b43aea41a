"""`fuse_`: query, key and value as one product, gate and up as another, inside transformers; nothing else changes."""

import copy
import pickle

import blockskip as bs
import pytest
import torch
import transformers
from blockskip.integrations import transformers as integration
from blockskip.integrations.transformers.fusing import SHARING, ProductPart
from tiny_models import CONFIGS, INSIDE, SHAPE, spread, tiny
from torch import nn

pytestmark = pytest.mark.usefixtures("one_thread")
integration.register()

WIDTH, NEW = 13, 8
PADDING = (0, 5, WIDTH - 2)
FAMILIES = pytest.mark.parametrize("family", [*CONFIGS, *INSIDE])
CACHES = {
    "dynamic": lambda model: {},
    "static": lambda model: {"cache_implementation": "static"},
    "ring": lambda model: {"cache": integration.ring_cache(model.config, WIDTH + NEW)},
    "none": lambda model: {"use_cache": False},
}


def own(family):
    """A copy that a test may change, under our attention."""
    model = copy.deepcopy(tiny(family))
    model.set_attn_implementation("blockskip")
    return model


def small(family, layers=1, **fields):
    kind, others = CONFIGS[family]
    given = SHAPE | others | {"num_hidden_layers": layers, "attn_implementation": "blockskip"} | fields
    return spread(transformers.AutoModelForCausalLM.from_config(kind(**given)))


def quantised(model):
    """Of layers' products those that have groups, and no heads that share the embedding's weight."""
    return bs.quantize_(model, select=lambda name, linear: "_proj" in name and linear.in_features % 32 == 0)


def prompts():
    generator = torch.Generator("cpu").manual_seed(1)
    ids = torch.randint(1, SHAPE["vocab_size"], (len(PADDING), WIDTH), generator=generator)
    mask = (torch.arange(WIDTH)[None] >= torch.tensor(PADDING)[:, None]).long()
    return ids * mask, mask


def logits(model):
    ids, mask = prompts()
    with torch.no_grad():
        return model(ids, attention_mask=mask).logits


def products(model):
    """How many linear layers each decoder layer calls, by their names."""
    layers = model.get_decoder().layers
    return [
        sorted(n.split(".")[-1] for n, m in layer.named_modules() if isinstance(m, (nn.Linear, bs.QuantizedLinear)))
        for layer in layers
    ]


@FAMILIES
@pytest.mark.parametrize("quantise", ["never", "before", "after"])
def test_the_same_bits_as_unfused(family, quantise):
    """Logits of many rows (floats) and of few (int8), weights, and what is saved."""
    plain, fused = own(family), own(family)
    if quantise != "never":
        quantised(plain)
    if quantise == "before":
        quantised(fused)
    assert integration.fuse_(fused) is fused
    if quantise == "after":
        quantised(fused)
    assert torch.equal(logits(fused), logits(plain))
    ids = torch.tensor([[3, 7]])
    with torch.no_grad():
        assert torch.equal(fused(ids).logits, plain(ids).logits)
    saved, wanted = fused.state_dict(), plain.state_dict()
    assert saved.keys() == wanted.keys() and all(torch.equal(saved[name], wanted[name]) for name in wanted)


def test_how_many_products_a_layer_has():
    four = ["down_proj", "gate_up_proj", "o_proj", "qkv_proj"]
    for family in CONFIGS:
        model = integration.fuse_(own(family))
        assert products(model) == [four] * model.config.num_hidden_layers
    model = integration.fuse_(quantised(own("gemma4")))
    assert products(model) == [four] * 6
    full = model.get_decoder().layers[5].self_attn
    assert full.v_proj is None and full.qkv_proj.out_features == 4 * 32 + 32  # values are the keys
    sharing = products(integration.fuse_(own("gemma4-shared-keys")))
    assert "qkv_proj" in sharing[0] and "q_proj" in sharing[-1] and "qkv_proj" not in sharing[-1]
    assert all("qkv_proj" in found for found in products(integration.fuse_(own("gpt_oss"))))
    again = {name: id(module) for name, module in model.named_modules()}
    assert {name: id(module) for name, module in integration.fuse_(model).named_modules()} == again


@FAMILIES
@pytest.mark.parametrize("cache", CACHES)
def test_generate_says_the_same(family, cache):
    ids, mask = prompts()
    given = {"attention_mask": mask, "max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    plain, fused = quantised(own(family)), integration.fuse_(quantised(own(family)))
    wanted = plain.generate(ids, **given, **CACHES[cache](plain))
    assert torch.equal(fused.generate(ids, **given, **CACHES[cache](fused)), wanted)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_with_transformers_own_attention(attention):
    plain, fused = own("gemma3"), integration.fuse_(own("gemma3"))
    plain.set_attn_implementation(attention), fused.set_attn_implementation(attention)
    assert torch.equal(logits(fused), logits(plain))


@pytest.mark.parametrize("family", CONFIGS)
@torch.no_grad()
def test_a_compiled_step_is_one_graph(family):
    """Of a ring cache behind a prompt, over several tokens; a layer has 4 products."""
    torch._dynamo.reset()
    graphs = []
    model, (ids, _) = integration.fuse_(quantised(small(family))), prompts()
    caches = [integration.ring_cache(model.config, WIDTH) for _ in range(2)]
    compiled = torch.compile(model.forward, backend=lambda module, _: graphs.append(module) or module, fullgraph=True)
    for cache in caches:
        model(ids[:, :3], cache=cache, use_cache=True)
    for i in range(3, WIDTH):
        wanted, found = (
            call(ids[:, i : i + 1], cache=cache, use_cache=True).logits
            for call, cache in zip((model, compiled), caches, strict=True)
        )
        assert torch.equal(found, wanted)
    assert len(graphs) == 1
    called = [node for node in graphs[0].graph.nodes if "blockskip.linear" in str(node.target)]
    assert len(called) == 4


@torch.no_grad()
def test_a_compiled_prompt():
    torch._dynamo.reset()
    model, (ids, _) = integration.fuse_(quantised(small("gemma4", layer_types=["full_attention"]))), prompts()
    wanted = model(ids, use_cache=False).logits
    found = torch.compile(model, fullgraph=True, backend="aot_eager")(ids, use_cache=False).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", ["gemma4", "llama"])
def test_what_is_saved_is_loaded_by_either(family, tmp_path):
    plain, fused = own(family), integration.fuse_(own(family))
    fused.save_pretrained(tmp_path)
    loaded = type(fused).from_pretrained(tmp_path, attn_implementation="blockskip").eval()
    assert torch.equal(logits(loaded), logits(plain)) and not hasattr(loaded.model.layers[0].self_attn, "qkv_proj")
    for module in fused.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                parameter.data = torch.zeros_like(parameter)
    assert not torch.equal(logits(fused), logits(plain))
    fused.load_state_dict(plain.state_dict())
    assert torch.equal(logits(fused), logits(plain))
    integration.fuse_(loaded).load_state_dict(fused.state_dict(), assign=True)
    assert torch.equal(logits(loaded), logits(plain))


@pytest.mark.parametrize("order", ["before", "after"])
def test_quantised_weights_are_loaded_too(order):
    """Into a module on the meta device as well, which holds a layout without numbers."""
    saved = quantised(own("llama")).state_dict()
    with torch.device("meta"):
        empty = transformers.AutoModelForCausalLM.from_config(own("llama").config)
    empty = integration.fuse_(quantised(empty)) if order == "before" else quantised(integration.fuse_(empty))
    found = empty.load_state_dict(saved, assign=True)
    assert not found.missing_keys and not found.unexpected_keys
    state = empty.state_dict()
    assert state.keys() == saved.keys() and all(torch.equal(state[name], saved[name]) for name in saved)


def test_a_state_dict_that_does_not_fit():
    model, saved = integration.fuse_(own("llama")), tiny("llama").state_dict()
    del saved["model.layers.1.self_attn.k_proj.bias"]
    with pytest.raises(
        RuntimeError, match=r"layers\.1\.self_attn\.qkv_proj: given tensors of q_proj bias, weight; of k"
    ):
        model.load_state_dict(saved)
    other = bs.quantize_(own("llama"), group_size=64, select=lambda name, _: "gate_proj" in name).state_dict()
    with pytest.raises(
        RuntimeError, match="gate_up_proj: given tensors of gate_proj bias, data, scale, zero; of up_proj"
    ):
        model.load_state_dict(other)
    quantised(model)
    with pytest.raises(RuntimeError, match="qkv_proj"):
        model.load_state_dict(tiny("llama").state_dict())


def test_copies_and_dtypes():
    model = integration.fuse_(quantised(own("qwen3")))
    twin = copy.deepcopy(model)
    model.get_decoder().layers[0].self_attn.qkv_proj.scale.zero_()
    assert torch.equal(logits(twin), logits(quantised(own("qwen3"))))
    read = pickle.loads(pickle.dumps(twin))
    assert torch.equal(logits(read), logits(twin)) and read.state_dict().keys() == twin.state_dict().keys()
    assert logits(twin.bfloat16()).dtype == torch.bfloat16


def test_what_cannot_be_fused():
    def refused(words, change, kind=ValueError):
        model = own("llama")
        change(model)
        with pytest.raises(kind, match=words):
            integration.fuse_(model)
        assert not any(isinstance(module, ProductPart) for module in model.modules())

    last = "model.layers.2.self_attn"

    def half(model):
        bs.quantize_(model, select=lambda name, _: name == f"{last}.v_proj")

    refused(rf"{last}.v_proj has a weight of int4 in groups of 32 .*; linear layers that are alike", half)

    def hooked(model):
        model.get_submodule(f"{last}.k_proj").register_forward_hook(lambda *given: None)

    refused(f"{last}.k_proj has hooks or a forward of its own, which would be lost; remove them first", hooked)

    def other(model):
        model.set_submodule(f"{last}.q_proj", nn.Identity())

    refused(f"{last}.q_proj is Identity; nn.Linear or QuantizedLinear can be fused", other)

    def biased(model):
        model.get_submodule("model.layers.0.mlp.up_proj").bias = None

    refused("mlp.up_proj has a weight of .*, no bias, gate_proj a weight of .*, a bias of torch.float32", biased)
    with pytest.raises(
        ValueError, match="model: given Sequential, without a module that can be fused; known are Gemma2"
    ):
        integration.fuse_(nn.Sequential(nn.Linear(32, 32)))
    with pytest.raises(TypeError, match=r"model: given list; an nn\.Module is needed"):
        integration.fuse_([])
    fused = integration.fuse_(own("llama"))
    with pytest.raises(TypeError, match="k_proj: given Tensor by itself; after fuse_ it is a part of qkv_proj"):
        fused.get_submodule(f"{last}.k_proj")(torch.zeros(1, 64))
    assert "q_proj" in repr(fused) and "of qkv_proj, out_features=64" in repr(fused)


def test_every_class_is_one_of_transformers():
    found = {type(module).__name__ for family in (*CONFIGS, *INSIDE) for module in tiny(family).modules()}
    assert SHARING.keys() <= found
