"""The decoder by itself: its weights, caches that grow and wrap, what it is given.

`test_model_config.py` has configurations, `test_model_graphs.py` graphs of steps, `test_model_transformers.py` what it
computes, `test_model_weights.py` where weights come from, and `test_model_drafts.py` drafts.
"""

import math

import blockskip as bs
import pytest
import torch
from skiplab.model import Decoder, ModelSpec
from skiplab.model.cache import ring_slots
from skiplab.model.weights import WeightFormat, build, expected

CONFIG = {
    "model_type": "gemma4_text",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "global_head_dim": 32,
    "num_global_key_value_heads": 1,
    "attention_k_eq_v": True,
    "sliding_window": 8,
    "hidden_size_per_layer_input": 0,
}
SPEC = ModelSpec.from_config(CONFIG)


def tiny(seed=0, **options) -> Decoder:
    return Decoder.random(SPEC, **{"dtype": torch.float32, "bits": None, "seed": seed, **options})


def some_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, 128, shape, generator=torch.Generator("cpu").manual_seed(3))


def test_random_weights_are_of_their_seed():
    ids = some_ids(2, 9)
    first, same, other = (tiny(seed).prefill(ids) for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)
    assert first.shape == (2, 1, 128)
    assert first.isfinite().all()
    assert 0.5 < first.std() < 2  # logits that a softmax can tell apart


def test_products_are_fused_and_quantised_as_asked():
    model = tiny(bits=4, symmetric=True)
    by_name = dict(model.weights.linears())
    shapes = {
        name: tuple(by_name[name].weights[0].shape) for name in ("layers.0.qkv", "layers.2.qkv", "layers.0.gate_up")
    }
    assert shapes == {
        "layers.0.qkv": ((4 + 2 + 2) * 16, 64),
        "layers.2.qkv": ((4 + 1) * 32, 64),  # keys are values
        "layers.0.gate_up": (2 * 96, 64),
    }
    weights = [weight for linear in by_name.values() for weight in linear.weights]
    assert {type(weight) for weight in weights} == {bs.QuantizedWeight}
    assert {(weight.bits, weight.symmetric) for weight in weights} == {(4, True)}
    floats = dict(model.dequantized().weights.linears())
    for name, linear in by_name.items():
        assert torch.equal(linear.weights[0].dequantize(torch.float32), floats[name].weights[0])
    head = dict(tiny(bits=8, head=False).weights.linears())["head"].weights[0]
    assert isinstance(head, torch.Tensor)


def test_bytes_are_counted_once():
    model = tiny()
    assert model.weights.head.weights[0] is model.weights.embedding  # tied
    assert model.weights.nbytes == 4 * sum(math.prod(shape) for shape in expected(SPEC).values())
    quantised = tiny(bits=4)
    products = {n: s for n, s in expected(SPEC).items() if len(s) == 2 and "embed" not in n}
    small = sum(math.prod(s) for n, s in expected(SPEC).items() if n not in products)
    held = sum(math.prod(s) for s in products.values()) + 128 * 64  # the head is no longer the embedding
    assert quantised.weights.nbytes == 4 * small + held * 5 // 8


def test_formats_that_cannot_be():
    for options, error, message in (
        ({"bits": 3}, ValueError, "bits: given 3; allowed are 4, 8"),
        ({"packing": "stripes"}, ValueError, "packing: given 'stripes'"),
        ({"dtype": torch.float64}, TypeError, "dtype: given torch.float64"),
        ({"bits": 4, "head": 1}, TypeError, "head: given 1"),
        ({"bits": 4, "group_size": 64}, ValueError, r"layers.0.mlp.down_proj: weight: given K 96; must be a multiple"),
        ({"bits": 4, "packing": "tiles"}, ValueError, "packing: given 'tiles' for a weight that cannot lie so"),
        ({"growth": 3}, TypeError, "growth"),
    ):
        with pytest.raises(error, match=message):
            tiny(**options)


def test_the_cache_grows_and_wraps():
    """Steps from 5 tokens to 60 with room for 8 more at a time, and with room for all, give the same bits."""
    ids = some_ids(1, 60)
    found = []
    for growth in (8, 64):
        model = tiny()
        model.growth = growth
        model.prefill(ids[:, :5])
        capacities = []
        for i in range(5, 60, 5):
            found.append(model.step(ids[:, i : i + 5]))
            capacities.append(model.cache.capacity)
        assert capacities[-1] == 64
        assert len(set(capacities)) == (1 if growth == 64 else 7)
        assert model.cache.counts == model.cache.lengths.tolist() == [60]
    half = len(found) // 2
    assert all(torch.equal(a, b) for a, b in zip(found[:half], found[half:], strict=True))


def test_caches_are_as_large_as_they_must_be():
    model = tiny()
    model.prefill(some_ids(2, 30))
    slots = [layer.k.shape for layer in model.cache.layers]
    assert slots == [(2, 2, ring_slots(8), 16)] * 2 + [(2, 1, 2048, 32)]
    assert ring_slots(8) == 32
    assert ring_slots(1024) == 1040
    assert model.cache.nbytes == 2 * 4 * sum(math.prod(shape) for shape in slots)


def test_a_prompt_is_read_anew_in_the_same_memory():
    model, ids = tiny(), some_ids(2, 30)
    wanted = tiny().prefill(ids[:, :12])
    model.prefill(ids)
    memory = model.cache.layers[2].k.data_ptr()
    model.step(ids[:, :3])
    assert torch.equal(model.prefill(ids[:, :12]), wanted)
    assert model.cache.layers[2].k.data_ptr() == memory
    model.prefill(ids[:1])
    assert model.cache.batch == 1


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_bfloat16_on_each_device(device, bits):
    """Prompts with padding in chunks, steps across growth: off by what bfloat16 is off by on a CPU, times 4."""
    generator = torch.Generator("cpu").manual_seed(0)
    held = {  # of values that bfloat16 has, so that all are quantised alike
        name: torch.randn(shape, generator=generator).mul(shape[-1] ** -0.5).bfloat16()
        if len(shape) > 1
        else torch.ones(shape)
        for name, shape in expected(SPEC).items()
    }
    ids = some_ids(2, 60)

    def logits(device, dtype):
        weights = build(SPEC, lambda name, *shape: held[name], WeightFormat(torch.device(device), dtype, bits))
        model, given = Decoder(SPEC, weights, growth=16), ids.to(device)
        found = [model.prefill(given[:, :20], lengths=[20, 9], chunk=12, logits="all")]
        found += [model.step(given[:, i : i + 4]) for i in range(20, 60, 4)]
        return torch.cat(found, 1).cpu()

    exact, rounded = logits("cpu", torch.float32), logits("cpu", torch.bfloat16)
    noise = (rounded - exact).abs().max()
    assert 0 < noise < 1  # logits have a deviation of about 1
    assert (logits(device, torch.bfloat16) - exact).abs().max() <= 4 * noise


def test_rewinding_forgets_drafts():
    model, plain, ids = tiny(), tiny(), some_ids(2, 40)
    for m in (model, plain):
        m.prefill(ids[:, :20], lengths=[20, 13])
    model.step(ids[:, 20:27])
    model.rewind([4, 4])
    model.step(ids[:, 30:33])
    model.rewind([3, 3])
    plain.step(ids[:, 20:23])
    assert model.cache.counts == plain.cache.counts == [23, 16]
    torch.testing.assert_close(model.step(ids[:, 23:27]), plain.step(ids[:, 23:27]), rtol=0, atol=1e-5)
    model.rewind([1, 3])
    assert model.cache.counts == model.cache.lengths.tolist() == [26, 17]
    for counts, message in (
        ([5, 0], "counts: given 5; must be from 0 to 1"),
        ([0], "counts: given 1; the cache holds"),
    ):
        with pytest.raises(ValueError, match=message):
            model.rewind(counts)


def test_depths_without_a_prompt():
    ids = some_ids(2, 4)
    first, same, other = tiny(), tiny(), tiny()
    for model, seed in ((first, 0), (same, 0), (other, 1)):
        model.fill(5000, batch=2, seed=seed)
        assert model.cache.counts == [5000, 5000]
    logits = first.step(ids)
    assert logits.isfinite().all()
    assert torch.equal(logits, same.step(ids))
    assert not torch.equal(logits, other.step(ids))


def test_what_a_decoder_is_given():
    model, ids = tiny(), some_ids(2, 10)
    with pytest.raises(RuntimeError, match="call prefill first"):
        model.step(ids[:, :1])
    for call, error, message in (
        (lambda: model.prefill(ids.int()), TypeError, "ids: given torch.int32"),
        (lambda: model.prefill(ids[0]), ValueError, r"ids: given shape \(10,\); \[batch, tokens\]"),
        (lambda: model.prefill(ids + 120), ValueError, "ids: given from 1.. to 2..; must be from 0 to 127"),
        (lambda: model.prefill(-ids - 1), ValueError, "ids: given from -"),
        (lambda: model.prefill(ids[:, :0]), ValueError, "at least one of each"),
        (lambda: model.prefill(ids, chunk=0), ValueError, "chunk: given 0"),
        (lambda: model.prefill(ids, lengths=[10]), ValueError, "lengths: given 1; 2 are needed"),
        (lambda: model.prefill(ids, lengths=[10, 11]), ValueError, "lengths: given 11; must be from 1 to 10"),
        (lambda: model.prefill(ids, logits="some"), ValueError, "logits: given 'some'; allowed are last, all"),
        (lambda: model.prefill(ids.to("meta")), ValueError, "ids: is on meta; must be on the weights' cpu"),
        (lambda: Decoder.random(SPEC, device="meta", bits=None, seed="a"), TypeError, "seed: given 'a'"),
    ):
        with pytest.raises(error, match=message):
            call()
    model.prefill(ids)
    for given, message in (
        (ids[:1], "given 1 rows; the cache holds 2"),
        (some_ids(2, 17), "tokens: given 17; must be from 1 to 16"),
    ):
        with pytest.raises(ValueError, match=message):
            model.step(given)
