"""Where a decoder's weights come from: files, and what is said of those that do not fit."""

import json
import weakref

import blockskip as bs
import pytest
import torch
from safetensors.torch import save_file
from skiplab.model import Decoder, ModelSpec
from skiplab.model.weights import Format, StateDict, build, expected, tensors_of

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
    held = Format(CPU, torch.float32, bits=None)
    return logits(Decoder(SPEC, build(SPEC, tensors_of(StateDict(tensors()), SPEC), held)))


@pytest.mark.parametrize("shards", [1, 3])
def test_a_folder_of_safetensors(shards, wanted, tmp_path):
    """A product's parts may lie in several shards."""
    held = list(tensors().items())
    split = {f"model-{i}.safetensors": dict(held[i::shards]) for i in range(shards)}
    model = Decoder.load(folder(tmp_path / "m", split), dtype=torch.float32, bits=None)
    assert model.spec.name == "m"
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
    assert torch.equal(model.weights.layers[1].qkv.weight.data, wanted.data)
    assert torch.equal(model.weights.layers[1].qkv.weight.scale, wanted.scale)
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
    build(SPEC, tensors_of(source, SPEC), Format(CPU, torch.bfloat16, bits=4))
    largest = 4 * max(128 * 64, 2 * 96 * 64)  # the embedding, or gate and up
    assert 0 < source.most[0] <= largest
    assert sum(t.nbytes for t in source.tensors.values()) > 4 * largest
    assert all(ref() is None for ref, _ in source.alive)
