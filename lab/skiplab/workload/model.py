"""A whole model: the prompt that it reads, or a step of a few tokens behind what it has read."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Self

import blockskip as bs
import torch
from blockskip.arguments import choice, flag, integer
from blockskip.attention.decode.plan import LONGEST_QUERY

from skiplab.model import LayerSpec, ModelSpec, model_names
from skiplab.model.decoder import attention_name
from skiplab.paths import data_path
from skiplab.workload.linear import bits_per_weight
from skiplab.workload.problem import Problem

PHASES = ("prefill", "decode")
POINTWISE = "pointwise"
"""What a profile calls all that has no name of its own: norms, rotations, activations, sums, writes to the cache."""
CHECKED = 32
"""Tokens of the prompt on which a contender is compared with the reference: nobody could compute a long one's truth."""
STEPS = 16
"""Steps that are timed, unless told otherwise."""


@dataclass(frozen=True)
class ModelWorkload(Problem):
    """A whole model reads `q_len` tokens of one sequence: a prompt (prefill), or a step behind `depth` tokens (decode).

    model: a name of `model_names()`, or any name with `config`, the text of its config.json. bits, group_size: of the
    weights of contenders that quantise them. steps: how many a decode point times, one after the other; None: prefill.
    by_kind: one layer of each kind is timed, times its count. TypeError or ValueError names the field, what was given
    and what is allowed.
    """

    phase: str
    q_len: int
    depth: int = 0
    model: str = "laptop"
    bits: int = 4
    group_size: int = 32
    dtype: str = "bfloat16"
    steps: int | None = None
    by_kind: bool = False
    config: str | None = None
    operation: ClassVar[str] = "model"
    untimed_s: ClassVar[float] = 600.0
    """Weights are made, quantised and checked, and calls of a minute are made once before they are timed."""

    def __post_init__(self) -> None:
        self._check("q_len")
        choice("phase", self.phase, PHASES)
        self._check_integer("depth", 0)
        for name, allowed in (("bits", (4, 8)), ("group_size", (32, 64, 128))):
            object.__setattr__(self, name, choice(name, getattr(self, name), allowed))
        flag("by_kind", self.by_kind)
        if self.phase == "prefill":
            for name, none in (("depth", 0), ("steps", None)):
                if getattr(self, name) != none:
                    raise ValueError(f"{name}: got {getattr(self, name)}; a prompt has none: it is of decode steps")
        else:
            self._check_integer("q_len", 1, LONGEST_QUERY)
            object.__setattr__(self, "steps", STEPS if self.steps is None else self.steps)
            self._check_integer("steps", 1)
        spec_of(self.model, self.config)  # refuses a model that is not known

    @property
    def whole_spec(self) -> ModelSpec:
        """The model's shape and arithmetic."""
        return spec_of(self.model, self.config)

    @property
    def spec(self) -> ModelSpec:
        """What contenders build: the model, or one layer of each kind of it."""
        whole = self.whole_spec
        return replace(whole, layers=tuple(whole.kinds)) if self.by_kind else whole

    def with_window(self, window: int) -> Self:
        """The same call of the model with another window in its sliding layers; ValueError where it has none."""
        if all(layer.window is None for layer in self.whole_spec.layers):
            raise ValueError(f"window: got {window}; {self.model} has no layer with a window")
        text = self.config or data_path("models", f"{self.model}.json").read_text(encoding="utf-8")
        config = json.dumps({**json.loads(text), "sliding_window": integer("window", window, 1)})
        return replace(self, model=f"{self.model}, window {window:,}", config=config)

    @property
    def checked(self) -> ModelWorkload:
        """A short prompt, and the step behind it, on which logits are compared."""
        if self.phase == "prefill":
            return replace(self, q_len=min(self.q_len, CHECKED))
        return replace(self, depth=CHECKED)

    @property
    def input_names(self) -> tuple[str, ...]:
        return ("ids",)

    @property
    def size(self) -> str:
        """The size in words, for a line of progress."""
        if self.phase == "prefill":
            return f"{self.model}, {self.q_len} tokens"
        return f"{self.model}, step of {self.q_len} at {self.depth}"

    @property
    def out_shape(self) -> tuple[int, ...]:
        """The logits': of a prompt's last token, or of each of a step's."""
        return (1 if self.phase == "prefill" else self.q_len), self.whole_spec.vocabulary

    @property
    def out_dtype(self) -> torch.dtype:
        return torch.float32

    def axes(self) -> dict[str, Any]:
        """Flat and JSON-able; what is None is left out."""
        return {"operation": self.operation, **{k: v for k, v in asdict(self).items() if v is not None}}

    @classmethod
    def from_axes(cls, axes: Mapping[str, Any]) -> Self:
        """The workload that `axes()` described."""
        return cls(**{name: value for name, value in axes.items() if name != "operation"})

    def key(self) -> str:
        """Stable and readable, the same for equal workloads: what a run file finds a point by."""
        place = f"q{self.q_len}" if self.phase == "prefill" else f"q{self.q_len} at {self.depth}, {self.steps} steps"
        parts = ", one layer of each kind" if self.by_kind else ""
        config = f" {hash_of(self.config)}" if self.config else ""
        return (
            f"{self.phase} {self.model}{config} {place}{parts}, int{self.bits} groups of {self.group_size} {self.dtype}"
        )

    def work(self, quantised: bool = True) -> bs.Work:
        """Of the whole model, whoever times parts of it: FLOPs of products and of pairs that are seen; bytes of every
        weight that is read, packed or in dtype, of the cache, and of logits, each once.

        It leaves out what lies between the products: norms, rotations, activations.
        """
        spec, tokens, bits = self.whole_spec, self.q_len, self._bits(quantised)
        parts = self.parts(quantised).values()
        useful, dense = sum(part.useful_flops for part in parts), sum(part.dense_flops for part in parts)
        moved = 0.0
        for layer, count in spec.kinds.items():
            weights, keys = sum(n * k for n, k in products(spec, layer).values()), tokens + self._seen(layer.window)
            moved += count * (weights * bits / 8 + 2 * layer.kv_heads * layer.head_dim * keys * self.element_bytes)
        (rows, vocabulary), head = self.out_shape, spec.vocabulary * spec.hidden
        moved += head * bits / 8 + 4 * rows * vocabulary + tokens * spec.hidden * self.element_bytes
        return bs.Work(useful, useful, dense, round(moved))

    def parts(self, quantised: bool = True) -> dict[str, bs.Work]:
        """The work by the names that a profile has: attention of each kind, products, the head, and POINTWISE.

        Each reads its own inputs and writes its own outputs, as if called alone. POINTWISE is all that lies between
        them, as if a single kernel did it from one to the next: it has bytes alone.
        """
        spec, tokens, bits = self.whole_spec, self.q_len, self._bits(quantised)
        (rows, vocabulary), found = self.out_shape, defaultdict[str, list[tuple[bs.Work, int]]](list)
        for layer, count in spec.kinds.items():
            found[attention_name(layer)].append((self._attention_work(layer), count))
            for name, (outputs, inputs) in products(spec, layer).items():
                moved = outputs * inputs * bits / 8 + tokens * (outputs + inputs) * self.element_bytes
                found[name].append((_product_work(tokens, outputs * inputs, moved), count))
        moved = vocabulary * spec.hidden * bits / 8 + rows * (spec.hidden * self.element_bytes + 4 * vocabulary)
        found["head"] = [(_product_work(rows, vocabulary * spec.hidden, moved), 1)]
        found[POINTWISE] = [(bs.Work(0, 0, 0, tokens * between(spec) * self.element_bytes), 1)]
        return {name: _summed(works) for name, works in found.items()}

    def _bits(self, quantised: bool) -> float:
        return bits_per_weight(self.bits, self.group_size, False) if quantised else 8 * self.element_bytes

    def _attention_work(self, layer: LayerSpec) -> bs.Work:
        """Of one layer: pairs that are seen; queries, results, and the keys and values that some query sees."""
        pair, keys = 4 * layer.q_heads * layer.head_dim, self.q_len + self._seen(layer.window)
        useful = pair * self._pairs(layer.window)
        moved = 2 * layer.head_dim * (layer.q_heads * self.q_len + layer.kv_heads * keys) * self.element_bytes
        return bs.Work(useful, useful, pair * self.q_len * (self.depth + self.q_len), moved)

    def _pairs(self, window: int | None) -> int:
        """Pairs of a query and a key that it sees, of one head."""
        first, last = self.depth + 1, self.depth + self.q_len  # keys that the first and last query would see
        if window is None or last <= window:
            return (first + last) * self.q_len // 2
        rising = max(window - first, 0)  # queries that see less than the window
        return rising * (first + first + rising - 1) // 2 + (self.q_len - rising) * window

    def _seen(self, window: int | None) -> int:
        """Keys before the call that some query sees."""
        return self.depth if window is None else min(self.depth, window - 1)

    def inputs(self, device: str, seed: int, deviation: float = 1.0) -> tuple[torch.Tensor, ...]:
        """Fresh ids int64 [1, tokens] of that seed: of a step all that is read, `depth` tokens and the step's own."""
        generator = torch.Generator(device).manual_seed(seed)
        shape = (1, self.depth + self.q_len)
        return (
            torch.randint(self.whole_spec.vocabulary, shape, generator=generator, dtype=torch.int64, device=device),
        )


def products(spec: ModelSpec, layer: LayerSpec) -> dict[str, tuple[int, int]]:
    """(outputs, inputs) of a layer's products, by the names that a profile has."""
    queries, keys = layer.q_heads * layer.head_dim, layer.kv_heads * layer.head_dim
    return {
        "qkv": (queries + keys * (1 if layer.key_is_value else 2), spec.hidden), "o": (spec.hidden, queries),
        "gate+up": (2 * spec.intermediate, spec.hidden), "down": (spec.hidden, spec.intermediate),
    }  # fmt: skip


def _product_work(rows: int, weights: int, moved: float) -> bs.Work:
    return bs.Work(2 * rows * weights, 2 * rows * weights, 2 * rows * weights, round(moved))


def _summed(works: Iterable[tuple[bs.Work, int]]) -> bs.Work:
    """Of works, each as often as its number says."""
    counted = [[number * count for number in vars(work).values()] for work, count in works]
    return bs.Work(*map(sum, zip(*counted, strict=True)))


def between(spec: ModelSpec) -> int:
    """Numbers a token that lie between products and attention: read where those end, written where they begin."""
    moved = 2 * spec.hidden  # the embedding's row, and its norm
    for layer, count in spec.kinds.items():
        queries, keys = layer.q_heads * layer.head_dim, layer.kv_heads * layer.head_dim
        heads = products(spec, layer)["qkv"][0] + queries + 2 * keys  # normalised and rotated; two go to the cache
        mlp = 3 * spec.intermediate  # gate and up to their product
        sums = 2 * 4 * spec.hidden  # twice a layer: a branch's end and the sum so far, to the new sum and its norm
        moved += count * (heads + mlp + sums)
    return moved


def parameters(spec: ModelSpec) -> int:
    """Weights of the model's products and of its embedding; norms are left out."""
    layers = sum(count * n * k for layer, count in spec.kinds.items() for n, k in products(spec, layer).values())
    return layers + spec.vocabulary * spec.hidden * (1 if spec.tied else 2)


def attention_kinds(spec: ModelSpec) -> dict[str, int]:
    """How many layers have each kind of attention, by the names that a profile has."""
    return dict(Counter(attention_name(layer) for layer in spec.layers))


@lru_cache(maxsize=16)
def spec_of(model: str, config: str | None) -> ModelSpec:
    """The model of a name, or of a config's text; ValueError lists the names, or names what is wrong with the text."""
    if config is None:
        if model not in model_names():
            raise ValueError(f"model: got {model!r}; allowed are {', '.join(model_names())}, or a config.json")
        return ModelSpec.named(model)
    try:
        found = json.loads(config)
    except ValueError as error:
        raise ValueError(f"config: is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"config: holds a {type(found).__name__}; an object is needed")
    return replace(ModelSpec.from_config(found), name=model)


def hash_of(config: str) -> str:
    """Eight letters that tell one config's text from another's."""
    import hashlib

    return hashlib.sha256(config.encode()).hexdigest()[:8]


def named_or_read(model: str) -> tuple[str, str | None]:
    """(name, config) of a model's name, or of a config.json, or of its folder; ValueError for what is neither."""
    if model in model_names():
        return model, None
    path = Path(model)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"model: got {model!r}; allowed are {', '.join(model_names())}, or a file config.json")
    spec = ModelSpec.from_config(path)
    text = json.loads(path.read_text(encoding="utf-8"))
    return spec.name, json.dumps({**text, **text.pop("text_config", {})}, sort_keys=True, separators=(",", ":"))
