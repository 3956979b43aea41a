"""A decoder's weights: their tensors, their format, and how they are built from a source, or at random.

`build` asks a source for one tensor after the other, by transformers' names, and fuses, casts and quantises each as it
comes: besides the finished weights, only one layer's floats are in memory at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields, replace
from itertools import groupby
from typing import Any, Protocol

import blockskip as bs
import torch
from blockskip.arguments import choice, flag
from blockskip.linear.packing import PACKINGS
from blockskip.linear.quantize import BITS
from torch import Tensor
from torch.autograd import profiler
from torch.nn import functional

from skiplab.model.config import LayerSpec, ModelSpec

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
PRODUCTS = {
    "q_proj+k_proj+v_proj": "qkv", "q_proj+k_proj": "qkv", "o_proj": "o", "gate_proj+up_proj": "gate+up",
    "down_proj": "down",
}  # fmt: skip
"""What a profile calls a layer's products; that of the logits is `head`."""


def named_range(name: str) -> AbstractContextManager:
    """What a profile shows by this name. Nothing where none is taken: entering a range costs as much as a launch."""
    return profiler.record_function(name) if profiler._is_profiler_enabled else nullcontext()


class Foreign(Protocol):
    """A weight that somebody else's kernel multiplies by, as a peer has it."""

    @property
    def nbytes(self) -> int: ...

    def product(self, x: Tensor) -> Tensor: ...

    def dequantize(self, dtype: torch.dtype) -> Tensor: ...


Stored = Tensor | bs.QuantizedWeight
Take = Callable[..., Stored]
"""take(name, *shape): the tensor of that name and shape, or a matrix that is quantised already."""


@dataclass(frozen=True)
class WeightFormat:
    """The format of weights. bits: 4 or 8, quantised by `blockskip.quantize`; None: floats of dtype.

    group_size, symmetric, metadata: as there; packing: rows or tiles (`QuantizedWeight.packed`); None leaves
    it to the device, as `quantize` does. head: whether the
    product that gives logits is quantised, too; the embedding, which it may be tied to, stays in dtype. What a source
    holds quantised stays as it is.
    """

    device: torch.device
    dtype: torch.dtype
    bits: int | None = 4
    group_size: int = 32
    symmetric: bool = False
    metadata: str = "bfloat16"
    packing: str | None = None
    head: bool = True

    def __post_init__(self):
        if self.dtype not in DTYPES:
            raise TypeError(f"dtype: given {self.dtype}; allowed are {', '.join(map(str, DTYPES))}")
        if self.bits is not None:
            choice("bits", self.bits, BITS)
        if self.packing is not None:
            choice("packing", self.packing, PACKINGS)
        flag("head", self.head)

    def cast(self, stored: Stored) -> Stored:
        """A tensor of a source on the device; floats in the dtype."""
        return stored.to(self.device) if isinstance(stored, bs.QuantizedWeight) else stored.to(self.device, self.dtype)

    def packed(self, weight: Tensor) -> Stored:
        """A product's weight [N, K], on the device and in the dtype, quantised if the format says so."""
        if self.bits is None:
            return weight
        made = bs.quantize(weight, self.bits, self.group_size, self.symmetric, self.metadata)
        return made if self.packing is None else made.packed(self.packing)


@dataclass(frozen=True, eq=False)
class Linear:
    """A linear layer. weights: [N, K] each, concatenated by rows, floats or quantised; bias: [N] or None.

    There is one weight, but where a file has quantised the parts of a fused product in several ways. name: what a
    profile calls it.
    """

    weights: tuple[Stored | Foreign, ...]
    bias: Tensor | None = None
    name: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        with named_range(self.name):
            if len(self.weights) == 1:
                return self._product(x, self.weights[0], self.bias)
            out = torch.cat([self._product(x, weight, None) for weight in self.weights], -1)
            return out if self.bias is None else out + self.bias

    def _product(self, x: Tensor, weight: Stored | Foreign, bias: Tensor | None) -> Tensor:
        if isinstance(weight, bs.QuantizedWeight):
            return bs.linear(x, weight, bias)
        if isinstance(weight, Tensor):
            return functional.linear(x, weight, bias)
        out = weight.product(x)
        return out if bias is None else out + bias

    def dequantized(self, dtype: torch.dtype) -> Linear:
        """The same layer with quantised weights as floats."""
        if all(isinstance(weight, Tensor) for weight in self.weights):
            return self
        return replace(self, weights=(_fused([_floats(weight, dtype) for weight in self.weights]),))

    @property
    def nbytes(self) -> int:
        return sum(weight.nbytes for weight in self.weights) + (0 if self.bias is None else self.bias.nbytes)


class PlainLinear(Linear):
    """The same product by `blockskip.linear`'s reference; of a foreign weight by the floats that it stands for."""

    def _product(self, x: Tensor, weight: Stored | Foreign, bias: Tensor | None) -> Tensor:
        if isinstance(weight, bs.QuantizedWeight):
            return bs.linear(x, weight, bias, impl="reference")
        return functional.linear(x, _floats(weight, x.dtype), bias)


class ExactLinear(Linear):
    """The same product in float64, its weight turned to floats in each call."""

    def _product(self, x: Tensor, weight: Stored | Foreign, bias: Tensor | None) -> Tensor:
        return functional.linear(x, _floats(weight, torch.float64), None if bias is None else bias.double())


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """One layer's weights. Norms are [size], offset included. Fused: qkv of q, k and v (or q and k), gate_up."""

    attention_norm: Tensor
    qkv: Linear
    q_norm: Tensor | None
    k_norm: Tensor | None
    sinks: Tensor | None
    output: Linear
    attention_out_norm: Tensor | None
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear
    mlp_out_norm: Tensor | None
    scalar: Tensor | None


@dataclass(frozen=True, eq=False)
class Weights:
    """The weights of a model. embedding: [vocabulary, hidden]; the head shares it if tied and not quantised."""

    embedding: Tensor
    layers: tuple[LayerWeights, ...]
    norm: Tensor
    head: Linear

    def linears(self) -> Iterator[tuple[str, Linear]]:
        """Every linear layer by name, from the first layer's to the head."""
        for i, layer in enumerate(self.layers):
            for name in ("qkv", "output", "gate_up", "down"):
                yield f"layers.{i}.{name}", getattr(layer, name)
        yield "head", self.head

    @property
    def nbytes(self) -> int:
        """Bytes of all weights; those of a tied head count once."""
        small = sum(_nbytes(getattr(layer, f.name)) for layer in self.layers for f in fields(layer))
        head = 0 if self.head.weights[0] is self.embedding else self.head.nbytes
        return self.embedding.nbytes + small + self.norm.nbytes + head

    def dequantized(self) -> Weights:
        """The same weights as floats, in the embedding's dtype."""
        dtype = self.embedding.dtype
        return self.mapped(lambda product: product.dequantized(dtype))

    def plain(self, exact: bool = False) -> Weights:
        """The same in plain PyTorch, as `PlainLinear` multiplies. exact: in float64, as `ExactLinear` does."""
        kind = ExactLinear if exact else PlainLinear
        return self.mapped(
            lambda product: kind(product.weights, product.bias, product.name), Tensor.double if exact else lambda t: t
        )

    def mapped(
        self, product: Callable[[Linear], Linear], vector: Callable[[Tensor], Tensor] = lambda tensor: tensor
    ) -> Weights:
        """Other products in the place of these, and other tensors in the place of all that is in no product."""

        def made(part: Tensor | Linear | None) -> Tensor | Linear | None:
            return part if part is None else vector(part) if isinstance(part, Tensor) else product(part)

        layers = tuple(replace(w, **{f.name: made(getattr(w, f.name)) for f in fields(w)}) for w in self.layers)
        return Weights(vector(self.embedding), layers, vector(self.norm), product(self.head))


def _nbytes(part: Tensor | Linear | None) -> int:
    return 0 if part is None else part.nbytes


def build(spec: ModelSpec, take: Take, held: WeightFormat) -> Weights:
    """The weights of a model from a source. Raises ValueError, naming it, for a product that cannot be held so."""
    return _assembled(spec, _Maker(take, held, spec.norm_offset))


def expected(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that `build` asks a source for."""
    names = _Namer({})
    _assembled(spec, names)
    return names.found


def _assembled(spec: ModelSpec, make: Any) -> Weights:
    """A model's weights, by transformers' names; `make` is a _Maker or a _Namer."""
    stored = make.matrix("model.embed_tokens.weight", spec.vocabulary, spec.hidden)
    embedding = make.floats(stored)
    layers = tuple(_layer(spec, layer, f"model.layers.{i}", make) for i, layer in enumerate(spec.layers))
    norm = make.norm("model.norm", spec.hidden)
    head = stored if spec.tied else make.matrix("lm_head.weight", spec.vocabulary, spec.hidden)
    return Weights(embedding, layers, norm, make.head(head))


def _layer(spec: ModelSpec, layer: LayerSpec, at: str, make: Any) -> LayerWeights:
    hidden, wide = spec.hidden, spec.intermediate
    queries, keys = layer.q_heads * layer.head_dim, layer.kv_heads * layer.head_dim
    projected = {"q_proj": queries, "k_proj": keys} | ({} if layer.key_is_value else {"v_proj": keys})
    mlp_norm = "pre_feedforward_layernorm" if spec.sandwich else "post_attention_layernorm"
    attention, mlp = f"{at}.self_attn", f"{at}.mlp"
    return LayerWeights(
        attention_norm=make.norm(f"{at}.input_layernorm", hidden),
        qkv=make.linear(attention, projected, hidden, spec.attention_bias),
        q_norm=make.norm(f"{attention}.q_norm", layer.head_dim) if spec.qk_norm else None,
        k_norm=make.norm(f"{attention}.k_norm", layer.head_dim) if spec.qk_norm else None,
        sinks=make.vector(f"{attention}.sinks", layer.q_heads) if spec.sinks else None,
        output=make.linear(attention, {"o_proj": hidden}, queries, spec.attention_bias),
        attention_out_norm=make.norm(f"{at}.post_attention_layernorm", hidden) if spec.sandwich else None,
        mlp_norm=make.norm(f"{at}.{mlp_norm}", hidden),
        gate_up=make.linear(mlp, {"gate_proj": wide, "up_proj": wide}, hidden, spec.mlp_bias),
        down=make.linear(mlp, {"down_proj": hidden}, wide, spec.mlp_bias),
        mlp_out_norm=make.norm(f"{at}.post_feedforward_layernorm", hidden) if spec.sandwich else None,
        scalar=make.vector(f"{at}.layer_scalar", 1) if spec.layer_scalar else None,
    )


@dataclass(frozen=True)
class _Maker:
    """Makes the parts of a model from a source."""

    take: Take
    held: WeightFormat
    norm_offset: float

    def matrix(self, name: str, rows: int, columns: int) -> Stored:
        return self.held.cast(self.take(name, rows, columns))

    def floats(self, stored: Stored) -> Tensor:
        return _floats(stored, self.held.dtype)

    def vector(self, name: str, size: int) -> Tensor:
        return self.floats(self.held.cast(self.take(name, size)))

    def norm(self, at: str, size: int) -> Tensor:
        stored = self.take(f"{at}.weight", size)
        return self.floats(self.held.cast(_floats(stored, torch.float32) + self.norm_offset))

    def linear(self, at: str, parts: Mapping[str, int], columns: int, bias: bool) -> Linear:
        """One linear layer of several with the same input, concatenated by rows."""
        stored = [self.matrix(f"{at}.{name}.weight", rows, columns) for name, rows in parts.items()]
        biases = [self.vector(f"{at}.{name}.bias", rows) for name, rows in parts.items()] if bias else []
        names = "+".join(parts)
        weights = tuple(self._packed(f"{at}.{names}", part, self.held) for part in _joined(stored))
        return Linear(weights, _fused(biases) if biases else None, PRODUCTS[names])

    def head(self, stored: Stored) -> Linear:
        held = self.held if self.held.head else replace(self.held, bits=None)
        return Linear((self._packed("lm_head", stored, held),), name="head")

    def _packed(self, name: str, stored: Stored, held: WeightFormat) -> Stored:
        try:
            return stored if isinstance(stored, bs.QuantizedWeight) else held.packed(stored)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def _floats(stored: Stored | Foreign, dtype: torch.dtype) -> Tensor:
    return stored.to(dtype) if isinstance(stored, Tensor) else stored.dequantize(dtype)


def _fused(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _joined(parts: list[Stored]) -> list[Stored]:
    """Weights concatenated by rows; neighbours of the same layout become one weight."""
    joined: list[Stored] = []
    for _, alike in groupby(parts, key=_layout):
        same: list[Any] = list(alike)
        if len(same) == 1:
            joined += same
        else:
            joined.append(torch.cat(same) if isinstance(same[0], Tensor) else bs.QuantizedWeight.stacked(same))
    return joined


def _layout(stored: Stored) -> tuple | None:
    """What weights must have in common to be concatenated; None for floats."""
    if isinstance(stored, Tensor):
        return None
    return stored.dtype, *((name, t.dtype, t.shape[1:]) for name, t in stored.named_tensors().items())


@dataclass(frozen=True)
class _Namer:
    """Collects the names and shapes that a _Maker would ask for."""

    found: dict[str, tuple[int, ...]]

    def matrix(self, name: str, rows: int, columns: int) -> None:
        self.found[name] = (rows, columns)

    def vector(self, name: str, size: int) -> None:
        self.found[name] = (size,)

    def norm(self, at: str, size: int) -> None:
        self.vector(f"{at}.weight", size)

    def linear(self, at: str, parts: Mapping[str, int], columns: int, bias: bool) -> None:
        for name, rows in parts.items():
            self.matrix(f"{at}.{name}.weight", rows, columns)
            if bias:
                self.vector(f"{at}.{name}.bias", rows)

    def floats(self, stored: None) -> None:
        pass

    def head(self, stored: None) -> None:
        pass


def random_tensors(spec: ModelSpec, held: WeightFormat, seed: int) -> Take:
    """A source of chance, on the device: matrices of K columns with deviation K ** -0.5, norms that change nothing.

    But queries' norms, which give scores a deviation of 1: larger ones make one key of all, and roundings choose which.
    """
    generator = torch.Generator(held.device).manual_seed(seed)
    one = torch.ones((), dtype=held.dtype, device=held.device)

    def take(name: str, *shape: int) -> Tensor:
        if name.endswith("q_norm.weight"):
            layer = spec.layers[int(name.split(".")[2])]  # model.layers.3.self_attn.q_norm.weight
            return (one / (layer.scale * layer.head_dim**0.5) - spec.norm_offset).expand(shape)
        if name.endswith("norm.weight"):
            return (one - spec.norm_offset).expand(shape)
        if name.endswith("layer_scalar"):
            return one.expand(shape)
        made = torch.randn(shape, generator=generator, dtype=held.dtype, device=held.device)
        return made.mul_(shape[1] ** -0.5) if len(shape) == 2 else made

    return take
