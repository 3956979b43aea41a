"""What a decoder holds in memory while it makes room for other prompts."""

import weakref

import torch
from skiplab.model import Decoder, ModelSpec, decoder
from skiplab.model.cache import Cache

CONFIG = {
    "model_type": "llama", "vocab_size": 128, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4,
}  # fmt: skip


def test_a_cache_is_let_go_before_a_larger_one_is_made(monkeypatch):
    model = Decoder.random(ModelSpec.from_config(CONFIG), dtype=torch.float32, bits=None)
    ids, freed = torch.zeros((1, 2049), dtype=torch.int64), []
    model.prefill(ids[:, :3])
    old = weakref.ref(model.cache.layers[0].k)
    make = Cache.empty
    monkeypatch.setattr(decoder.Cache, "empty", lambda *of: freed.append(old() is None) or make(*of))
    model.prefill(ids[:, :5])  # fits
    assert freed == [] and old() is not None
    model.prefill(ids)
    assert freed == [True]
