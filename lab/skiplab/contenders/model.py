"""A whole model: our decoder, the same one with torch's attention and products, transformers, and llama.cpp.

What a contender builds is a `ModelCall`, around a `Runner` that reads prompts and steps. Weights are random, of one
seed, so that every contender has the same; the model of the contender that was asked last is kept: points share it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import blockskip as bs
import torch
from torch import Tensor

from skiplab.contenders.base import REGISTRY, Build, Contender, Unsupported, is_cuda
from skiplab.contenders.linear import TINYGEMM_INNER, TinygemmWeight, tinygemm_reason
from skiplab.machine import free_bytes
from skiplab.model import Decoder, ModelSpec
from skiplab.model.attention import by_sdpa
from skiplab.model.weights import Linear
from skiplab.workload import ModelWorkload
from skiplab.workload.model import parameters

SEED = 0
"""Of all weights."""
TIMES = 4
"""How often one layer runs in a model that is timed for its kind: what is around the layers is taken off less often."""
Inputs = Sequence[Tensor]


class Runner(Protocol):
    """A model that reads prompts, and steps behind them: one sequence, ids int64 [1, tokens].

    named: whether a profile of it has the names of `Decoder`'s parts.
    """

    @property
    def named(self) -> bool: ...

    def is_graph(self, phase: str, tokens: int) -> bool:
        """Whether calls of so many tokens are a CUDA graph, once a few were made."""
        ...

    def prefill(self, ids: Tensor, *, graph: bool | None = None) -> Tensor:
        """Reads a prompt, forgetting what was before: logits float32 [1, 1, vocabulary] of its last token."""
        ...

    def begin(self, depth: int, room: int) -> None:
        """As if a prompt of `depth` tokens had been read; `room` more will be."""
        ...

    def step(self, ids: Tensor, *, graph: bool | None = None) -> Tensor:
        """Reads some more: logits float32 [1, tokens, vocabulary]. graph=False: launched one by one, for a profile."""
        ...


@dataclass(frozen=True)
class ModelCall:
    """What a contender of `model` builds: called with a short prompt's ids it gives the logits to check.

    pieces: what is timed, with factors whose sum stands for the whole: the runner itself, once; or, of a model of one
    layer of each kind, models that run one of them and none.
    """

    workload: ModelWorkload
    runner: Runner
    pieces: tuple[tuple[float, Runner], ...] = ()

    def __call__(self, ids: Tensor) -> Tensor:
        if self.workload.phase == "prefill":
            return self.runner.prefill(ids)[0]
        self.runner.prefill(ids[:, : -self.workload.q_len])
        return self.runner.step(ids[:, -self.workload.q_len :])[0]

    @property
    def timed(self) -> tuple[tuple[float, Runner], ...]:
        return self.pieces or ((1, self.runner),)


@dataclass(frozen=True, eq=False)
class DecoderRunner:
    """A `Decoder` as a `Runner`."""

    decoder: Decoder
    named: bool = True

    def is_graph(self, phase: str, tokens: int) -> bool:
        return self.decoder.graphs if phase == "decode" else self.decoder.is_graph(tokens)

    def prefill(self, ids: Tensor, *, graph: bool | None = None) -> Tensor:
        return self.decoder.prefill(ids, graph=graph)

    def begin(self, depth: int, room: int) -> None:
        self.decoder.fill(depth + room)  # first: then the cache does not grow while steps are timed
        self.decoder.fill(depth)

    def step(self, ids: Tensor, *, graph: bool | None = None) -> Tensor:
        return self.decoder.step(ids, graph=graph)


def pieces_of(whole: ModelSpec, decoder: Decoder) -> tuple[tuple[float, Runner], ...]:
    """Of a decoder of one layer of each kind: models that run one of its layers some times, and one that holds none.

    The whole takes what the empty one does, and for each layer of a kind what that kind's adds to it.
    """
    spec, weights = decoder.spec, decoder.weights

    def model(kind: int, times: int) -> Runner:
        layers = (spec.layers[kind],) * times, (weights.layers[kind],) * times
        parts = replace(spec, layers=layers[0]), replace(weights, layers=layers[1])
        return DecoderRunner(Decoder(*parts, attend=decoder.attend, fused=decoder.fused))

    factors = [count / TIMES for count in whole.kinds.values()]
    kinds = tuple((factor, model(kind, TIMES)) for kind, factor in enumerate(factors))
    return ((1 - sum(factors), model(0, 0)), *kinds)


class LastModel:
    """The model that was asked for last; the one before is let go first: two rarely fit."""

    def __init__(self) -> None:
        self._key: Any = None
        self._model: Any = None

    def get(self, make: Callable[..., Any], workload: ModelWorkload, device: Any, keep: bool = True) -> Any:
        """`make(workload, device)` for any point of the workload's model; Unsupported where it cannot be held so.

        keep=False: where it is another one than the last, it is its caller's alone.
        """
        model = replace(workload, phase="prefill", q_len=1, depth=0, steps=None)
        key = (make, model, str(torch.device(device)))
        if key == self._key:
            return self._model
        if keep:
            self._key = self._model = None
        try:
            made = make(model, key[2])
        except ValueError as error:  # such as inputs that groups do not divide
            raise Unsupported(str(error)) from error
        if keep:
            self._key, self._model = key, made
        return made


LAST = LastModel()


def ours(workload: ModelWorkload, device: str) -> Decoder:
    held = {"dtype": workload.torch_dtype, "bits": workload.bits, "group_size": workload.group_size}
    return Decoder.random(workload.spec, device=device, seed=SEED, **held)


def floats(workload: ModelWorkload, device: str) -> Decoder:
    """SDPA, and the weights as they are."""
    made = Decoder.random(workload.spec, device=device, dtype=workload.torch_dtype, bits=None, seed=SEED)
    return Decoder(workload.spec, made.weights, attend=by_sdpa)


def tinygemm(workload: ModelWorkload, device: str) -> Decoder:
    """SDPA, and torch's int4 products, of our decoder's weights."""

    def product(linear: Linear) -> Linear:
        (weight,) = linear.weights
        assert isinstance(weight, bs.QuantizedWeight)
        return replace(linear, weights=(TinygemmWeight.of(weight),))

    return Decoder(workload.spec, ours(workload, device).weights.mapped(product), attend=by_sdpa)


def _build(make: Callable[..., Decoder]) -> Build:
    def build(workload: ModelWorkload, inputs: Inputs) -> ModelCall:
        decoder = LAST.get(make, workload, inputs[0].device)
        pieces = pieces_of(workload.whole_spec, decoder) if workload.by_kind else ()
        return ModelCall(workload, DecoderRunner(decoder), pieces)

    return build


def references(workload: ModelWorkload, inputs: Inputs, make: Callable[..., Decoder] = floats) -> Any:
    """The contender's own weights in plain PyTorch, twice: in float64, and rounded as the contender rounds."""
    decoder = LAST.get(make, workload, inputs[0].device, keep=False)
    return decoder.plain(exact=True), decoder.plain()


def weight_bytes(workload: ModelWorkload) -> int:
    """What a call of the float weights moves, all of it."""
    return workload.work(quantised=False).bytes


def too_large(workload: ModelWorkload, device: str, bits: float) -> str | None:
    """Why the model does not fit, with so many bits a weight, or None; its cache is not counted."""
    needed, free = parameters(workload.spec) * bits / 8, free_bytes(device)
    if free is None or needed < free:
        return None
    hint = "" if workload.by_kind else "; --by-kind times one layer of each kind"
    return f"too large: its weights take {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB are free on {device}{hint}"


def _needs_memory(workload: ModelWorkload, device: str) -> str | None:
    return too_large(workload, device, workload.bits)


def _needs_sdpa(workload: ModelWorkload, device: str) -> str | None:
    spec = workload.whole_spec
    if spec.sinks or spec.attention_softcap is not None:
        return "SDPA knows no attention sinks and no soft cap of scores"
    return too_large(workload, device, 8 * workload.element_bytes)


def _needs_tinygemm(workload: ModelWorkload, device: str) -> str | None:
    spec = workload.whole_spec
    if spec.sinks or spec.attention_softcap is not None:
        return _needs_sdpa(workload, device)
    if workload.bits != 4 or workload.dtype != "bfloat16":
        return "tinygemm takes int4 weights and bfloat16 activations"
    wide = [spec.hidden, spec.intermediate, *(layer.q_heads * layer.head_dim for layer in spec.kinds)]
    if any(size % (16 * TINYGEMM_INNER) for size in wide) or spec.vocabulary % 16:
        return "tinygemm needs products whose outputs are a multiple of 16 and inputs of 128"
    return tinygemm_reason(is_cuda(device)) or _needs_memory(workload, device)


def _needs_file(workload: ModelWorkload, device: str) -> str | None:
    return "its times come from its own program: skiplab model ... --llama-bench PATH"


def _nothing(workload: ModelWorkload, inputs: Inputs) -> Any:
    raise Unsupported(_needs_file(workload, "") or "")


for _entry in (
    Contender("blockskip", "blockskip", "our decoder: quantised weights, our attention; steps are CUDA graphs",
              _build(ours), _needs_memory, operands=partial(references, make=ours)),
    Contender("sdpa", "SDPA, float weights", "the same decoder with torch's SDPA and weights in the dtype",
              _build(floats), _needs_sdpa, operands=references, moved=weight_bytes),
    Contender("tinygemm", "SDPA, tinygemm", "the same decoder with torch's SDPA and torch's int4 products",
              _build(tinygemm), _needs_tinygemm, operands=partial(references, make=tinygemm)),
    Contender("llama.cpp", "llama.cpp", "llama.cpp, as its llama-bench times it: --llama-bench", _nothing, _needs_file),
):  # fmt: skip
    REGISTRY.add(_entry.of("model"))
del _entry
