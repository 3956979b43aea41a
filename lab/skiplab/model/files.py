"""Weights in files: a folder of safetensors, as Hugging Face keeps them, and a GGUF file, as llama.cpp does."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import blockskip as bs
import torch
from safetensors import safe_open
from torch import Tensor

from skiplab.model.config import ModelSpec
from skiplab.model.weights import Stored

INDEX = "model.safetensors.index.json"


class Safetensors:
    """A `Source`: the shards of a folder, mapped into memory, so that only requested tensors are read."""

    def __init__(self, folder: str | PathLike[str]):
        self.folder = Path(folder)
        if not self._shards:
            raise ValueError(f"folder: {self.folder.name} holds no safetensors file")

    @cached_property
    def _shards(self) -> list[Any]:
        index = self.folder / INDEX
        if index.is_file():
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        else:
            names = sorted(path.name for path in self.folder.glob("*.safetensors"))
        for name in names:
            if Path(name).name != name or not (self.folder / name).is_file():
                raise ValueError(f"folder: {INDEX} names {name!r}, which is not there")
        return [safe_open(self.folder / name, framework="pt", device="cpu") for name in names]

    @cached_property
    def _places(self) -> dict[str, Any]:
        return {name: shard for shard in self._shards for name in shard.keys()}  # noqa: SIM118 - it is no dict

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(shard.get_slice(name).get_shape()) for name, shard in self._places.items()}

    def read(self, name: str) -> Tensor:
        return self._places[name].get_tensor(name)


ARCHITECTURES = {
    "llama": "llama",
    "mistral": "llama",
    "qwen3": "qwen3",
    "gemma3_text": "gemma3",
    "gemma4_text": "gemma4",
}
"""What llama.cpp calls the families that we read from its files."""
PERMUTED = ("llama",)
"""Architectures whose q and k it stores for a rotation of neighbours: dimension i beside dimension i + D / 2."""
SHIFTED = ("gemma3",)
"""Architectures whose norms it stores with the offset added."""
MODEL_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
LAYER_NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
FREQUENCIES = "rope_freqs.weight"
"""Follows from the spec, and is not read."""


class GGUF:
    """A `Source`: a GGUF file's tensors under transformers' names, with its order of rows and without norm offsets."""

    def __init__(self, path: str | PathLike[str], spec: ModelSpec):
        self.spec, self.file = spec, bs.open_gguf(path)
        self.architecture = self.file.metadata.get("general.architecture")
        if spec.family not in ARCHITECTURES:
            raise ValueError(
                f"spec: {spec.name} is a {spec.family}; a GGUF file is read for {', '.join(ARCHITECTURES)}"
            )
        if self.architecture != ARCHITECTURES[spec.family]:
            raise ValueError(
                f"path: {Path(path).name} holds a {self.architecture!r}; {spec.name} needs a "
                f"{ARCHITECTURES[spec.family]!r}"
            )
        self._names = {self._renamed(name): name for name in self.file.tensors if name != FREQUENCIES}

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {ours: tuple(self.file.tensors[name].shape) for ours, name in self._names.items()}

    def read(self, name: str) -> Stored:
        tensor = self.file.load(self._names[name])
        assert not isinstance(tensor, tuple)  # of more dimensions than any that is expected
        if self.architecture in PERMUTED and (".q_proj." in name or ".k_proj." in name):
            return _rows(tensor, self._order(name))
        if self.architecture in SHIFTED and name.endswith("norm.weight") and isinstance(tensor, Tensor):
            return tensor.float() - self.spec.norm_offset
        return tensor

    def _renamed(self, name: str) -> str:
        """transformers' name of a GGUF tensor; the file's own name if it has none."""
        stem, _, suffix = name.rpartition(".")
        if stem in MODEL_NAMES:
            return f"{MODEL_NAMES[stem]}.{suffix}"
        block, _, part = stem.partition(".")
        layer, _, part = part.partition(".")
        if block != "blk":
            return name
        if part == "ffn_norm":
            part = "pre_feedforward_layernorm" if self.spec.sandwich else "post_attention_layernorm"
        elif part == "layer_output_scale":
            return f"model.layers.{layer}.layer_scalar"
        else:
            part = LAYER_NAMES.get(part, part)
        return f"model.layers.{layer}.{part}.{suffix}"

    def _order(self, name: str) -> Tensor:
        """int64 [rows]: the file's row for each of transformers' rows."""
        layer = self.spec.layers[int(name.split(".")[2])]
        heads = layer.q_heads if ".q_proj." in name else layer.kv_heads
        rows = torch.arange(heads * layer.head_dim, dtype=torch.int64, device="cpu")
        return rows.view(heads, -1, 2).transpose(1, 2).flatten()


def _rows(stored: Stored, order: Tensor) -> Stored:
    if isinstance(stored, Tensor):
        return stored[order]
    return replace(stored, **{name: t[order] for name, t in stored.named_tensors().items()})
