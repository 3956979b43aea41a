"""Families of models: what a config's model_type implies, and transformers' defaults for keys that are missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

SLIDING, FULL = "sliding_attention", "full_attention"

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Family:
    """What all models of a model_type have in common; see `ModelSpec` for the features.

    defaults: as transformers' configuration class has them. layer_types: of each layer, where the config lists none.
    scale: of scores, where it does not follow from the config. scaled_embedding: by the root of its size.
    """

    defaults: Config
    layer_types: Callable[[Config], list[str]]
    norm_offset: float = 0.0
    qk_norm: bool = False
    v_norm: bool = False
    sandwich: bool = False
    layer_scalar: bool = False
    sinks: bool = False
    scaled_embedding: bool = False
    scale: float | None = None


def _all_full(config: Config) -> list[str]:
    return [FULL] * config["num_hidden_layers"]


def _mistral(config: Config) -> list[str]:
    return [SLIDING if "sliding_window" in config else FULL] * config["num_hidden_layers"]


def _qwen3(config: Config) -> list[str]:
    slides = config.get("use_sliding_window") and "sliding_window" in config
    first = config.get("max_window_layers", 0) if slides else config["num_hidden_layers"]
    return [FULL if i < first else SLIDING for i in range(config["num_hidden_layers"])]


def _every(pattern: int, config: Config) -> list[str]:
    """Layer types in which the last of each `pattern` layers has full attention."""
    return [SLIDING if (i + 1) % pattern else FULL for i in range(config["num_hidden_layers"])]


def _gemma3(config: Config) -> list[str]:
    return _every(config.get("sliding_window_pattern", 6), config)


def _gemma4(config: Config) -> list[str]:
    return [*_every(6, config)[:-1], FULL]  # the last layer always sees everything


def _gpt_oss(config: Config) -> list[str]:
    return [FULL if i % 2 else SLIDING for i in range(config["num_hidden_layers"])]


SHARED = {
    "hidden_act": "silu",
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e4,
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
GEMMA = {
    **SHARED,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "tie_word_embeddings": True,
}
FAMILIES = {
    "llama": Family({**SHARED, "vocab_size": 32_000}, _all_full),
    "mistral": Family({**SHARED, "num_key_value_heads": 8, "sliding_window": 4096}, _mistral),
    "qwen3": Family(
        {
            **SHARED,
            "head_dim": 128,
            "num_key_value_heads": 32,
            "use_sliding_window": False,
            "sliding_window": 4096,
            "max_window_layers": 28,
        },
        _qwen3,
        qk_norm=True,
    ),
    "gemma3_text": Family(
        {
            **GEMMA,
            "vocab_size": 262_208,
            "num_hidden_layers": 26,
            "query_pre_attn_scalar": 256,
            "sliding_window": 4096,
            "rope_theta": 1e6,
            "rope_local_base_freq": 1e4,
        },
        _gemma3,
        norm_offset=1.0,
        qk_norm=True,
        sandwich=True,
        scaled_embedding=True,
    ),
    "gemma4_text": Family(
        {
            **GEMMA,
            "vocab_size": 262_144,
            "num_hidden_layers": 30,
            "global_head_dim": 512,
            "hidden_size_per_layer_input": 256,
            "sliding_window": 512,
            "rope_parameters": {
                SLIDING: {"rope_type": "default", "rope_theta": 1e4},
                FULL: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1e6},
            },
        },
        _gemma4,
        qk_norm=True,
        v_norm=True,
        sandwich=True,
        layer_scalar=True,
        scaled_embedding=True,
        scale=1.0,
    ),
    "gpt_oss": Family(
        {
            **SHARED,
            "vocab_size": 201_088,
            "head_dim": 64,
            "num_key_value_heads": 8,
            "sliding_window": 128,
            "num_local_experts": 128,
            "rms_norm_eps": 1e-5,
            "rope_theta": 150_000.0,
            "attention_bias": True,
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 32.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "truncate": False,
                "original_max_position_embeddings": 4096,
            },
        },
        _gpt_oss,
        sinks=True,
    ),
}
