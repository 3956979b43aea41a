"""Sources of weights: tensors by name, compared with what a model needs before anything is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from skiplab.model.config import ModelSpec
from skiplab.model.weights import Stored, Take, expected


class Source(Protocol):
    """Tensors by name: what a file, or a state_dict, holds."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...

    def read(self, name: str) -> Stored: ...


def tensors_of(source: Source, spec: ModelSpec) -> Take:
    """A checked source. Raises ValueError naming tensors that are missing, left over or misshapen.

    For a model with a vision part only the text model's tensors are considered.
    """
    held = source.shapes()
    names = text_names(held)
    wanted = expected(spec)
    left = [name for name in names if name not in wanted and not _is_redundant(name, spec)]
    wrong = [
        f"{name}: {list(held[names[name]])}, not {list(shape)}"
        for name, shape in wanted.items()
        if name in names and tuple(held[names[name]]) != shape
    ]
    problems = {"missing": [name for name in wanted if name not in names], "left over": left, "misshapen": wrong}
    if any(problems.values()):
        raise ValueError("weights: " + "; ".join(f"{what}: {_listed(each)}" for what, each in problems.items() if each))
    return lambda name, *shape: source.read(names[name])


def _listed(names: list[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def text_names(held: Mapping[str, Any]) -> dict[str, str]:
    """From a text model's name of a tensor to its name here: without what a vision part puts before it."""
    for prefix, text in (("model.language_model.", "model."), ("language_model.", "")):
        if any(name.startswith(prefix) for name in held):
            inside = {text + name.removeprefix(prefix): name for name in held if name.startswith(prefix)}
            return {name: name for name in held if name == "lm_head.weight"} | inside
    return {name: name for name in held}


def _is_redundant(name: str, spec: ModelSpec) -> bool:
    """Whether a tensor may be left over since it follows from others."""
    return name.endswith("rotary_emb.inv_freq") or (spec.tied and name == "lm_head.weight")


@dataclass(frozen=True, eq=False)
class StateDict:
    """A `Source` of tensors in memory."""

    tensors: Mapping[str, Tensor]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(t.shape) for name, t in self.tensors.items()}

    def read(self, name: str) -> Tensor:
        return self.tensors[name].detach()
