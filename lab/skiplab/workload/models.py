"""Models by name: the shapes of their attention and of their linear layers, from their Hugging Face configurations.

A model is a file in `data/models`: its `config.json`, or the fields of it that are read here. Its folder `shapes` has
the models of which the lab uses shapes alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import blockskip as bs
from blockskip.arguments import integer

from skiplab.paths import data_path
from skiplab.text import why
from skiplab.workload.attention import Workload
from skiplab.workload.decode import DecodeWorkload

Shape = tuple[int, int]
"""(out_features, in_features) of a linear layer."""


@dataclass(frozen=True)
class HeadShape:
    """The attention of a model's layer: heads, head size, and its window (None: full causal)."""

    q_heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None

    def workload(self, q_len: int, **fields: Any) -> Workload:
        """Prefill of a prompt of `q_len` tokens through this layer."""
        mask = bs.causal() if self.window is None else bs.sliding_window(self.window)
        shape = {"q_heads": self.q_heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim, "mask": mask}
        return Workload(q_len=q_len, **{**shape, **fields})

    def decode(self, kv_len: int, **fields: Any) -> DecodeWorkload:
        """A decode step of this layer over `kv_len` keys."""
        shape = {"q_heads": self.q_heads, "kv_heads": self.kv_heads, "head_dim": self.head_dim}
        return DecodeWorkload(kv_len, **{"window": self.window, **shape, **fields})


@dataclass(frozen=True)
class ModelShapes:
    """A model's shapes. `heads`: each kind of its attention layers, `sliding` and `full`, or one of them alone.

    mlp: hidden_size and intermediate_size of its dense MLP; None for a mixture of experts, whose products are grouped.
    values: kinds of attention that have a value projection; the others take the keys for values.
    """

    name: str
    heads: Mapping[str, HeadShape]
    hidden: int
    mlp: int | None
    vocabulary: int
    values: tuple[str, ...]

    def linears(self, fused: bool | None = None) -> dict[str, Shape]:
        """Its linear layers by name: qkv, q, k, v, o, gate+up, gate, up, down, head.

        If full layers have other sizes than sliding ones, their names end in `full`; if their keys are the values, too,
        the fused one is `qk full`. fused: True leaves out the layers that a fused one holds, False the fused ones, None
        neither.
        """
        shapes: dict[str, Shape] = {}
        seen: list[dict[str, int]] = []
        for kind, shape in self.heads.items():
            query, key = shape.q_heads * shape.head_dim, shape.kv_heads * shape.head_dim
            parts = {"q": query, "k": key, **({"v": key} if kind in self.values else {})}
            if parts not in seen:
                suffix = f" {kind}" if seen else ""
                shapes |= _group("".join(parts), parts, self.hidden, suffix, fused)
                shapes[f"o{suffix}"] = (self.hidden, query)
            seen.append(parts)
        if self.mlp is not None:
            shapes |= _group("gate+up", {"gate": self.mlp, "up": self.mlp}, self.hidden, "", fused)
            shapes["down"] = (self.hidden, self.mlp)
        return {**shapes, "head": (self.vocabulary, self.hidden)}

    def chosen(self, names: tuple[str, ...] = (), fused: bool | None = None) -> tuple[Shape, ...]:
        """The shapes of the named layers (none: all), each once; ValueError lists the layers there are."""
        known = self.linears(fused)
        for name in names:
            if name not in known:
                raise ValueError(f"layer: {self.name} has no {name!r} here; there are {', '.join(known)}")
        return tuple(dict.fromkeys(known[name] for name in names or known))


def _group(name: str, parts: Mapping[str, int], inputs: int, suffix: str, fused: bool | None) -> dict[str, Shape]:
    """Layers with the same input: fused, each alone, or both."""
    whole = {f"{name}{suffix}": (sum(parts.values()), inputs)}
    alone = {f"{part}{suffix}": (outputs, inputs) for part, outputs in parts.items()}
    return {**({} if fused is False else whole), **({} if fused else alone)}


def read_model(path: Path) -> ModelShapes:
    """The model of a configuration file; ValueError names the file and what it lacks."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path.name}: cannot be read as a model's configuration: {why(error)}") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path.name}: holds no object, and a model's configuration is one")
    text = config.get("text_config", config)  # of a model that sees images, too
    try:
        return _shapes(config.get("name") or path.stem, text)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"{path.name}: {what}") from error


def _shapes(name: str, config: Mapping[str, Any]) -> ModelShapes:
    def count(field: str, default: str | None = None) -> int:
        used = default if default is not None and config.get(field) is None else field
        return integer(used, config[used], 1)

    hidden, q_heads = count("hidden_size"), count("num_attention_heads")
    head_dim = hidden // q_heads if config.get("head_dim") is None else count("head_dim")
    kv_heads = count("num_key_value_heads", "num_attention_heads")
    window = _window(config)
    heads: dict[str, HeadShape] = {}
    if window is not None:
        heads["sliding"] = HeadShape(q_heads, kv_heads, head_dim, window)
    if window is None or _has_full_layers(config):
        wide = head_dim if config.get("global_head_dim") is None else count("global_head_dim")
        few = kv_heads if config.get("num_global_key_value_heads") is None else count("num_global_key_value_heads")
        heads["full"] = HeadShape(q_heads, few, wide)
    shared = bool(config.get("attention_k_eq_v"))
    dense = not (config.get("num_local_experts") or config.get("num_experts") or config.get("enable_moe_block"))
    return ModelShapes(
        name, heads, hidden, count("intermediate_size") if dense else None, count("vocab_size"),
        tuple(kind for kind in heads if not (shared and kind == "full")),
    )  # fmt: skip


def _window(config: Mapping[str, Any]) -> int | None:
    """The window of the sliding layers; None if the model names one but does not use it."""
    if config.get("sliding_window") is None or config.get("use_sliding_window") is False:
        return None
    return integer("sliding_window", config["sliding_window"], 1)


def _has_full_layers(config: Mapping[str, Any]) -> bool:
    """Whether some layers of a model with a window have full attention."""
    if config.get("layer_types") is not None:
        return "full_attention" in config["layer_types"]
    return config.get("sliding_window_pattern") is not None or config.get("global_head_dim") is not None


def model_files() -> dict[str, Path]:
    """The configurations of `data/models` and its folder `shapes`, by the model's name, in order."""
    return {path.stem: path for path in sorted(data_path("models").rglob("*.json"), key=lambda path: path.stem)}


def model_of(name: str | Path) -> ModelShapes:
    """The model of that name in `data/models`, or of a configuration file; ValueError lists the names."""
    known = model_files()
    if name in known:
        return read_model(known[str(name)])
    if Path(name).is_file():
        return read_model(Path(name))
    raise ValueError(f"model: no {str(name)!r}; there are {', '.join(known)}, or a file config.json")


@lru_cache(maxsize=1)
def models() -> dict[str, HeadShape]:
    """Named shapes of attention: those of each model, by its name and, where it has two kinds of layers, the kind."""
    shapes = {"laptop": HeadShape(8, 8, 128, 512)}
    for model in map(model_of, model_files()):
        for kind, shape in model.heads.items():
            shapes.setdefault(f"{model.name} {kind}" if len(model.heads) > 1 else model.name, shape)
    return {**shapes, "qwen 16/2": HeadShape(16, 2, 256)}


@lru_cache(maxsize=1)
def linears() -> dict[str, Shape]:
    """A few linear layers as (out_features, in_features), for menus: `laptop`, and Gemma 4 31B's; more: `model_of`."""
    gemma = model_of("gemma4-31b").linears()
    named = {"gate, up": "gate", "down": "down", "query": "q", "output": "o", "head": "head"}
    fused = {name: gemma[name] for name in ("qkv", "gate+up")}
    return {"laptop": (2048, 2048), **{name: gemma[layer] for name, layer in named.items()}, **fused}


MODELS = models()
LINEARS = linears()
