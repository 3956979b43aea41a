"""Blockskip inside transformers: `generate` says what it says with eager attention, whatever the cache and the padding.

The truth of logits is transformers' model in float64; a tolerance is what eager's float32 is off by, times SLACK, as in
`tests/lab/test_model_transformers.py`.
"""

import contextlib
import sys
from functools import lru_cache
from types import SimpleNamespace

import blockskip as bs
import pytest
import torch
import transformers
from blockskip.integrations import transformers as integration
from tiny_models import CONFIGS, INSIDE, SHAPE, WINDOW, one_thread, spread, tiny  # noqa: F401 - a fixture
from transformers import masking_utils as theirs
from transformers.masking_utils import AttentionMaskInterface

integration.register()
from blockskip.integrations.transformers.attention import attend  # noqa: E402 - they import transformers
from blockskip.integrations.transformers.masks import PreparedMask, prepare  # noqa: E402

SLACK = 4
WIDTH, NEW = 13, 14  # a prompt longer than the window, and tokens past another one
PADDING = (0, 5, WIDTH - 2)  # on the left of each row; the last one's prompt is shorter than the window
FAMILIES = pytest.mark.parametrize("family", [*CONFIGS, *INSIDE])
CACHES = {
    "dynamic": lambda: {},  # windows in the layers that have one
    "every key": lambda: {"cache": transformers.DynamicCache()},  # in layers with a window, too
    "static": lambda: {"cache_implementation": "static"},
    "none": lambda: {"use_cache": False},
}


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


def off(found, wanted) -> float:
    return (found.double() - wanted).abs().max().item()


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
    exact = torch.stack([torch.cat([row.new_zeros(n, row.shape[1]), row]) for n, row in zip(PADDING, alone, strict=True)])
    return exact, off(plain[mask.bool()], exact[mask.bool()])


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
        for size, cache in caches:
            for start in range(0, WIDTH, size):
                part, end = slice(start, start + size), start + size
                given = {"attention_mask": mask[:, :end], "position_ids": positions()[:, part], "cache": cache}
                found, real = model(ids[:, part], **given).logits, mask[:, part].bool()
                assert off(found[real], exact[:, part][real]) <= SLACK * noise


def test_a_model_is_made_with_it():
    kind, fields = CONFIGS["mistral"]
    config = kind(**SHAPE | fields)
    model = spread(transformers.AutoModelForCausalLM.from_config(config, attn_implementation="blockskip"))
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
    assert all(mask.order is not None and isinstance(mask.kv_len, torch.Tensor) for mask in given)


# Masks, element by element: (q_length, kv_length, q_offset, kv_offset) of prompts, of steps and chunks behind a full
# cache, behind the last keys of a window, and in a buffer that is not full.
SIZES = [(12, 12, 0, 0), (1, 12, 11, 0), (4, 12, 8, 0), (3, 9, 20, 14), (1, 7, 20, 14), (3, 16, 5, 0), (1, 16, 9, 0)]
CONFIG = SimpleNamespace(sliding_window=6, attention_chunk_size=5)
GROUPS = torch.tensor([-1, 0, 0, 0, -1, -1, 1, 1, 1, 1] + [-1] * 20)[None].expand(3, -1)
FUNCTIONS = {
    "causal": (theirs.causal_mask_function, {}),
    "window": (theirs.sliding_window_causal_mask_function(6), {"local_size": 6}),
    "both ways": (theirs.bidirectional_mask_function, {"allow_is_bidirectional_skip": True}),
    "window both ways": (
        theirs.sliding_window_bidirectional_mask_function(6),
        {"local_size": 6, "allow_is_bidirectional_skip": True, "allow_is_causal_skip": False},
    ),
    "chunks": (theirs.chunked_causal_mask_function(5, torch.tensor([0, 2, 3])), {"local_size": 5}),
    "images": (
        theirs.or_masks(theirs.sliding_window_causal_mask_function(6), theirs.blockwise_overlay(GROUPS)),
        {"local_size": 6, "allow_is_causal_skip": False},
    ),
    "the user's": (
        theirs.and_masks(theirs.causal_mask_function, lambda b, h, q, k: (k % 3 != 0) | (q == k)),
        {"use_vmap": True, "allow_is_causal_skip": False},
    ),
}
PADDINGS = {
    "none": (),
    "left": ((0, 0), (1, slice(0, 5)), (2, slice(0, 9))),
    "right": ((0, slice(9, None)), (1, slice(11, None))),
    "gaps": ((0, slice(3, 6)), (2, slice(7, 8))),
    "a row of nothing": ((1, slice(None)),),
}


def reference(q, k, v, kept, sinks=None, softcap=None):
    """float64 [B, Lq, Hq, D]; a query that sees nothing gets 0."""
    k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1).double() for x in (k, v))
    scores = q.double() @ k.mT * q.shape[3] ** -0.5
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    scores = scores.masked_fill(~kept, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.double().view(1, -1, 1, 1).expand(*scores.shape[:3], 1)], 3)
    weights = scores.softmax(3).nan_to_num(0)[..., : k.shape[2]]
    return (weights @ v).transpose(1, 2)


def tensors(q_len, keys):
    generator = torch.Generator("cpu").manual_seed(2)
    return [torch.randn(3, h, n, 16, generator=generator) for h, n in ((4, q_len), (2, keys), (2, keys))]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_masks_are_transformers_masks(function, padding, sizes):
    """For every query that is a token; 5e-6 is some 40 roundings of float32 to values of about 1."""
    fn, options = FUNCTIONS[function]
    q_len, keys, q_offset, kv_offset = sizes
    attention_mask = None
    if padding != "none":
        attention_mask = torch.ones(3, q_offset + q_len, dtype=torch.bool)
        for place in PADDINGS[padding]:
            attention_mask[place] = False
    arguments = {
        "batch_size": 3, "q_length": q_len, "kv_length": keys, "q_offset": q_offset, "kv_offset": kv_offset,
        "mask_function": fn, "attention_mask": attention_mask, "config": CONFIG, **options,
    }  # fmt: skip
    kept = theirs.sdpa_mask(**arguments | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})
    mask = prepare(**arguments)
    q, k, v = tensors(q_len, keys)
    found = attend(None, q, k, v, mask)[0]
    real = torch.ones(3, q_len, dtype=torch.bool) if attention_mask is None else attention_mask[:, q_offset:]
    assert off(found[real], reference(q, k, v, kept)[real]) <= 5e-6
    by_lengths = function == "causal" or (function == "window" and (padding != "gaps" or q_offset == 20))
    if by_lengths and padding != "gaps":
        assert isinstance(mask.mask, bs.Band)  # never a tensor of all pairs


def test_offsets_on_the_device():
    """As a static cache hands them over, and a special one whose queries stand past its keys."""
    q, k, v = tensors(1, 16)
    for offset, attention_mask in ((torch.tensor(9), None), (torch.tensor(9), torch.arange(10)[None] >= torch.arange(3)[:, None])):
        arguments = {"batch_size": 3, "q_length": 1, "kv_length": 16, "q_offset": offset, "attention_mask": attention_mask}
        mask = prepare(**arguments, mask_function=theirs.causal_mask_function)
        assert isinstance(mask.mask, bs.Band) and mask.kv_len.dtype == torch.int32
        kept = theirs.sdpa_mask(**arguments, allow_is_causal_skip=False)
        assert off(attend(None, q, k, v, mask)[0], reference(q, k, v, kept)) <= 5e-6
    past = {"batch_size": 3, "q_length": 2, "kv_length": 7, "q_offset": 8}
    q, k, v = tensors(2, 7)
    found = attend(None, q, k, v, prepare(**past))[0]
    assert off(found, reference(q, k, v, theirs.sdpa_mask(**past, allow_is_causal_skip=False))) <= 5e-6


@pytest.mark.parametrize("function", ["causal", "the user's", "both ways"])
def test_the_last_queries_of_a_mask(function):
    fn, options = FUNCTIONS[function]
    mask = prepare(3, 12, 12, mask_function=fn, config=CONFIG, **options)
    q, k, v = tensors(12, 12)
    found = attend(None, q[:, :, -2:], k, v, mask[:, :, slice(-2, None), :])[0]
    assert off(found, attend(None, q, k, v, mask)[0][:, -2:].double()) <= 5e-6
    for index in (0, (slice(None), slice(None), slice(0, 2), slice(None)), (slice(1), *[slice(None)] * 3)):
        with pytest.raises(ValueError, match="index: given"):
            mask[index]


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


def test_modules_without_masks():
    """An encoder's layers see everything; causal ones what comes before, within their window if they have one."""
    q, k, v = tensors(12, 12)
    everything = torch.ones(12, 12, dtype=torch.bool)
    encoder, decoder = SimpleNamespace(is_causal=False), SimpleNamespace(is_causal=True)
    near = everything.tril() & everything.triu(-5)
    for module, options, kept in (
        (encoder, {}, everything),
        (decoder, {}, everything.tril()),
        (decoder, {"is_causal": False}, everything),
        (decoder, {"sliding_window": 6}, near),
    ):
        assert off(attend(module, q, k, v, None, **options)[0], reference(q, k, v, kept)) <= 5e-6
    last = attend(decoder, q[:, :, -1:], k, v, None)[0]
    assert off(last, reference(q, k, v, everything)[:, -1:]) <= 5e-6
    with pytest.raises(ValueError, match="attention_mask: None for 3 causal queries of 12 keys"):
        attend(decoder, q[:, :, :3], k, v, None)


# torch.compile


def counting_backend():
    graphs = []

    def backend(module, _):
        graphs.append(module)
        return module

    return backend, graphs


def small(family, **fields):
    """With a single layer: tracing takes longer than running."""
    kind, others = CONFIGS[family]
    config = kind(**SHAPE | others | fields)
    return spread(transformers.AutoModelForCausalLM.from_config(config))


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
    wanted = said(model, new=10)
    with attention_of(model):
        assert said(model, new=10, cache_implementation="static", compile_config=compiled) == wanted
    assert 1 <= len(graphs) <= most


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


# What it cannot do


def test_errors():
    ids, mask = prompts()
    with attention_of(tiny("llama")) as model:
        with pytest.raises(ValueError, match="does not support gradients: it is for inference; use torch.no_grad"):
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
    q, k, v = tensors(3, 3)
    four = torch.ones(3, 1, 3, 3, dtype=torch.bool)
    for options in ({"s_aux": torch.zeros(4)}, {"softcap": 2.0}):
        with pytest.raises(ValueError, match="a 4-D attention_mask with attention sinks or softcap"):
            attend(None, q, k, v, four, **options)
    with pytest.raises(ValueError, match="does not support position_bias"):
        attend(None, q, k, v, None, position_bias=torch.zeros(3))
    with pytest.raises(ValueError, match="attention_mask: prepared for 3 queries and 4 keys; the layer has 3 and 3"):
        attend(None, q, k, v, prepare(3, 3, 4))


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
