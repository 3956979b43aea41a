"""Configurations of models: what is read from them, and what is refused by its name."""

import json
import math
from collections import Counter

import pytest
from skiplab.model import ModelSpec, model_names
from skiplab.model.weights import expected
from test_model import CONFIG, SPEC

LLAMA = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}


@pytest.mark.parametrize("name", model_names())
def test_named_models(name):
    spec = ModelSpec.named(name)
    assert spec.name == name
    assert sum(spec.kinds.values()) == len(spec.layers)


def test_gemma4_31b_is_what_its_authors_say():
    spec = ModelSpec.named("gemma4-31b")
    sliding, full = spec.layers[0], spec.layers[5]
    assert Counter(spec.layers) == {sliding: 50, full: 10}
    assert (sliding.q_heads, sliding.kv_heads, sliding.head_dim, sliding.window) == (32, 16, 256, 1024)
    assert (full.q_heads, full.kv_heads, full.head_dim, full.window) == (32, 4, 512, None)
    assert (sliding.key_is_value, full.key_is_value) == (False, True)
    assert (sliding.rope.theta, full.rope.theta, full.rope.rotary, full.scale) == (1e4, 1e6, 0.25, 1.0)
    assert (spec.logit_softcap, spec.activation, spec.tied) == (30.0, "gelu_tanh", True)
    sizes = {name: math.prod(shape) for name, shape in expected(spec).items() if len(shape) == 2}
    assert sizes.pop("model.embed_tokens.weight") == pytest.approx(1.41e9, rel=0.01)
    assert sum(sizes.values()) == pytest.approx(29.29e9, rel=0.001)


def test_a_config_is_read_from_wherever_it_lies(tmp_path):
    folder = tmp_path / "some-model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    wrapped = {"model_type": "gemma4", "vision_config": {}, "text_config": CONFIG}
    (tmp_path / "wrapped.json").write_text(json.dumps(wrapped))
    specs = [ModelSpec.from_config(p) for p in (folder, str(folder / "config.json"), tmp_path / "wrapped.json")]
    assert [spec.name for spec in specs] == ["some-model", "some-model", "wrapped"]
    assert {spec.layers for spec in specs} == {SPEC.layers}
    assert {spec.tied for spec in specs} == {True}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "mamba"}, "model_type: given 'mamba'; supported are llama, mistral"),
        ({"enable_moe_block": True}, "enable_moe_block: given True; experts are not supported"),
        ({"num_experts": 8}, "num_experts: given 8; experts are not supported"),
        ({"hidden_size_per_layer_input": None}, None),
        ({"hidden_size_per_layer_input": 256}, "hidden_size_per_layer_input: given 256; embeddings a layer are not"),
        ({"num_kv_shared_layers": 2}, "num_kv_shared_layers: given 2; layers that share"),
        ({"use_bidirectional_attention": "all"}, "use_bidirectional_attention: given 'all'; only causal"),
        ({"use_bidirectional_attention": "vision"}, None),
        ({"hidden_activation": "relu"}, "hidden_activation: given 'relu'; allowed are silu, gelu_pytorch_tanh"),
        ({"num_attention_heads": 5}, "num_attention_heads: given 5; must be a multiple of the layer's 2 KV heads"),
        ({"head_dim": 15}, "head_dim: given 15; must be even"),
        ({"sliding_window": 0}, "sliding_window: given 0; must be at least 1"),
        ({"layer_types": ["full_attention"]}, "layer_types: given 1; num_hidden_layers is 3"),
        ({"layer_types": ["full_attention"] * 2 + ["chunked"]}, "layer_types: given 'chunked'; allowed are sliding"),
        ({"rms_norm_eps": 0}, "rms_norm_eps: given 0.0; must be above 0"),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings: given 1; True or False"),
        ({"final_logit_softcapping": -1}, "final_logit_softcapping: given -1.0; must be above 0"),
        ({"per_layer_config": {"2": {"sliding_window": 4}}}, "per_layer_config: given sliding_window; not supported"),
        ({"rope_parameters": {"rope_type": "longrope"}}, "rope_parameters.rope_type: given 'longrope'; allowed are"),
        ({"rope_parameters": {"rope_type": "linear"}}, "rope_parameters: rope_type 'linear' needs factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor: given 0.5; it is not supported"),
        (
            {"rope_parameters": {"factor": 8.0}},
            "rope_parameters.factor: given 8.0; it is not supported with rope_type 'd",
        ),
        ({"rope_parameters": {"rope_theta": -1}}, "rope_parameters.rope_theta: given -1.0; must be above 0"),
        ({"rope_parameters": {"mscale": 0.5}}, "rope_parameters.mscale: given 0.5; it is not supported"),
        ({"attention_bias": None, "rms_norm_eps": None, "tie_word_embeddings": None}, None),
        ({"per_layer_config": {"last": {}}}, "per_layer_config: given 'last'; an int is needed"),
        ({"rope_parameters": 8}, "rope_parameters: given 8; an object is needed"),
        ({"vocab_size": 2.5}, "vocab_size: given 2.5; an int is needed"),
    ],
)
def test_what_is_not_supported_is_named(change, message):
    if message is None:
        assert ModelSpec.from_config({**CONFIG, **change}).layers == SPEC.layers
        return
    with pytest.raises((ValueError, TypeError), match=message):
        ModelSpec.from_config({**CONFIG, **change})


def test_a_missing_size_and_a_source_of_another_kind(tmp_path):
    with pytest.raises(ValueError, match="hidden_size: is missing from the config of a llama"):
        ModelSpec.from_config({"model_type": "llama"})
    with pytest.raises(TypeError, match="source: given int; a path or a dict is needed"):
        ModelSpec.from_config(3)
    for text, message in (("{", "source: config.json is no JSON"), ("[]", "source: config.json holds a list")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=message):
            ModelSpec.from_config(tmp_path)


def test_a_null_window_is_none():
    mistral = {**LLAMA, "model_type": "mistral", "num_key_value_heads": 2}
    assert {layer.window for layer in ModelSpec.from_config({**mistral, "sliding_window": None}).layers} == {None}
    assert {layer.window for layer in ModelSpec.from_config(mistral).layers} == {4096}
