"""The decoder against transformers: tiny random models of each family, and configurations.

The truth is transformers' model in float64. A tolerance is what transformers' own float32 is off by, times SLACK: sums
in another order are off by as much, and the largest of a few thousand differences varies less than that.
"""

import json
from dataclasses import replace
from functools import lru_cache, partial

import blockskip as bs
import pytest
import torch
import transformers
from blockskip.linear.activations import rounded
from skiplab.model import Decoder, Drafts, ModelSpec, generate, model_names, weights
from skiplab.paths import data_path
from tiny_models import CONFIGS, SHAPE, WINDOW, off, spread, tiny
from transformers.models.gemma3 import modeling_gemma3
from transformers.models.llama.modeling_llama import LlamaMLP

pytestmark = pytest.mark.usefixtures("one_thread")
SLACK = 4
LENGTH = 72
FAMILIES = pytest.mark.parametrize("family", CONFIGS)


@lru_cache
def truth(family: str):
    """(ids, logits in float64, what transformers' float32 is off by)."""
    ids = torch.randint(0, SHAPE["vocab_size"], (2, LENGTH), generator=torch.Generator("cpu").manual_seed(1))
    with torch.no_grad():
        plain = tiny(family)(ids).logits
        exact = tiny(family).double()(ids).logits
        tiny(family).float()
    return ids, exact, off(plain, exact)


@FAMILIES
def test_prefill(family):
    ids, wanted, noise = truth(family)
    model = Decoder.from_transformers(tiny(family))
    found = model.prefill(ids, logits="all")
    assert found.dtype == torch.float32
    assert off(found, wanted) <= SLACK * noise
    assert off(model.prefill(ids), wanted[:, -1:]) <= SLACK * noise


def test_tensors_are_shared_where_nothing_is_done_to_them():
    hf = tiny("llama")
    model = Decoder.from_transformers(hf)
    assert model.weights.embedding.data_ptr() == hf.model.embed_tokens.weight.data_ptr()
    assert model.weights.layers[1].down.weights[0].data_ptr() == hf.model.layers[1].mlp.down_proj.weight.data_ptr()
    assert not model.weights.embedding.requires_grad
    assert Decoder.from_transformers(hf, dtype=torch.bfloat16, bits=8).dtype == torch.bfloat16


@FAMILIES
@pytest.mark.parametrize("chunk", [1, 7, 16, 33])  # less than the window, the ring, more than it
def test_prefill_in_chunks(family, chunk):
    ids, wanted, noise = truth(family)
    model = Decoder.from_transformers(tiny(family))
    assert off(model.prefill(ids, logits="all", chunk=chunk), wanted) <= SLACK * noise


@FAMILIES
@pytest.mark.parametrize("tokens", [1, 3, 16])
def test_steps_across_the_wrap(family, tokens):
    ids, wanted, noise = truth(family)
    model = Decoder.from_transformers(tiny(family))
    model.prefill(ids[:, :5], chunk=3)
    for start in range(5, LENGTH - tokens + 1, tokens):
        end = start + tokens
        assert off(model.step(ids[:, start:end]), wanted[:, start:end]) <= SLACK * noise


@FAMILIES
def test_left_padding(family):
    """Each row against its own tokens without padding, through prefill and steps, and what pads are does not matter."""
    ids, _, noise = truth(family)
    lengths, model = [LENGTH, 19, 3], Decoder.from_transformers(tiny(family))
    rows = torch.cat([ids, ids[:1].flip(1)])
    after = rows.roll(1, 1)[:, :12]
    for chunk, pad in ((None, 0), (7, 5)):
        given = rows.clone()
        for row, length in enumerate(lengths):
            given[row, : LENGTH - length] = pad
        found = model.prefill(given, lengths=lengths, chunk=chunk, logits="all")
        last = model.prefill(given, lengths=torch.tensor(lengths), chunk=chunk)
        stepped = torch.cat([model.step(after[:, i : i + 2]) for i in range(0, 12, 2)], 1)
        for row, length in enumerate(lengths):
            with torch.no_grad():
                alone = tiny(family).double()(torch.cat([rows[row, -length:], after[row]])[None]).logits[0]
            tiny(family).float()
            assert not found[row, : LENGTH - length].any()
            assert off(found[row, LENGTH - length :], alone[:length]) <= SLACK * noise
            assert off(last[row], alone[length - 1 : length]) <= SLACK * noise
            assert off(stepped[row], alone[length:]) <= SLACK * noise


@FAMILIES
@pytest.mark.parametrize("bits", [4, 8])
def test_quantised_prefill_is_its_dequantized_self(family, bits):
    """Beyond eight rows activations stay as they are: both sides are within SLACK of the same exact result."""
    ids, _, noise = truth(family)
    model = Decoder.from_transformers(tiny(family), bits=bits)
    kinds = {type(weight) for _, linear in model.weights.linears() for weight in linear.weights}
    assert kinds == {bs.QuantizedWeight}
    found, wanted = (m.prefill(ids, logits="all") for m in (model, model.dequantized()))
    assert off(found, wanted.double()) <= 2 * SLACK * noise


def test_quantised_steps_are_off_by_the_rounding_of_activations(monkeypatch):
    """A step's activations are rounded to int8; the same rounding before float products shows how much that is."""
    ids, _, _ = truth("gemma4")
    model = Decoder.from_transformers(tiny("gemma4"), bits=4)
    floats = model.dequantized()

    def stepped(m):
        m.prefill(ids[:, :20])
        return torch.cat([m.step(ids[:, i : i + 1]) for i in range(20, 30)], 1)

    found, wanted = stepped(model), stepped(floats)
    plain = weights.Linear.__call__
    monkeypatch.setattr(
        weights.Linear, "__call__", lambda self, x: plain(self, rounded(x.flatten(0, 1), x.dtype).view_as(x))
    )
    rounding = off(stepped(floats), wanted.double())
    assert 0 < off(found, wanted.double()) <= 2 * rounding


def test_generate_says_what_transformers_says():
    hf = tiny("gemma4")
    lengths = [LENGTH, 11]
    ids = truth("gemma4")[0].clone()
    ids[1, : LENGTH - 11] = 0
    mask = torch.arange(LENGTH)[None] >= LENGTH - torch.tensor(lengths)[:, None]
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    wanted = hf.generate(ids, attention_mask=mask.long(), **options)[:, LENGTH:]
    model = Decoder.from_transformers(hf)
    plain = generate(model, ids, 20, lengths=lengths)
    assert torch.equal(plain.tokens, wanted)
    assert plain.steps == 19
    for acceptance, count in ((1.0, 3), (0.6, 7), (0.0, 2)):
        found = generate(model, ids, 20, lengths=lengths, drafts=Drafts(wanted, count, acceptance))
        assert torch.equal(found.tokens, wanted)
        assert found.steps == {1.0: 5, 0.0: 19}.get(acceptance, found.steps)
        assert found.steps <= 19
        assert found.acceptance <= acceptance


def gpt_oss():
    """Its attention with a dense MLP in the place of its experts."""
    shape = {**SHAPE, "num_hidden_layers": 4, "sliding_window": WINDOW, "num_local_experts": 2}
    config = transformers.GptOssConfig(**shape)
    model = transformers.GptOssForCausalLM(config)
    config.mlp_bias = False
    for layer in model.model.layers:
        layer.mlp = LlamaMLP(config)
        layer.mlp.register_forward_hook(lambda module, given, out: (out, None))
    return spread(model)


def test_gpt_oss_attention():
    model = gpt_oss()
    with pytest.raises(ValueError, match="num_local_experts: given 2; experts are not supported"):
        Decoder.from_transformers(model)
    model.config.num_local_experts = 0
    ids = truth("mistral")[0]
    with torch.no_grad():
        plain, exact = model(ids).logits, model.double()(ids).logits
        model.float()
    ours = Decoder.from_transformers(model)
    assert off(ours.prefill(ids, logits="all", chunk=9), exact) <= SLACK * off(plain, exact)
    ours.prefill(ids[:, :10])
    assert off(ours.step(ids[:, 10:14]), exact[:, 10:14]) <= SLACK * off(plain, exact)


def test_a_soft_cap_on_scores(monkeypatch):
    """transformers' Gemma 3 does not hand its cap on to the attention, which knows it, for Gemma 2."""
    model, ids = tiny("gemma3"), truth("gemma3")[0]
    with torch.no_grad():
        without = model(ids).logits
        capped = partial(modeling_gemma3.eager_attention_forward, softcap=0.5)
        monkeypatch.setattr(modeling_gemma3, "eager_attention_forward", capped)
        plain, exact = model(ids).logits, model.double()(ids).logits
        model.float()
    monkeypatch.setattr(model.config, "attn_logit_softcapping", 0.5)
    ours = Decoder.from_transformers(model)
    found = ours.prefill(ids, logits="all", chunk=9)
    assert off(found, exact) <= SLACK * off(plain, exact) < off(found, without) / 100
    ours.prefill(ids[:, :10])
    assert off(ours.step(ids[:, 10:26]), exact[:, 10:26]) <= SLACK * off(plain, exact)


CLASSES = {
    "gemma4_text": transformers.Gemma4TextConfig,
    "gemma3_text": transformers.Gemma3TextConfig,
    "llama": transformers.LlamaConfig,
    "mistral": transformers.MistralConfig,
    "qwen3": transformers.Qwen3Config,
}


@pytest.mark.parametrize("name", model_names())
def test_our_files_mean_to_transformers_what_they_mean_to_us(name):
    given = json.loads(data_path("models", f"{name}.json").read_text(encoding="utf-8"))
    theirs = CLASSES[given["model_type"]](**given).to_dict()
    assert ModelSpec.from_config(theirs) == ModelSpec.named(name)


@pytest.mark.parametrize("model_type", CLASSES)
def test_what_a_config_leaves_out_is_what_transformers_takes(model_type):
    sizes = {"vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 7}
    given = {**sizes, "num_attention_heads": 32, "hidden_size_per_layer_input": 0}
    theirs = CLASSES[model_type](**given).to_dict()
    assert replace(ModelSpec.from_config({**given, "model_type": model_type}), name="") == replace(
        ModelSpec.from_config(theirs), name=""
    )


def test_a_saved_model(tmp_path):
    """Its config.json and its shards, as transformers writes them."""
    hf = tiny("gemma4")
    hf.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ids, wanted, noise = truth("gemma4")
    model = Decoder.load(tmp_path, dtype=torch.float32, bits=None)
    assert off(model.prefill(ids, logits="all"), wanted) <= SLACK * noise
