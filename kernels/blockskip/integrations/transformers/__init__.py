"""Blockskip inside Hugging Face transformers: its attention by `register()`, fewer and larger products by `fuse_()`.

from blockskip.integrations import transformers as integration

integration.register()
model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="blockskip")
bs.quantize_(integration.fuse_(model)).to("cuda")
model.generate(**tokens, cache=integration.ring_cache(model.config, 4096))  # past_key_values= in older versions
"""

from __future__ import annotations

from typing import Any

TAKEN = ("eager", "sdpa", "flash", "flex_attention", "paged|", "/")
"""Texts by which transformers knows implementations of its own wherever they stand in a name."""


def register(name: str = "blockskip") -> None:
    """Makes `attn_implementation=name` work in transformers: its attention, and the masks that go with it.

        from blockskip.integrations import transformers as integration

        integration.register()
        model = AutoModelForCausalLM.from_pretrained(..., attn_implementation="blockskip")

    For inference with dynamic, static and sliding caches, grouped heads, attention sinks, soft caps and padding, in
    `generate` and under torch.compile. A window's layers read the keys of the window alone. Dropout, gradients,
    output_attentions, position biases and paged caches raise ValueError, as does a head size that `blockskip.attention`
    does not take. It may be called again, and with several names.

    The keys of rows with padding on the left are read from behind it (`kv_start`). What is neither causal, a sliding
    window nor bidirectional (images that see themselves, packed sequences, chunks, gaps between tokens) is right, by a
    mask of all pairs as `sdpa` has it.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: given {type(name).__name__}; text is needed")
    if not name or any(text in name for text in TAKEN):
        raise ValueError(
            f"name: given {name!r}; text without any of {', '.join(TAKEN)}, which transformers reads itself"
        )
    try:
        from transformers import AttentionInterface, AttentionMaskInterface
    except ImportError as error:
        raise ImportError(f"transformers cannot be imported ({error}): pip install 'skiplab[transformers]'") from error
    from .attention import attend
    from .masks import prepare

    known = AttentionInterface()
    if known.get(name, attend) is not attend:
        raise ValueError(f"name: given {name!r}, which another attention is registered under; choose one that is free")
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, prepare)  # without it transformers would hand over no mask at all


def fuse_(model: Any) -> Any:
    """Makes one product of query, key and value, and one of gate and up, in every layer; returns the model.

        model = integration.fuse_(model)  # before bs.quantize_(model) or after it

    A layer then has 4 products in the place of 7: fewer launches, which read more at a time. The weights are the same,
    bit for bit, quantised ones too, one below the other; a layer whose values are its keys has the two that it has.
    For Gemma 2, 3 and 4, Llama, Mistral and Qwen 3, and the attention of gpt-oss; with any attention and cache, under
    torch.compile, and in models that read images, of which it takes the text's layers. It may be called again.

    The state_dict has the names that it had, so `save_pretrained` saves what an unfused model loads, and
    `load_state_dict` takes what an unfused one saved. `qkv_proj` and `gate_up_proj` are the layers that `quantize_` and
    its `select` see; `q_proj` and the others can no longer be called by themselves (TypeError), nor can adapters be put
    into them: put those in and merge them before. Raises ValueError for a model without such layers, and, naming it,
    for a linear layer that differs from those beside it, has hooks, or is none of torch's or ours; nothing is changed
    then. One layer's weights at a time are in memory twice.
    """
    from .fusing import fuse

    return fuse(model)


def ring_cache(config: Any, max_cache_len: int) -> Any:
    """A static cache for `max_cache_len` tokens in which a layer with a window holds the window alone, as a ring.

        cache = integration.ring_cache(model.config, 4096)
        model.generate(**tokens, cache=cache)  # past_key_values=cache in older versions of transformers

    For models under `register`'s attention (ValueError for others): a step writes one slot a layer, where transformers'
    own StaticCache moves all keys of a window, and under torch.compile with CUDA graphs all tokens have one graph,
    where that has one for each. For prompts in chunks, steps and batches with padding. It cannot be cropped, and a
    step's mask must be a window's (ValueError for another, as of models that read images). After replays of a CUDA
    graph of your own it takes single tokens alone, for only the device counts them.
    """
    try:
        from .caches import RingCache
    except ImportError as error:
        raise ImportError(f"transformers cannot be imported ({error}): pip install 'skiplab[transformers]'") from error
    return RingCache(config, max_cache_len)
