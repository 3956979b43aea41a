"""ModelSpec: a model's shapes and arithmetic, read from a Hugging Face config.json."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import blockskip as bs
from blockskip.arguments import choice, flag, integer, number

from skiplab.model.families import FAMILIES, FULL, SHARED, SLIDING, Family
from skiplab.model.rope import Rope
from skiplab.paths import data_path

ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
FEATURES = ("norm_offset", "qk_norm", "v_norm", "sandwich", "layer_scalar", "sinks")
"""Fields of a ModelSpec that its family tells, not its config."""


@dataclass(frozen=True)
class LayerSpec:
    """The attention of one layer. window: how many keys a query sees, itself included; None: all.

    key_is_value: the layer has no value projection; its keys, before normalisation, are the values, too.
    """

    q_heads: int
    kv_heads: int
    head_dim: int
    window: int | None
    scale: float
    rope: Rope
    key_is_value: bool = False

    @property
    def mask(self) -> bs.Mask:
        return bs.causal() if self.window is None else bs.sliding_window(self.window)


@dataclass(frozen=True)
class ModelSpec:
    """A decoder-only transformer.

    norm_offset: added to the weight of every norm. qk_norm: queries and keys are normalised, head by head; v_norm:
    values, too, without a weight. sandwich: attention and MLP are also followed by a norm. layer_scalar: a layer's
    result is multiplied by a number. sinks: a learned logit of each head joins the softmax. attention_softcap,
    logit_softcap: cap * tanh(x / cap) of scores and of logits. tied: the embedding is the head, too.
    """

    name: str
    family: str
    vocabulary: int
    hidden: int
    intermediate: int
    layers: tuple[LayerSpec, ...]
    activation: str
    norm_eps: float
    norm_offset: float = 0.0
    qk_norm: bool = False
    v_norm: bool = False
    sandwich: bool = False
    layer_scalar: bool = False
    attention_bias: bool = False
    mlp_bias: bool = False
    sinks: bool = False
    attention_softcap: float | None = None
    logit_softcap: float | None = None
    embedding_scale: float = 1.0
    tied: bool = False

    @classmethod
    def from_config(cls, source: str | PathLike[str] | Mapping[str, Any]) -> ModelSpec:
        """The spec of a config.json: its path, folder or contents; for a model with a vision part, of the text model.

        Families: Gemma 3 and 4, Llama, Mistral, Qwen 3, and gpt-oss with a dense MLP. What the file leaves out is what
        transformers would take. Raises ValueError that names the key for what is not supported: experts, embeddings a
        layer, layers that share their cache, attention to both sides, other activations, other rope types.
        """
        given, name = _read(source)
        if isinstance(text := given.get("text_config"), Mapping):
            given = {**{key: given[key] for key in ("name", "tie_word_embeddings") if key in given}, **text}
        kind = given.get("model_type")
        if kind not in FAMILIES:
            raise ValueError(f"model_type: given {kind!r}; supported are {', '.join(FAMILIES)}")
        family = FAMILIES[kind]
        merged = {**family.defaults, **given}  # a null is none of it, where the model can do without
        config = {**SHARED, **{key: value for key, value in merged.items() if value is not None}}
        _refuse(config)
        return _spec(str(config.get("name") or name or kind), kind, family, config)

    @classmethod
    def named(cls, name: str) -> ModelSpec:
        """One of `model_names()`."""
        return cls.from_config(data_path("models", f"{choice('name', name, model_names())}.json"))

    @property
    def kinds(self) -> dict[LayerSpec, int]:
        """Each kind of layer, and its number of layers."""
        return dict(Counter(self.layers))

    def cut(self, layers: int) -> ModelSpec:
        """The same model, cut to its first layers."""
        count = integer("layers", layers, 1, len(self.layers))
        return replace(self, name=f"{self.name}, {count} layers", layers=self.layers[:count])


def model_names() -> list[str]:
    """The models that the lab knows by name: the files in `data/models`."""
    return sorted(path.stem for path in data_path("models").glob("*.json"))


def _read(source: Any) -> tuple[dict[str, Any], str | None]:
    """(the config, a name for it where the path gives one)."""
    if isinstance(source, Mapping):
        return dict(source), None
    if not isinstance(source, str | PathLike):
        raise TypeError(f"source: given {type(source).__name__}; a path or a dict is needed")
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"source: {path.name} is no JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"source: {path.name} holds a {type(config).__name__}; an object is needed")
    return config, path.parent.name if path.name == "config.json" else path.stem


def _refuse(config: Mapping[str, Any]) -> None:
    """ValueError for features of a config that our decoder does not support."""
    for key in ("num_local_experts", "num_experts", "enable_moe_block"):
        if config.get(key):
            raise ValueError(
                f"{key}: given {config[key]!r}; experts are not supported: give a config without them ({key} 0), whose "
                "layers have an MLP of intermediate_size, to run the model's attention"
            )
    for key, what in (
        ("hidden_size_per_layer_input", "embeddings a layer are"),
        ("num_kv_shared_layers", "layers that share their keys and values are"),
    ):
        if config.get(key):
            raise ValueError(f"{key}: given {config[key]!r}; {what} not supported, so it must be 0")
    if config.get("use_bidirectional_attention") in (True, "all"):
        raise ValueError(
            f"use_bidirectional_attention: given {config['use_bidirectional_attention']!r}; only causal text is "
            "supported: False, null or 'vision'"
        )


def _spec(name: str, kind: str, family: Family, config: Mapping[str, Any]) -> ModelSpec:
    def size(key: str) -> int:
        if key not in config:
            raise ValueError(f"{key}: is missing from the config of a {kind}")
        return integer(key, config[key], least=1)

    def cap(key: str) -> float | None:
        return None if config.get(key) is None else _positive(key, config[key])

    activation = config.get("hidden_activation") or config["hidden_act"]
    hidden = size("hidden_size")
    return ModelSpec(
        name=name,
        family=kind,
        vocabulary=size("vocab_size"),
        hidden=hidden,
        intermediate=size("intermediate_size"),
        layers=_layers(family, config, size),
        activation=ACTIVATIONS[choice("hidden_activation", activation, tuple(ACTIVATIONS))],
        norm_eps=_positive("rms_norm_eps", config["rms_norm_eps"]),
        **{feature: getattr(family, feature) for feature in FEATURES},
        attention_bias=flag("attention_bias", config["attention_bias"]),
        mlp_bias=flag("mlp_bias", config["mlp_bias"]),
        attention_softcap=cap("attn_logit_softcapping"),
        logit_softcap=cap("final_logit_softcapping"),
        embedding_scale=hidden**0.5 if family.scaled_embedding else 1.0,
        tied=flag("tie_word_embeddings", config["tie_word_embeddings"]),
    )


def _layers(family: Family, config: Mapping[str, Any], size: Callable[[str], int]) -> tuple[LayerSpec, ...]:
    count, heads = size("num_hidden_layers"), size("num_attention_heads")
    types = config.get("layer_types") or family.layer_types({**config, "num_hidden_layers": count})
    if len(types) != count:
        raise ValueError(f"layer_types: given {len(types)}; num_hidden_layers is {count}")
    overrides = {
        integer("per_layer_config", int(key) if str(key).isdecimal() else key): value
        for key, value in _object("per_layer_config", config.get("per_layer_config", {})).items()
    }
    layers = []
    for i, layer_type in enumerate(types):
        sliding = choice("layer_types", layer_type, (SLIDING, FULL)) == SLIDING
        head_dim, kv_heads = _head_shape(config, sliding, overrides.get(i), size)
        if heads % kv_heads:
            raise ValueError(
                f"num_attention_heads: given {heads}; must be a multiple of the layer's {kv_heads} KV heads"
            )
        layers.append(
            LayerSpec(
                q_heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                window=size("sliding_window") if sliding else None,
                scale=_scale(family, config, head_dim),
                rope=_rope(config, layer_type),
                key_is_value=not sliding and flag("attention_k_eq_v", config.get("attention_k_eq_v", False)),
            )
        )
    return tuple(layers)


def _head_shape(config, sliding: bool, override: Mapping[str, Any] | None, size) -> tuple[int, int]:
    """(head_dim, KV heads) of a layer: Gemma 4's full layers have their own, given in either of two ways."""
    head_dim = size("head_dim") if "head_dim" in config else size("hidden_size") // size("num_attention_heads")
    kv_heads = size("num_key_value_heads") if "num_key_value_heads" in config else size("num_attention_heads")
    if override is not None:
        if unknown := override.keys() - {"head_dim", "num_key_value_heads"}:
            raise ValueError(f"per_layer_config: given {', '.join(sorted(unknown))}; not supported for single layers")
        head_dim = integer("per_layer_config.head_dim", override.get("head_dim", head_dim), least=1)
        kv_heads = integer(
            "per_layer_config.num_key_value_heads", override.get("num_key_value_heads", kv_heads), least=1
        )
    elif not sliding and "per_layer_config" not in config and "global_head_dim" in config:
        head_dim = size("global_head_dim")
        if config.get("attention_k_eq_v") and "num_global_key_value_heads" in config:
            kv_heads = size("num_global_key_value_heads")
    if head_dim % 2:
        raise ValueError(f"head_dim: given {head_dim}; must be even, for rotary embeddings turn pairs")
    return head_dim, kv_heads


def _scale(family: Family, config: Mapping[str, Any], head_dim: int) -> float:
    if family.scale is not None:
        return family.scale
    return _positive("query_pre_attn_scalar", config.get("query_pre_attn_scalar", head_dim)) ** -0.5


def _rope(config: Mapping[str, Any], layer_type: str) -> Rope:
    """A layer type's rotary embedding, from rope_parameters (for all layers or by type) or the older form."""
    local = layer_type == SLIDING and "rope_local_base_freq" in config
    theta = config["rope_local_base_freq" if local else "rope_theta"]
    if (given := config.get("rope_parameters")) is None:
        scaling = {} if local else _object("rope_scaling", config.get("rope_scaling", {}))
        return Rope.from_config({"rope_theta": theta, **scaling}, "rope_scaling")
    given = _object("rope_parameters", given)
    by_type = given.get(layer_type)
    key = "rope_parameters" if by_type is None else f"rope_parameters.{layer_type}"
    return Rope.from_config({"rope_theta": theta, **(given if by_type is None else by_type)}, key)


def _object(key: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{key}: given {value!r}; an object is needed")
    return value


def _positive(key: str, value: Any) -> float:
    checked = number(key, value)
    if checked <= 0:
        raise ValueError(f"{key}: given {checked}; must be above 0")
    return checked
