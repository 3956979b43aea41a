"""Models by name: a model is a configuration file alone, its layers shaped as transformers has them."""

from __future__ import annotations

import json

import pytest
from skiplab.workload import MODELS, HeadShape, model_files, model_of
from skiplab.workload import models as registry

TOY = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 160, "num_attention_heads": 4, "num_key_value_heads": 2,
    "head_dim": 32,
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """Writes config.json with the toy's fields and others; None takes one out."""

    def file(**fields):
        path = tmp_path / "config.json"
        path.write_text(json.dumps({name: value for name, value in {**TOY, **fields}.items() if value is not None}))
        return path

    return file


def test_gemmas_layers_fused_and_not():
    whole, fused, apart = (model_of("gemma4-31b").linears(one) for one in (None, True, False))
    assert fused == {
        "qkv": (16384, 5376), "o": (5376, 8192), "qk full": (18432, 5376), "o full": (5376, 16384),
        "gate+up": (43008, 5376), "down": (5376, 21504), "head": (262144, 5376),
    }  # fmt: skip
    assert apart == {
        "q": (8192, 5376), "k": (4096, 5376), "v": (4096, 5376), "o": (5376, 8192), "q full": (16384, 5376),
        "k full": (2048, 5376), "o full": (5376, 16384), "gate": (21504, 5376), "up": (21504, 5376),
        "down": (5376, 21504), "head": (262144, 5376),
    }  # fmt: skip
    assert whole == {**fused, **apart}


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("llama3-8b", {"qkv": (6144, 4096), "gate+up": (28672, 4096), "down": (4096, 14336), "head": (128256, 4096)}),
        ("qwen3-32b", {"qkv": (10240, 5120), "o": (5120, 8192), "gate+up": (51200, 5120)}),
        ("mistral-7b", {"q": (4096, 4096), "k": (1024, 4096), "up": (14336, 4096)}),
        ("gemma3-27b", {"qkv": (8192, 5376), "o": (5376, 4096)}),
        ("gpt-oss-20b", {"qkv": (5120, 2880), "o": (2880, 4096), "head": (201088, 2880)}),
    ],
)
def test_layers_of_other_models(name, layers):
    assert model_of(name).linears().items() >= layers.items()


def test_experts_are_no_linear_layers():
    assert not {"gate", "up", "gate+up", "down"} & set(model_of("gpt-oss-20b").linears())


def test_transformers_builds_the_same_layers():
    """The modules of a small Gemma 4, by their names, where transformers is installed."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Gemma4ForCausalLM"):
        pytest.skip("this transformers has no Gemma 4")
    import torch

    shapes = model_of("laptop")
    config = json.loads(registry.data_path("models", "laptop.json").read_text())
    made = transformers.Gemma4TextConfig(**{k: v for k, v in config.items() if k not in ("name", "source")})
    with torch.device("meta"):
        model = transformers.Gemma4ForCausalLM(made)
    found = {name: tuple(one.weight.shape) for name, one in model.named_modules() if isinstance(one, torch.nn.Linear)}
    layers = shapes.linears(False)
    for index, suffix in ((0, ""), (5, " full")):
        for part, of_part in (("self_attn", ("q", "k", "v", "o")), ("mlp", ("gate", "up", "down"))):
            for name in of_part:
                ours = f"{name}{suffix}" if part == "self_attn" else name
                assert found.get(f"model.layers.{index}.{part}.{name}_proj") == layers.get(ours), ours
    assert found["lm_head"] == layers["head"]


def test_a_model_is_a_file_of_its_configuration(write, monkeypatch, tmp_path):
    """A toy in `data/models` is known by its name, to menus too; and any configuration file by its path."""
    toy = model_of(write(sliding_window=16, layer_types=["sliding_attention", "full_attention"]))
    assert toy.heads == {"sliding": HeadShape(4, 2, 32, 16), "full": HeadShape(4, 2, 32)}
    assert toy.linears(True) == {
        "qkv": (256, 64), "o": (64, 128), "gate+up": (320, 64), "down": (64, 160), "head": (96, 64),
    }  # fmt: skip
    assert model_of(str(tmp_path / "config.json")) == toy
    known = registry.data_path("models")
    monkeypatch.setattr(registry, "data_path", lambda *parts: tmp_path.joinpath(*parts[1:]))
    (tmp_path / "toy.json").write_text(write(head_dim=None).read_text())
    assert list(model_files()) == ["config", "toy"] and model_of("toy").name == "toy"
    assert registry.models.__wrapped__()["toy"] == HeadShape(4, 2, 16)
    assert known.is_dir() and "toy" not in MODELS


def test_a_model_with_pictures_has_its_text_inside(write):
    path = write()
    path.write_text(json.dumps({"model_type": "seen", "text_config": TOY}))
    assert model_of(path).linears()["down"] == (64, 160)


def test_layers_are_chosen_by_name_each_shape_once(write):
    toy = model_of(write())
    assert toy.chosen() == ((256, 64), (128, 64), (64, 64), (64, 128), (320, 64), (160, 64), (64, 160), (96, 64))
    assert toy.chosen(("k", "v", "down")) == ((64, 64), (64, 160))
    with pytest.raises(ValueError, match=r"layer: config has no 'q' here; there are qkv, o, gate\+up, down, head"):
        toy.chosen(("q",), fused=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": None}, "config.json: lacks 'hidden_size'"),
        ({"vocab_size": 0}, "config.json: vocab_size: given 0; must be at least 1"),
        ({"num_attention_heads": "many"}, "config.json: num_attention_heads: given 'many'; an int is needed"),
        ({"text_config": []}, "config.json: "),
    ],
)
def test_a_broken_configuration_is_named(write, fields, message):
    with pytest.raises(ValueError) as raised:
        model_of(write(**fields))
    assert message in str(raised.value)


def test_an_unknown_model_is_refused_with_the_names_there_are(tmp_path):
    with pytest.raises(ValueError, match="model: no 'gpt'; there are gemma3-27b, gemma4-31b"):
        model_of("gpt")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match=r"list\.json: holds no object"):
        model_of(tmp_path / "list.json")
    (tmp_path / "text.json").write_text("{")
    with pytest.raises(ValueError, match=r"text\.json: cannot be read as a model's configuration"):
        model_of(tmp_path / "text.json")
