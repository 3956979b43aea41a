"""Where a decoder's weights come from: files, and what is said of those that do not fit."""

import json
import weakref

import blockskip as bs
import numpy as np
import pytest
import torch
from gguf_files import File, Tensor, entry
from safetensors.torch import save_file
from skiplab.model import Decoder, ModelSpec
from skiplab.model.sources import StateDict, tensors_of
from skiplab.model.weights import WeightFormat, build, expected

CONFIG = {
    "model_type": "llama",
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SPEC = ModelSpec.from_config(CONFIG)
CPU = torch.device("cpu")


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(0)
    return {name: torch.randn(shape, generator=generator) * 0.1 for name, shape in expected(SPEC).items()}


def folder(path, shards: dict[str, dict[str, torch.Tensor]], config=CONFIG):
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config))
    for name, held in shards.items():
        save_file(held, path / name)
    if len(shards) > 1:
        index = {"weight_map": {tensor: name for name, held in shards.items() for tensor in held}}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    return path


def logits(model: Decoder) -> torch.Tensor:
    return model.prefill(torch.arange(20, dtype=torch.int64, device="cpu")[None], logits="all")


@pytest.fixture
def wanted() -> torch.Tensor:
    held = WeightFormat(CPU, torch.float32, bits=None)
    return logits(Decoder(SPEC, build(SPEC, tensors_of(StateDict(tensors()), SPEC), held)))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_of_safetensors(shards, wanted, tmp_path):
    """A product's parts may lie in several shards."""
    held = list(tensors().items())
    split = {f"model-{i}.safetensors": dict(held[i::shards]) for i in range(shards)}
    model = Decoder.load(folder(tmp_path / "m", split), dtype=torch.float32, bits=None)
    assert model.spec.name == "m"
    assert Decoder.load(tmp_path / "m", spec=SPEC.cut(3)).spec == SPEC.cut(3)
    assert torch.equal(logits(model), wanted)


@pytest.mark.parametrize(
    ("prefix", "head"),
    [("model.language_model.", "lm_head.weight"), ("language_model.model.", "language_model.lm_head.weight")],
)
def test_the_text_of_a_model_that_sees(prefix, head, wanted, tmp_path):
    held = {head if name == "lm_head.weight" else name.replace("model.", prefix, 1): t for name, t in tensors().items()}
    held["model.vision_tower.patch.weight"] = torch.zeros(3, 3)
    config = {"model_type": "seeing", "text_config": CONFIG, "tie_word_embeddings": False}
    model = Decoder.load(folder(tmp_path / "m", {"model.safetensors": held}, config), dtype=torch.float32, bits=None)
    assert torch.equal(logits(model), wanted)


def test_quantised_as_it_loads(tmp_path):
    path = folder(tmp_path / "m", {"model.safetensors": tensors()})
    model = Decoder.load(path, dtype=torch.float32, bits=8, symmetric=True)
    held = tensors()
    qkv = torch.cat([held[f"model.layers.1.self_attn.{name}_proj.weight"] for name in "qkv"])
    wanted = bs.quantize(qkv, 8, symmetric=True)
    assert torch.equal(model.weights.layers[1].qkv.weights[0].data, wanted.data)
    assert torch.equal(model.weights.layers[1].qkv.weights[0].scale, wanted.scale)
    assert logits(model).isfinite().all()


def test_what_may_be_there_besides(wanted):
    held = tensors()
    held["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.zeros(8)
    tensors_of(StateDict(held), SPEC)
    tied = ModelSpec.from_config({**CONFIG, "tie_word_embeddings": True})
    tensors_of(StateDict(held), tied)
    assert "lm_head.weight" not in expected(tied)


def test_what_does_not_fit_is_named(tmp_path):
    held = tensors()
    del held["model.layers.2.mlp.up_proj.weight"]
    held["model.layers.3.mlp.up_proj.weight"] = torch.zeros(2, 2)
    held["model.norm.weight"] = torch.zeros(65)
    with pytest.raises(ValueError) as error:
        Decoder.load(folder(tmp_path / "m", {"model.safetensors": held}))
    assert str(error.value) == (
        "weights: missing: model.layers.2.mlp.up_proj.weight; left over: model.layers.3.mlp.up_proj.weight; "
        "misshapen: model.norm.weight: [65], not [64]"
    )
    with pytest.raises(ValueError, match=r"missing: model.embed_tokens.weight, .*, .* and 22 more$"):
        tensors_of(StateDict({}), SPEC)


def test_folders_without_weights(tmp_path):
    with pytest.raises(ValueError, match="folder: empty holds no safetensors file"):
        Decoder.load(folder(tmp_path / "empty", {}))
    path = folder(tmp_path / "m", {"a.safetensors": {}, "b.safetensors": tensors()})
    (path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match=r"folder: model.safetensors.index.json names 'b.safetensors', which is not"):
        Decoder.load(path)
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": "../m/a.safetensors"}}))
    with pytest.raises(ValueError, match=r"names '../m/a.safetensors', which is not there"):
        Decoder.load(path)


class Watching(StateDict):
    """A source whose tensors are copies; most: the bytes of those that were alive at once."""

    def __init__(self, held):
        super().__init__(held)
        object.__setattr__(self, "alive", [])
        object.__setattr__(self, "most", [0])

    def read(self, name):
        made = self.tensors[name].clone()
        self.alive.append((weakref.ref(made), made.nbytes))
        self.most[0] = max(self.most[0], sum(size for ref, size in self.alive if ref() is not None))
        return made


def test_no_more_floats_are_held_than_one_product_has():
    """Embedding and norms are cast, products quantised: of what was read nothing stays."""
    source = Watching(tensors())
    build(SPEC, tensors_of(source, SPEC), WeightFormat(CPU, torch.bfloat16, bits=4))
    largest = 4 * max(128 * 64, 2 * 96 * 64)  # the embedding, or gate and up
    assert 0 < source.most[0] <= largest
    assert sum(t.nbytes for t in source.tensors.values()) > 4 * largest
    assert all(ref() is None for ref, _ in source.alive)


KINDS = {"Q8_0": (32, 34), "Q4_0": (32, 18), "F32": (1, 4)}
OURS_TO_GGUF = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
WHOLE = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def gguf_name(name: str, sandwich: bool) -> str:
    if name.endswith("layer_scalar"):
        return f"blk.{name.split('.')[2]}.layer_output_scale.weight"
    stem, _, suffix = name.rpartition(".")
    if stem in WHOLE:
        return f"{WHOLE[stem]}.{suffix}"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{(OURS_TO_GGUF | (SANDWICH if sandwich else {}))[part]}.{suffix}"


def gguf(path, spec: ModelSpec, architecture: str, kinds=None, permuted=False):
    """A file as llama.cpp writes it, and the floats that it stands for under transformers' names.

    kinds: of products by the part of a name; Q8_0 for the others. permuted: q and k, as for a rotation of neighbours.
    """
    rng = np.random.default_rng(0)
    held, floats = [], {}
    for name, shape in expected(spec).items():
        count = int(np.prod(shape))
        kind = "F32" if len(shape) == 1 else next((k for part, k in (kinds or {}).items() if part in name), "Q8_0")
        weights, nbytes = KINDS[kind]
        if kind == "F32":
            values = torch.from_numpy(rng.normal(1 if "norm" in name else 0.5, 0.1, shape).astype(np.float32))
            raw = values.numpy().tobytes()
            values = values - (1 if architecture == "gemma3" and "norm" in name else 0)
        else:
            blocks = rng.integers(0, 256, (count // weights, nbytes), dtype=np.uint8)
            blocks[:, :2] = np.frombuffer(np.float16(0.002 if kind == "Q8_0" else 0.03).tobytes(), np.uint8)
            raw = blocks.tobytes()
            values = bs.from_gguf(raw, shape, kind).dequantize()
        if permuted and ("q_proj" in name or "k_proj" in name):  # what llama.cpp does to them, undone
            heads = spec.layers[0].q_heads if "q_proj" in name else spec.layers[0].kv_heads
            values = values.reshape(heads, -1, 2, *shape[1:]).swapaxes(1, 2).reshape(shape)
        floats[name] = values
        held.append(Tensor(gguf_name(name, spec.sandwich), shape, kind, raw))
    held.append(Tensor("rope_freqs.weight", (8,), "F32", bytes(32)))
    path.write_bytes(File(held, (entry("general.architecture", 8, architecture),)).bytes())
    return floats


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gemma3", "gemma4"])
def test_a_gguf_file(name, tmp_path):
    config = {**CONFIG, "model_type": name, "head_dim": 16, "sliding_window": 8}
    if name.startswith("gemma"):
        config = {**config, "model_type": f"{name}_text", "global_head_dim": 32, "hidden_size_per_layer_input": 0}
    spec, path = ModelSpec.from_config(config), tmp_path / "m.gguf"
    architecture = "llama" if name == "mistral" else name
    floats = gguf(path, spec, architecture, permuted=architecture == "llama")
    model = Decoder.load(path, spec=spec, dtype=torch.float32)
    plain = Decoder(spec, build(spec, tensors_of(StateDict(floats), spec), WeightFormat(CPU, torch.float32, bits=None)))
    for (what, found), (_, wanted) in zip(model.dequantized().weights.linears(), plain.weights.linears(), strict=True):
        assert torch.equal(found.weights[0], wanted.weights[0]), what
    assert {type(w.weights[0]) for _, w in model.weights.linears()} == {bs.QuantizedWeight}
    assert torch.equal(model.weights.embedding, plain.weights.embedding)
    torch.testing.assert_close(model.weights.norm, plain.weights.norm, rtol=0, atol=2**-22)  # 1 is added and taken off
    torch.testing.assert_close(logits(model.dequantized()), logits(plain), rtol=1e-4, atol=1e-4)


def test_parts_that_a_file_quantises_in_several_ways(tmp_path):
    """q and k are one weight, v is another; both read the same activations."""
    spec, path = ModelSpec.from_config({**CONFIG, "model_type": "qwen3", "head_dim": 16}), tmp_path / "m.gguf"
    gguf(path, spec, "qwen3", {"q_proj": "Q4_0", "k_proj": "Q4_0", "down_proj": "F32"})
    model = Decoder.load(path, spec=spec, dtype=torch.float32)
    layer = model.weights.layers[0]
    assert [(tuple(w.shape), w.bits) for w in layer.qkv.weights] == [((96, 64), 4), ((32, 64), 8)]
    assert [w.bits for w in layer.down.weights] == [4]  # floats are quantised as asked
    found, wanted = logits(model), logits(model.dequantized())
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))


def test_gguf_files_that_do_not_fit(tmp_path):
    path = tmp_path / "m.gguf"
    gguf(path, SPEC, "llama")
    for options, message in (
        ({}, "spec: None with a GGUF file"),
        (
            {"spec": ModelSpec.from_config({**CONFIG, "model_type": "qwen3"})},
            "m.gguf holds a 'llama'; qwen3 needs a 'q",
        ),
        (
            {"spec": ModelSpec.from_config({**CONFIG, "num_hidden_layers": 2})},
            "left over: model.layers.2.input_layernorm",
        ),
        (
            {"spec": ModelSpec.from_config({**CONFIG, "attention_bias": True})},
            "missing: model.layers.0.self_attn.q_proj.b",
        ),
        (
            {"spec": ModelSpec.from_config({**CONFIG, "model_type": "gpt_oss", "num_local_experts": 0})},
            "spec: gpt_oss is a gpt_oss; a GGUF file is read for llama, mistral",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            Decoder.load(path, **options)
