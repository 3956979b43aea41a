"""The ladder: the whole model from the reference's first kernels to ours, each rung one choice more than the one below.

A rung is our decoder with another `attend`, other products or other steps between them; the last one is `blockskip`.
The rungs are in the order in which ExecuTorch's pull request 20198, and what followed it, took them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import blockskip as bs
import torch
from blockskip.linear.activations import MOST_ROWS
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from skiplab.contenders.base import REGISTRY, Build, Contender, is_cuda
from skiplab.contenders.model import LAST, SEED, DecoderRunner, ModelCall, pieces_of, references, too_large
from skiplab.model import Decoder, LayerSpec
from skiplab.model.attention import Attend, Keys, Masks
from skiplab.model.weights import LayerWeights, Linear, Weights
from skiplab.workload import ModelWorkload

if TYPE_CHECKING:
    from blockskip.linear.format import Metadata

BOTH = ("prefill", "decode")
CHANGES = MappingProxyType({"skip": ("prefill",), "form": ("decode",), "split": ("decode",),
                            "joined": BOTH, "fused": BOTH, "tiles": BOTH})  # fmt: skip
"""The switches, and the phases whose time each changes."""


@dataclass(frozen=True)
class Rung:
    """One rung. name: of its contender; added: what it has that the one below lacks, or what the first one is.

    skip: how prompts' attention leaves tiles out (none, mask, bounds). form: the int4 product of a step, by its name in
    `ablations.FORMS`: `both` has strided metadata and 4-byte loads, `scalar` 4-byte loads alone, `none` neither.
    split: whether a step's keys are divided among programs. joined: whether q, k and v are one product, and gate and
    up. fused: whether what stands between products is few kernels. tiles: whether weights are packed as `quantize`
    packs them for the device (tiles on Hopper), not in rows.
    """

    name: str
    added: str
    skip: str = "none"
    form: str = "both"
    split: bool = False
    joined: bool = False
    fused: bool = False
    tiles: bool = False

    def switches(self, phase: str) -> tuple[Any, ...]:
        """Those that matter in that phase."""
        return tuple(getattr(self, name) for name, phases in CHANGES.items() if phase in phases)


def _rungs() -> tuple[Rung, ...]:
    first = Rung("ladder-1-dense", "the first kernels")
    steps: tuple[tuple[str, str, dict[str, Any]], ...] = (
        ("ladder-2-mask", "skip by mask", {"skip": "mask"}),
        ("ladder-3-bounds", "skip by bounds", {"skip": "bounds"}),
        ("ladder-4-coalesced", "coalesced metadata", {"form": "scalar"}),
        ("ladder-5-splits", "split-K", {"split": True}),
        ("ladder-6-vector", "16-byte loads", {"form": "none"}),
        ("ladder-7-joined", "joined products", {"joined": True}),
        ("ladder-8-fused", "fused pointwise", {"fused": True}),
        ("blockskip", "aligned products", {"tiles": True}),
    )
    rungs = [first]
    for name, added, changed in steps:
        rungs.append(replace(rungs[-1], name=name, added=added, **changed))
    return tuple(rungs)


RUNGS = _rungs()
LADDER = tuple(rung.name for rung in RUNGS)
"""The contenders of the ladder, from the lowest rung to ours."""


def rung_of(name: str) -> Rung | None:
    """The rung of a contender's name; None for a contender that is none."""
    return next((rung for rung in RUNGS if rung.name == name), None)


@cache
def same_as(name: str, phase: str) -> str:
    """The lowest rung that does the same in that phase; the name itself of a contender that is no rung."""
    rung = rung_of(name)
    if rung is None:
        return name
    return next(other.name for other in RUNGS if other.switches(phase) == rung.switches(phase))


def adds(phase: str) -> dict[str, str]:
    """What each rung adds in that phase, by name, from the lowest: rungs that add nothing there are left out."""
    first = {"prefill": "dense + mask", "decode": "one program a head, strided, 4-byte loads"}
    changed = (top for below, top in pairwise(RUNGS) if below.switches(phase) != top.switches(phase))
    return {RUNGS[0].name: first[phase], **{rung.name: rung.added for rung in changed}}


def dense(q: Tensor, keys: Keys, layer: LayerSpec, options: dict[str, Any], masks: Masks) -> Tensor:
    """A prompt's attention by torch over all pairs, with a mask of bools: the first rung where there is no Triton."""
    sizes = q.shape[2], (keys.k if keys.filled is None else keys.k[:, :, : keys.filled]).shape[2]
    key = layer.window, *sizes
    if key not in masks:
        masks[key] = layer.mask.dense(*sizes, device=q.device)
    k, v = (t[:, :, : sizes[1]] for t in (keys.k, keys.v))
    return scaled_dot_product_attention(q, k, v, masks[key], enable_gqa=q.shape[1] > k.shape[1], **options)


def attend_of(rung: Rung, kernels: bool) -> Attend:
    """The rung's attention. kernels: by Triton's kernels, as on a GPU; else by PyTorch, which knows fewer choices.

    Masks are kept: what kernels read of one on the device is made once, and belongs to it.
    """
    mask_of = cache(lambda layer: layer.mask)
    how: dict[str, Any] = {"skip": rung.skip, "impl": "triton"} if kernels else {}
    step: dict[str, Any] = {} if not kernels else {"impl": "triton", "splits": "auto" if rung.split else 1}

    def attend(q: Tensor, keys: Keys, layer: LayerSpec, options: dict[str, Any], masks: Masks) -> Tensor:
        if keys.ends is not None:
            given = {"kv_len": keys.ends, "window": layer.window, "ring": keys.ring}
            return bs.decode(q, keys.k, keys.v, **given, **step, **options)
        if rung.skip == "none" and not kernels:
            return dense(q, keys, layer, options, masks)
        return bs.attention(q, keys.k, keys.v, mask_of(layer), kv_len=keys.filled, **how, **options)

    return attend


@dataclass(frozen=True, eq=False)
class MatvecWeight:
    """A weight in rows whose product with few rows is the matvec without one of its choices; with more, `linear`'s.

    metadata: as this form reads it.
    """

    source: bs.QuantizedWeight
    metadata: Metadata
    form: str

    @classmethod
    def of(cls, w: bs.QuantizedWeight, form: str) -> MatvecWeight:
        from skiplab.contenders import ablations

        return cls(w, ablations.metadata_as_read(w, ablations.FORMS[form]), form)

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def product(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N]; the matvec has the sizes that `linear` would give it."""
        rows = x.flatten(0, -2)
        if rows.shape[0] > MOST_ROWS:
            return bs.linear(x, self.source)
        from skiplab.contenders import ablations

        config: Any = bs.explain_linear(rows, self.source, impl="triton", route="matvec").config
        out = ablations.product(rows, self.source, self.metadata, config, ablations.FORMS[self.form])
        return out.unflatten(0, x.shape[:-1])

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        return self.source.dequantize(dtype)


def apart(linear: Linear, sizes: Sequence[int]) -> Linear:
    """A product of several joined ones as products of their own, of so many rows each; views of the same weight.

    Their results are put together afterwards, which is charged to them: our decoder wants one tensor.
    """
    (weight,) = linear.weights
    assert isinstance(weight, bs.QuantizedWeight) and sum(sizes) == weight.shape[0]
    parts = {name: t.split(list(sizes)) for name, t in weight.named_tensors().items()}
    rows = [{name: pieces[i] for name, pieces in parts.items()} for i in range(len(sizes))]
    return replace(linear, weights=tuple(replace(weight, **one) for one in rows))


def _all_apart(layer: LayerSpec, w: LayerWeights) -> LayerWeights:
    queries, keys = layer.q_heads * layer.head_dim, layer.kv_heads * layer.head_dim
    heads = (queries, keys) if layer.key_is_value else (queries, keys, keys)
    half = w.gate_up.weights[0].shape[0] // 2  # pyright: ignore[reportAttributeAccessIssue] - it is quantised
    return replace(w, qkv=apart(w.qkv, heads), gate_up=apart(w.gate_up, (half, half)))


def climbed(base: Decoder, rung: Rung, kernels: bool) -> Decoder:
    """A decoder of weights in rows, as that rung has it; weights are shared."""
    weights: Weights = base.weights
    if not rung.joined:
        layers = zip(base.spec.layers, weights.layers, strict=True)
        weights = replace(weights, layers=tuple(_all_apart(*one) for one in layers))
    if kernels and rung.form != "none":
        weights = weights.mapped(partial(_in_form, rung.form))
    return Decoder(base.spec, weights, attend=attend_of(rung, kernels), fused=rung.fused)


def _in_form(form: str, linear: Linear) -> Linear:
    made = [MatvecWeight.of(w, form) if isinstance(w, bs.QuantizedWeight) else w for w in linear.weights]
    return replace(linear, weights=tuple(made))


def in_rows(workload: ModelWorkload, device: str) -> Decoder:
    """Our decoder with weights in rows, which all rungs but the last share."""
    held = {"dtype": workload.torch_dtype, "bits": workload.bits, "group_size": workload.group_size}
    return Decoder.random(workload.spec, device=device, seed=SEED, packing="rows", **held)


def build_of(rung: Rung, kernels: bool | None = None) -> Build:
    """What the rung's contender builds with. kernels: see `attend_of`; None: where the inputs are on a GPU."""

    def build(workload: ModelWorkload, inputs: Sequence[Tensor]) -> ModelCall:
        base = LAST.get(in_rows, workload, inputs[0].device)
        decoder = climbed(base, rung, inputs[0].is_cuda if kernels is None else kernels)
        pieces = pieces_of(workload.whole_spec, decoder) if workload.by_kind else ()
        return ModelCall(workload, DecoderRunner(decoder), pieces)

    return build


def _supports(rung: Rung, workload: ModelWorkload, device: str) -> str | None:
    spec = workload.whole_spec
    if not is_cuda(device):
        if _is_of_kernels(rung, workload.phase):
            return f"{adds(workload.phase).get(rung.name, rung.added)}: of our Triton kernels, which need CUDA"
        if rung.skip == "none" and (spec.sinks or spec.attention_softcap is not None):
            return "dense + mask on a CPU is SDPA's, which knows no attention sinks and no soft cap of scores"
    return too_large(workload, device, workload.bits)


def _is_of_kernels(rung: Rung, phase: str) -> bool:
    """Whether PyTorch has no such rung: its products and steps are without these choices, and nothing is fused."""
    return rung.fused or (rung.skip == "mask" if phase == "prefill" else not rung.joined)


OPERANDS = partial(references, make=in_rows)


for _number, _rung in enumerate(RUNGS[:-1], start=1):
    _summary = f"our decoder as it was on rung {_number} of {len(RUNGS)}: {_rung.added}"
    _entry = Contender(_rung.name, f"{_number}: {_rung.added}", _summary, build_of(_rung), partial(_supports, _rung),
                       operands=OPERANDS)  # fmt: skip
    REGISTRY.add(_entry.of("model"))
del _number, _rung, _summary, _entry
