"""transformers' own model, with the weights that the other contenders of `model` have."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from skiplab.contenders.base import REGISTRY, Build, Contender, is_cuda
from skiplab.contenders.model import LAST, SEED, Inputs, ModelCall, references, too_large, weight_bytes
from skiplab.model.sources import text_names
from skiplab.model.weights import WeightFormat, expected, random_tensors
from skiplab.paths import data_path
from skiplab.workload import ModelWorkload

CHUNK = 2048
"""Tokens of a prompt that are read at a time to fill a cache, untimed."""
OURS = ("name", "source")
"""Keys of a file in `data/models` that a config.json does not have."""


@dataclass(eq=False)
class HuggingFace:
    """A causal language model of transformers as a `Runner`.

    Prompts go into the cache that it makes itself, steps into a static one. compiled: whether steps are compiled, with
    CUDA graphs; what is read before a step then goes into a static cache, too. ring: whether static caches are
    blockskip's, for models under its attention.
    """

    model: Any
    compiled: bool = False
    ring: bool = False
    named: bool = False
    cache: Any = None
    _step: Callable[..., Any] = field(init=False)
    _cache_name: str = field(init=False)

    def __post_init__(self) -> None:
        known = inspect.signature(self.model.forward).parameters
        self._cache_name = "cache" if "cache" in known else "past_key_values"  # what this transformers calls it
        self._step = torch.compile(self.model, mode="reduce-overhead") if self.compiled else self.model

    def is_graph(self, phase: str, tokens: int) -> bool:
        return self.compiled and phase == "decode"

    @torch.no_grad()
    def prefill(self, ids: Tensor, *, graph: bool | None = None) -> Tensor:
        self.cache = self._static(ids.shape[1] + CHUNK) if self.compiled else None
        return self._read(ids)

    @torch.no_grad()
    def begin(self, depth: int, room: int) -> None:
        self.cache = None  # its memory first
        self.cache = self._static(depth + room)
        generator = torch.Generator(self.model.device).manual_seed(SEED)
        for start in range(0, depth, CHUNK):
            shape = (1, min(CHUNK, depth - start))
            words = self.model.config.vocab_size
            self._read(torch.randint(words, shape, generator=generator, dtype=torch.int64, device=self.model.device))

    @torch.no_grad()
    def step(self, ids: Tensor, *, graph: bool | None = None) -> Tensor:
        return self._step(**self._inputs(ids)).logits.float()

    def _inputs(self, ids: Tensor) -> dict[str, Any]:
        """A step's arguments: as `generate` has them, with positions and masks made outside, where it is compiled.

        Inside they would depend on an int: how many tokens a layer with a window counts. A ring has none.
        """
        given = {"use_cache": True, self._cache_name: self.cache}
        if self.ring or not self.compiled:
            return {"input_ids": ids, **given}
        position_ids = (
            torch.arange(ids.shape[1], dtype=torch.int64, device=ids.device)[None] + self.cache.get_seq_length()
        )
        return self.model.prepare_inputs_for_generation(ids, position_ids=position_ids, **given)

    def _read(self, ids: Tensor) -> Tensor:
        out = self.model(ids, use_cache=True, logits_to_keep=1, **{self._cache_name: self.cache})
        self.cache = getattr(out, self._cache_name)
        return out.logits.float()

    def _static(self, positions: int) -> Any:
        from blockskip.integrations.transformers import ring_cache
        from transformers import StaticCache

        if self.ring:
            return ring_cache(self.model.config, positions)
        return StaticCache(config=self.model.config, max_cache_len=positions)


def made(workload: ModelWorkload, device: str, attention: str) -> Any:
    """The model in transformers, on the device, its weights those of `Decoder.random`."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**_config(workload))
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=workload.torch_dtype, attn_implementation=attention)
    spec, tensors = workload.spec, model.state_dict()
    take = random_tensors(spec, WeightFormat(torch.device(device), workload.torch_dtype, None), SEED)
    names = text_names(tensors)
    for name, shape in expected(spec).items():
        tensors[names[name]].copy_(take(name, *shape))
    return model.eval().requires_grad_(False)


def _config(workload: ModelWorkload) -> dict[str, Any]:
    """What a config.json of the model holds."""
    text = workload.config or data_path("models", f"{workload.model}.json").read_text(encoding="utf-8")
    return {key: value for key, value in json.loads(text).items() if key not in OURS}


EAGER, SDPA = (partial(made, attention=name) for name in ("eager", "sdpa"))


def _build(make: Callable[..., Any], compiled: bool = False) -> Build:
    def build(workload: ModelWorkload, inputs: Inputs) -> ModelCall:
        return ModelCall(workload, HuggingFace(LAST.get(make, workload, inputs[0].device), compiled))

    return build


def _needs_transformers(workload: ModelWorkload, device: str) -> str | None:
    if importlib.util.find_spec("transformers") is None:
        return "transformers is not installed: pip install transformers"
    if workload.by_kind:
        return "--by-kind takes our own decoder apart; transformers runs a model whole"
    return too_large(workload, device, 8 * workload.element_bytes)


def _needs_both(workload: ModelWorkload, device: str) -> str | None:
    if not is_cuda(device):
        return "its compiled steps are CUDA graphs"
    return _needs_transformers(workload, device)


for _entry in (
    Contender("transformers", "transformers, SDPA", "transformers' model, attention by SDPA; steps in a static cache",
              _build(SDPA), _needs_transformers, operands=references, moved=weight_bytes),
    Contender("transformers-eager", "transformers, eager", "the same with attention written out",
              _build(EAGER), _needs_transformers, operands=references, moved=weight_bytes),
    Contender("transformers-compiled", "transformers, compiled", "the same with SDPA; steps compiled, in a CUDA graph",
              _build(SDPA, compiled=True), _needs_both, operands=references, moved=weight_bytes),
):  # fmt: skip
    REGISTRY.add(_entry.of("model"))
del _entry
