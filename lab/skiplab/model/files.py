"""Weights in files: a folder of safetensors, as Hugging Face keeps them."""

from __future__ import annotations

import json
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

INDEX = "model.safetensors.index.json"


class Safetensors:
    """A `Source`: the shards of a folder, mapped into memory, of which only what is asked for is read."""

    def __init__(self, folder: str | PathLike[str]):
        self.folder = Path(folder)
        if not self._shards:
            raise ValueError(f"folder: {self.folder.name} holds no safetensors file")

    @cached_property
    def _shards(self) -> list[Any]:
        from safetensors import safe_open

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
