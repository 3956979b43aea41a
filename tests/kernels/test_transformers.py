"""Blockskip inside transformers: `generate` says what it says with eager attention, whatever the cache and the padding.

The truth of logits is transformers' model in float64; a tolerance is what eager's float32 is off by, times SLACK, as in
`tests/lab/test_model_transformers.py`.
"""

import contextlib
import sys
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import blockskip as bs
import pytest
import torch
import transformers
from blockskip.integrations import transformers as integration
from blockskip.integrations.transformers.attention import attend
from blockskip.integrations.transformers.caches import RingLayer
from blockskip.integrations.transformers.masks import prepare
from tiny_models import CONFIGS, INSIDE, SHAPE, WINDOW, off, spread, tiny
from transformers.masking_utils import AttentionMaskInterface, create_sliding_window_causal_mask

pytestmark = pytest.mark.usefixtures("one_thread")
integration.register()

SLACK = 4
WIDTH, NEW = 13, 10  # a prompt longer than the window, and tokens past another one
PADDING = (0, 5, WIDTH - 2)  # on the left of each row; the last one's prompt is shorter than the window
FAMILIES = pytest.mark.parametrize("family", [*CONFIGS, *INSIDE])
CACHES = {
    "dynamic": dict,  # windows in the layers that have one
    "every key": lambda: {"cache": transformers.DynamicCache()},  # in layers with a window, too
    "static": lambda: {"cache_implementation": "static"},
    "none": lambda: {"use_cache": False},
}


def small(family, **fields):
    """A model of a test's own, or with fewer layers: tracing takes longer than running."""
    kind, others = CONFIGS[family]
    config = kind(**SHAPE | others | fields)
    return spread(transformers.AutoModelForCausalLM.from_config(config))


@lru_cache
def prompts():
    """(ids, attention_mask) with padding on the left."""
    ids = torch.randint(1, SHAPE["vocab_size"], (len(PADDING), WIDTH), generator=torch.Generator("cpu").manual_seed(1))
    mask = (torch.arange(WIDTH)[None] >= torch.tensor(PADDING)[:, None]).long()
    return ids * mask, mask


@contextlib.contextmanager
def attention_of(model, name="blockskip"):
    model.set_attn_implementation(name)
    try:
        yield model
    finally:
        model.set_attn_implementation("eager")


def said(model, new=NEW, **options):
    ids, mask = prompts()
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0} | options
    return model.generate(ids, attention_mask=mask, max_new_tokens=new, **options)[:, WIDTH:].tolist()


@lru_cache
def said_by_eager(family):
    return said(tiny(family))


@FAMILIES
@pytest.mark.parametrize("cache", CACHES)
def test_generate_says_what_eager_says(family, cache):
    with attention_of(tiny(family)) as model:
        assert said(model, **CACHES[cache]()) == said_by_eager(family)


@lru_cache
def truth(family):
    """(logits in float64 of each row alone, without padding, and 0 before it; what eager's float32 is off by)."""
    model, (ids, mask) = tiny(family), prompts()
    with torch.no_grad():
        plain = model(ids, attention_mask=mask, position_ids=positions()).logits
        alone = [model.double()(ids[i : i + 1, n:]).logits[0] for i, n in enumerate(PADDING)]
        model.float()
    exact = torch.stack(
        [torch.cat([row.new_zeros(n, row.shape[1]), row]) for n, row in zip(PADDING, alone, strict=True)]
    )
    return exact, off(plain[mask.bool()], exact[mask.bool()])


@FAMILIES
@pytest.mark.parametrize("rows", [len(PADDING), 1], ids=["padded", "a row without padding"])
def test_a_ring_cache(family, rows):
    """Past the window's wrap, and again after a reset."""
    ids, mask = prompts()
    given = {"attention_mask": mask[:rows], "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    given["eos_token_id"] = None
    wanted = tiny(family).generate(ids[:rows], **given)
    with attention_of(tiny(family)) as model:
        cache = integration.ring_cache(model.config, WIDTH + NEW)
        for _ in range(2):
            assert torch.equal(model.generate(ids[:rows], cache=cache, **given), wanted)
            cache.reset()
    slots = {layer.keys.shape[2] for layer in cache.layers if isinstance(layer, RingLayer)}
    assert slots == ({WINDOW} if any(layer.is_sliding for layer in cache.layers) else set())


def positions():
    return (prompts()[1].cumsum(1) - 1).clamp(min=0)


@FAMILIES
def test_logits_of_chunks(family):
    """A prompt whole, and in chunks of several tokens that go on from a cache, past the window."""
    model, (ids, mask) = tiny(family), prompts()
    exact, noise = truth(family)
    caches = (
        (WIDTH, None),
        (5, transformers.DynamicCache(config=model.config)),
        (5, transformers.StaticCache(config=model.config, max_cache_len=WIDTH + 3)),
    )
    with attention_of(model), torch.no_grad():
        for size, cache in (*caches, (5, integration.ring_cache(model.config, WIDTH + 3))):
            for start in range(0, WIDTH, size):
                part, end = slice(start, start + size), start + size
                given = {"attention_mask": mask[:, :end], "position_ids": positions()[:, part], "cache": cache}
                found, real = model(ids[:, part], **given).logits, mask[:, part].bool()
                assert off(found[real], exact[:, part][real]) <= SLACK * noise


def test_a_model_is_made_with_it():
    kind, fields = CONFIGS["mistral"]
    given = SHAPE | fields | {"attn_implementation": "blockskip"}
    model = spread(transformers.AutoModelForCausalLM.from_config(kind(**given)))
    assert model.config._attn_implementation == "blockskip"
    assert said(model) == said_by_eager("mistral")


def test_padding_is_seen_by_none():
    """What pads are changes nothing; without its mask function transformers would hand over no padding at all."""
    ids, mask = prompts()
    with attention_of(tiny("gemma3")) as model, torch.no_grad():
        found, other = (model(i, attention_mask=mask).logits for i in (ids, ids + 7 * (1 - mask)))
    assert torch.equal(found[mask.bool()], other[mask.bool()])


def test_layers_of_one_kind_share_a_mask():
    """A forward pass asks for two masks, and a mask that `generate` prepared is taken as it is."""
    made, given = [], []

    def counting(**arguments):
        made.append(prepare(**arguments))
        return made[-1]

    def noting(module, query, key, value, attention_mask, **options):
        given.append(attention_mask)
        return attend(module, query, key, value, attention_mask, **options)

    transformers.AttentionInterface.register("noting", noting)
    AttentionMaskInterface.register("noting", counting)
    with attention_of(tiny("gemma3"), "noting") as model:
        said(model, new=1)
        assert len(made) == 2 and len(given) == model.config.num_hidden_layers
        assert {id(mask) for mask in given} == {id(mask) for mask in made}
        window, everything = sorted(made, key=lambda mask: repr(mask.mask), reverse=True)
        assert window.mask == bs.sliding_window(WINDOW) and everything.mask == bs.causal()
    made.clear(), given.clear()
    with attention_of(tiny("llama"), "noting") as model:
        said(model, new=3, cache_implementation="static")
    assert all(mask is given[3 * i] for i in range(3) for mask in given[3 * i : 3 * i + 3])
    assert all(mask.kv_start is not None and isinstance(mask.kv_len, torch.Tensor) for mask in given)


def test_masks_of_the_users_own():
    """4-D: bool, or numbers added to the scores."""
    ids, _ = prompts()
    keep = torch.rand(3, 1, WIDTH, WIDTH, generator=torch.Generator("cpu").manual_seed(3)) > 0.3
    keep |= torch.eye(WIDTH, dtype=torch.bool)
    added = torch.zeros_like(keep, dtype=torch.float32).masked_fill(~keep, torch.finfo(torch.float32).min)
    model = tiny("llama")
    with torch.no_grad():
        wanted = model(ids, attention_mask=added).logits
        with attention_of(model):
            assert torch.allclose(model(ids, attention_mask=keep).logits, wanted, atol=1e-4)
            assert torch.allclose(model(ids, attention_mask=added + 0.0).logits, wanted, atol=1e-4)


def test_quantised():
    """The same int4 weights say the same under both; the head that shares the embedding's weight stays as it is."""
    model = small("gemma3", num_hidden_layers=2)
    bs.quantize_(model, select=lambda name, linear: name != "lm_head")
    wanted = said(model)
    with attention_of(model):
        assert said(model) == said(model, cache_implementation="static") == wanted
    assert sum(type(module) is bs.QuantizedLinear for module in model.modules()) == 14


def test_the_readmes_model(tmp_path, monkeypatch):
    """Its lines run, with a tiny model in the place of the one that they load."""
    blocks = Path(__file__).parents[2].joinpath("README.md").read_text(encoding="utf-8").split("```python\n")
    (block,) = (block.split("```")[0] for block in blocks if "register()" in block)
    tiny("qwen3").save_pretrained(tmp_path)
    ids, mask = prompts()
    tokens = transformers.BatchEncoding({"input_ids": ids, "attention_mask": mask})
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: Tokenizer(tokens))
    assert block.count('"Qwen/Qwen3-8B"') == 1 and block.count('"cuda"') == 1
    printed = []
    names = {"bs": bs, "print": printed.append}
    exec(block.replace("Qwen/Qwen3-8B", str(tmp_path)).replace('"cuda"', '"cpu"'), names)
    assert names["model"].config._attn_implementation == "blockskip"
    assert {type(m) for m in names["model"].modules()} & {torch.nn.Linear, bs.QuantizedLinear} == {bs.QuantizedLinear}
    assert len(printed[0]) > WIDTH and printed[0][:WIDTH] == ids[0].tolist()


class Tokenizer(SimpleNamespace):
    def __init__(self, tokens):
        super().__init__(decode=torch.Tensor.tolist, encoded=tokens)

    def __call__(self, text, return_tensors):
        return self.encoded


# torch.compile


def counting_backend():
    graphs = []

    def backend(module, _):
        graphs.append(module)
        return module

    return backend, graphs


@pytest.mark.parametrize(
    ("model", "most"),
    [
        (("gemma3", {"num_hidden_layers": 1, "layer_types": ["sliding_attention"]}), 3),
        (("llama", {"num_hidden_layers": 1}), 1),
    ],
    ids=["gemma3", "llama"],
)
def test_a_compiled_step_is_one_graph(model, most):
    """`generate` compiles the step of a static cache whole: once, and not again as the cache fills.

    Where layers have a window, transformers' cache compiles twice, since it counts its tokens in an int; and once more
    when no padding is left in the window.
    """
    torch._dynamo.reset()
    model, (backend, graphs) = small(model[0], **model[1]), counting_backend()
    compiled = transformers.CompileConfig(fullgraph=True, backend=backend, mode=None)
    compiled._compile_all_devices = True
    wanted = said(model, new=7)
    with attention_of(model):
        assert said(model, new=7, cache_implementation="static", compile_config=compiled) == wanted
    assert 1 <= len(graphs) <= most


@torch.no_grad()
def test_steps_in_a_ring_cache_are_one_graph():
    """Over the wrap, with nothing of the host's among its inputs: a CUDA graph of it serves every token."""
    torch._dynamo.reset()
    model, (ids, _), (backend, graphs) = small("gemma3", num_hidden_layers=2), prompts(), counting_backend()
    with attention_of(model):
        cache = integration.ring_cache(model.config, WIDTH + NEW)
        wanted = model(ids, cache=transformers.DynamicCache(config=model.config), use_cache=True)
        model(ids[:, :3], cache=cache, use_cache=True)
        compiled = torch.compile(model.forward, backend=backend, fullgraph=True)
        for i in range(3, WIDTH):
            found = compiled(ids[:, i : i + 1], cache=cache, use_cache=True).logits[:, -1]
            assert torch.allclose(found, wanted.logits[:, i], atol=1e-4)
    assert len(graphs) == 1 and WIDTH > WINDOW + 3
    inputs = graphs[0].graph.find_nodes(op="placeholder")
    assert inputs and all(isinstance(one.meta["example_value"], torch.Tensor) for one in inputs)


def test_a_compiled_forward_makes_its_masks_in_the_graph():
    torch._dynamo.reset()
    model, (ids, mask), (backend, graphs) = small("mistral", num_hidden_layers=1), prompts(), counting_backend()
    with torch.no_grad():
        wanted = model(ids, attention_mask=mask).logits
        with attention_of(model):
            compiled = torch.compile(model.forward, backend=backend, fullgraph=True)
            found = compiled(ids, attention_mask=mask, use_cache=False).logits
            assert torch.allclose(found[mask.bool()], wanted[mask.bool()], atol=1e-4)
            gaps = mask.clone()
            gaps[0, 4] = 0
            with pytest.raises(RuntimeError, match="attention_mask: has padding between tokens"):
                compiled(ids, attention_mask=gaps, use_cache=False)
    assert len(graphs) == 1


@torch.no_grad()
def test_a_ring_is_read_by_windows_alone():
    """Its slots are no positions, as a mask of more than a window would take them."""
    model, (ids, _) = tiny("gemma3"), prompts()
    with attention_of(model):
        cache = integration.ring_cache(model.config, WIDTH + NEW)
        model(ids, cache=cache, use_cache=True)
        given = {"config": model.config, "inputs_embeds": torch.zeros(3, 1, 1), "attention_mask": None, "cache": cache}
        assert create_sliding_window_causal_mask(**given).ring
        with pytest.raises(ValueError, match="a ring cache is read by causal windows and padding alone"):
            create_sliding_window_causal_mask(**given, and_mask_function=lambda b, h, q, k: k >= 0)


# What it cannot do


def test_errors():
    ids, _ = prompts()
    with pytest.raises(ValueError, match="config: given one of attn_implementation='eager', which does not read"):
        integration.ring_cache(tiny("gemma3").config, WIDTH)
    with attention_of(tiny("gemma3")) as model, pytest.raises(ValueError, match="crop: given to a ring cache"):
        integration.ring_cache(model.config, WIDTH).crop(-1)
    with attention_of(tiny("llama")) as model:
        with pytest.raises(ValueError, match=r"does not support gradients: it is for inference; use torch\.no_grad"):
            model(ids)
        with pytest.raises(ValueError, match="does not support output_attentions"), torch.no_grad():
            model(ids, output_attentions=True)
        with pytest.raises(ValueError, match="output_attentions"):
            said(model, output_attentions=True, return_dict_in_generate=True)
        model.config.attention_dropout = 0.1
        for layer in model.model.layers:
            layer.self_attn.attention_dropout = 0.1
        try:
            with pytest.raises(ValueError, match=r"does not support dropout \(given 0.1\)"), torch.no_grad():
                model.train()(ids)
        finally:
            model.eval()
            model.config.attention_dropout = 0.0
            for layer in model.model.layers:
                layer.self_attn.attention_dropout = 0.0


def test_register(monkeypatch):
    integration.register()
    integration.register("another")
    with attention_of(tiny("mistral"), "another") as model:
        assert said(model) == said_by_eager("mistral")
    for name in ("", "eager", "sdpa", "my_flash_attention", "flex_attention", "paged|blockskip", "user/kernel"):
        with pytest.raises(ValueError, match="name: given"):
            integration.register(name)
    transformers.AttentionInterface.register("theirs", lambda *given, **options: None)
    with pytest.raises(ValueError, match="name: given 'theirs', which another attention is registered under"):
        integration.register("theirs")
    with pytest.raises(TypeError, match="name: given int; text is needed"):
        integration.register(3)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'skiplab\[transformers\]'"):
        integration.register()
