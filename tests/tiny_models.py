"""Tiny random models of transformers, a family each, that tests compare with."""

from functools import lru_cache

import torch
import transformers

WINDOW = 8  # a ring of 32 slots: 72 tokens wrap it twice
SHAPE = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "attn_implementation": "eager",
}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
BY_TYPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6},
}
CONFIGS = {
    "gemma4": (
        transformers.Gemma4TextConfig,
        {
            "num_hidden_layers": 6,
            "global_head_dim": 32,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "sliding_window": WINDOW,
            "hidden_size_per_layer_input": 0,
            "final_logit_softcapping": 2.0,
        },
    ),
    "gemma3": (
        transformers.Gemma3TextConfig,
        {"num_hidden_layers": 6, "sliding_window": WINDOW, "query_pre_attn_scalar": 20, "rope_parameters": BY_TYPE},
    ),
    "llama": (
        transformers.LlamaConfig,
        {
            "num_hidden_layers": 3,
            "rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4, **LLAMA3},
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "mistral": (transformers.MistralConfig, {"num_hidden_layers": 3, "sliding_window": WINDOW}),
    "qwen3": (
        transformers.Qwen3Config,
        {
            "num_hidden_layers": 4,
            "use_sliding_window": True,
            "sliding_window": WINDOW,
            "max_window_layers": 2,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
}
INSIDE = {
    "gpt_oss": (
        transformers.GptOssConfig,
        {
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "intermediate_size": 32,
            "experts_implementation": "eager",  # grouped products are not of float64
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gemma2": (
        transformers.Gemma2Config,
        {
            "num_hidden_layers": 4,
            "sliding_window": WINDOW,
            "query_pre_attn_scalar": 16,
            "attn_logit_softcapping": 0.5,
            "final_logit_softcapping": 4.0,
        },
    ),
    "gemma4-shared-keys": (
        transformers.Gemma4TextConfig,
        {
            "num_hidden_layers": 6,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
            "num_kv_shared_layers": 2,
            "global_head_dim": 32,
            "sliding_window": WINDOW,
            "hidden_size_per_layer_input": 8,
            "vocab_size_per_layer_input": 128,
        },
    ),
}
"""Of which the decoder has none: experts, soft caps, layers that share keys."""


def spread(model):
    """Weights that matter: matrices that keep a vector's size, norms, biases and scalars that are neither 0 nor 1."""
    generator = torch.Generator("cpu").manual_seed(0)
    for name, t in model.state_dict().items():
        random = torch.randn(t.shape, generator=generator)
        if t.ndim in (2, 3):  # of experts, too, inputs are the second dimension
            t.copy_(random * t.shape[1] ** -0.5)
        elif "layer_scalar" in name:
            t.fill_(0.9)
        elif "sinks" in name:  # as much as a few keys
            t.copy_(random + 2)
        else:
            t.copy_(random * 0.3 + ("norm" in name))
    return model.eval()


@lru_cache
def tiny(family: str):
    """Shared by all tests: what one changes it changes back."""
    kind, fields = (CONFIGS | INSIDE)[family]
    return spread(transformers.AutoModelForCausalLM.from_config(kind(**SHAPE | fields)))


def off(found, wanted) -> float:
    """The largest difference from what is wanted, in float64."""
    return (found.double() - wanted.double()).abs().max().item()
