"""A decoder-only transformer in plain PyTorch: from a token's embedding to its logits.

Shapes: B batch, T tokens, H heads, D head_dim. Prompts are read in chunks; short ones, and steps of a few tokens behind
them, are a CUDA graph where there is a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from blockskip.arguments import choice, flag, integer, tensor
from blockskip.attention.decode.plan import LONGEST_QUERY
from blockskip.pointwise.api import gated, residual_norm, rotated_heads
from blockskip.pointwise.call import HeadLayout, HeadNorms, Rotation
from torch import Tensor
from torch.nn import functional

from skiplab.model.attention import Attend, by_blockskip, by_sdpa
from skiplab.model.cache import GROWTH, Cache, Chunk, LayerCache, StepTokens
from skiplab.model.config import LayerSpec, ModelSpec
from skiplab.model.files import GGUF, Safetensors
from skiplab.model.graph import captured
from skiplab.model.prompts import Prompts
from skiplab.model.sources import StateDict, tensors_of
from skiplab.model.weights import LayerWeights, WeightFormat, Weights, build, named_range, random_tensors

CHUNK = 8192
"""Tokens of a prompt that are read at a time, unless told otherwise: it bounds the memory of what is in between."""
SHORT_PROMPT = 1024
"""Tokens up to which a prompt is a CUDA graph, from the second of its length on: the host would take longer to launch
its layers than a GPU to compute them."""
MOST_PROMPTS = 4
"""Lengths of prompts whose graphs are kept."""


class Decoder:
    """A model that reads a batch of prompts, and then a few tokens at a time. Inference only.

        model = Decoder.random(ModelSpec.named("laptop"))
        logits = model.prefill(ids)
        while ...:
            logits = model.step(logits[:, -1:].argmax(-1))

    spec, weights: what it is made of. graphs: whether steps and short prompts are CUDA graphs; None: where the weights
    are on a GPU.
    growth: positions that the cache grows by. cache: of the batch that was read last; None before that.
    attend: who computes attention, `attention.by_blockskip` or `by_sdpa`. fused: whether blockskip's kernels do what
    stands between products, where the weights are on a GPU; else PyTorch does. torch's profiler sees attention and
    products by the names in `attention_name` and `Linear.name`.
    """

    def __init__(
        self,
        spec: ModelSpec,
        weights: Weights,
        graphs: bool | None = None,
        growth: int = GROWTH,
        attend: Attend = by_blockskip,
        fused: bool = True,
    ):
        self.spec, self.weights, self.attend = spec, weights, attend
        self.fused = flag("fused", fused)
        self._impl = "auto" if fused else "reference"
        self.graphs = self.device.type == "cuda" if graphs is None else flag("graphs", graphs)
        self.growth = integer("growth", growth, least=1)
        self.cache: Cache | None = None
        self._frequencies = {
            (layer.rope, layer.head_dim): layer.rope.frequencies(layer.head_dim, self.device) for layer in spec.kinds
        }
        self._windows = {layer.window for layer in spec.kinds}
        self._embedding_scale = torch.tensor(spec.embedding_scale, dtype=self.dtype, device="cpu").item()
        self._steps: dict[int, Callable[[Tensor], Tensor]] = {}
        self._prompts: dict[tuple[int, ...], Callable[[Tensor], Tensor] | None] = {}
        self._last_step = 0

    @classmethod
    def random(
        cls,
        spec: ModelSpec,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        bits: int | None = 4,
        seed: int = 0,
        **options: Any,
    ) -> Decoder:
        """Of random weights, made on the device. bits, options: see `WeightFormat`; bits=None leaves them in dtype."""
        held = WeightFormat(torch.device(device), dtype, bits, **options)
        return cls(spec, build(spec, random_tensors(spec, held, integer("seed", seed)), held))

    @classmethod
    def from_transformers(
        cls,
        model: Any,
        *,
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        bits: int | None = None,
        **options: Any,
    ) -> Decoder:
        """Of a causal language model of transformers, whose tensors are shared where nothing is fused or cast.

        device, dtype: the model's where None. bits, options: see `WeightFormat`.
        """
        spec = ModelSpec.from_config(model.config.to_dict())
        held = WeightFormat(torch.device(device or model.device), dtype or model.dtype, bits, **options)
        return cls(spec, build(spec, tensors_of(StateDict(model.state_dict()), spec), held))

    @classmethod
    def load(
        cls,
        path: str | PathLike[str],
        *,
        spec: ModelSpec | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.bfloat16,
        bits: int | None = 4,
        **options: Any,
    ) -> Decoder:
        """Of a local folder of safetensors, or a GGUF file, read and quantised one product at a time.

        spec: the folder's config.json where None; a GGUF file needs it. What is quantised in the file stays as it is.
        bits, options: see `WeightFormat`. Raises ValueError naming tensors that are missing, left over or misshapen.
        """
        held = WeightFormat(torch.device(device), dtype, bits, **options)
        if Path(path).suffix != ".gguf":
            spec = spec or ModelSpec.from_config(path)
            return cls(spec, build(spec, tensors_of(Safetensors(path), spec), held))
        if spec is None:
            raise ValueError("spec: None with a GGUF file, which does not say all of it; give a ModelSpec")
        return cls(spec, build(spec, tensors_of(GGUF(path, spec), spec), held))

    def dequantized(self) -> Decoder:
        """The same model by the floats that its quantised weights stand for."""
        return Decoder(self.spec, self.weights.dequantized(), self.graphs, self.growth, self.attend, self.fused)

    def plain(self, exact: bool = False) -> Decoder:
        """The same model in plain PyTorch, nothing captured: what another result is compared with.

        Products are `blockskip.linear`'s reference, which rounds what it rounds, attention is SDPA's. exact: in float64
        all through, weights turned to floats one product at a time, activations rounded nowhere.
        """
        made = Decoder(self.spec, self.weights.plain(exact), False, self.growth, by_sdpa, fused=False)
        made._embedding_scale = self._embedding_scale  # rounded to our dtype: it is a weight like any other
        return made

    @property
    def device(self) -> torch.device:
        return self.weights.embedding.device

    @property
    def dtype(self) -> torch.dtype:
        return self.weights.embedding.dtype

    @torch.inference_mode()
    def prefill(
        self,
        ids: Tensor,
        *,
        lengths: Sequence[int] | Tensor | None = None,
        chunk: int | None = None,
        logits: str = "last",
        graph: bool | None = None,
    ) -> Tensor:
        """Reads prompts, forgetting those before, and returns logits float32 [B, 1 or L, vocabulary].

        ids: int64 [B, L]. lengths: how many of each row are real, the last ones (left padding); all where None. chunk:
        tokens read at a time, CHUNK by default; it bounds memory, and changes roundings alone. logits: last | all;
        those of padding are 0. graph: whether a short prompt may be one; None: as the decoder's `graphs`.
        """
        self._check_ids(ids)
        choice("logits", logits, ("last", "all"))
        size = CHUNK if chunk is None else integer("chunk", chunk, least=1)
        prompts = Prompts.of(ids, lengths)
        cache, real = self._emptied(*ids.shape), prompts.lengths
        if real is None and logits == "last" and ids.shape[1] <= size and self.is_graph(ids.shape[1], graph):
            run = self._prompt(ids)
            out = run(ids)
            cache.begin(prompts.counts)
            return out
        logits_of_chunks: list[Tensor] = []
        last = torch.empty((ids.shape[0], 1, self.spec.hidden), dtype=self.dtype, device=self.device)
        for start, part in prompts.chunks(size):
            hidden = self._forward(part, Chunk.of(part, start, real, self._windows))
            for row, column in prompts.last_of(start, part.shape[1]):
                last[row, 0] = hidden[row, column]
            if logits == "all":
                logits_of_chunks.append(self._logits(hidden))
        cache.begin(prompts.counts)
        return prompts.padded(torch.cat(logits_of_chunks, 1)) if logits == "all" else self._logits(last)

    def is_graph(self, tokens: int, graph: bool | None = None) -> bool:
        """Whether a prompt of so many tokens is a CUDA graph, once its length is known."""
        return (self.graphs if graph is None else flag("graph", graph)) and tokens <= SHORT_PROMPT

    def _prompt(self, ids: Tensor) -> Callable[[Tensor], Tensor]:
        """What reads prompts of this shape: from the second on a graph."""
        shape, cache = tuple(ids.shape), self._read_cache()
        if shape not in self._prompts:
            while len(self._prompts) >= MOST_PROMPTS:
                del self._prompts[next(iter(self._prompts))]
            self._prompts[shape] = None
            return self._run_prompt
        run = self._prompts[shape] or captured(self._run_prompt, ids, cache.lengths)
        self._prompts[shape] = run
        return run

    @torch.inference_mode()
    def step(self, ids: Tensor, *, graph: bool | None = None) -> Tensor:
        """Reads 1 to LONGEST_QUERY more tokens of each row: ids int64 [B, T] -> logits float32 [B, T, vocabulary].

        The cache grows where it must, and the graph of the step is then captured again. On a GPU ids are not looked at:
        they have to be of the vocabulary. graph: whether this step is one; None: as the decoder's `graphs`.
        """
        cache = self._read_cache()
        self._check_ids(ids, look=not ids.is_cuda)
        batch, count = ids.shape
        if batch != cache.batch:
            raise ValueError(f"ids: given {batch} rows; the cache holds {cache.batch}")
        integer("ids: tokens", count, 1, LONGEST_QUERY)
        if cache.reserve(max(cache.counts) + count):
            self._steps.clear()
            self._prompts.clear()
        run = self._run_step
        if self.graphs if graph is None else flag("graph", graph):
            if count not in self._steps:
                self._steps[count] = captured(self._run_step, ids, cache.lengths)
            run = self._steps[count]
        logits = run(ids)
        cache.counts = [held + count for held in cache.counts]
        self._last_step = count
        return logits

    @torch.inference_mode()
    def rewind(self, counts: Sequence[int]) -> None:
        """Forgets the last `counts` tokens of each row, of those that the last step read: drafts that were wrong."""
        cache = self._read_cache()
        if len(counts) != cache.batch:
            raise ValueError(f"counts: given {len(counts)}; the cache holds {cache.batch} rows")
        back = [integer("counts", count, 0, self._last_step) for count in counts]
        cache.begin([held - count for held, count in zip(cache.counts, back, strict=True)])
        self._last_step -= max(back)

    @torch.inference_mode()
    def fill(self, depth: int, batch: int = 1, seed: int = 0) -> None:
        """As if prompts of `depth` tokens had been read: random keys and values, to time steps at a depth."""
        integer("depth", depth, least=0)
        cache = self._emptied(integer("batch", batch, least=1), depth)
        generator = torch.Generator(self.device).manual_seed(integer("seed", seed))
        for layer in cache.layers:
            for buffer in (layer.k, layer.v):
                buffer.normal_(generator=generator)
        cache.begin([depth] * batch)

    def _emptied(self, batch: int, positions: int) -> Cache:
        """An empty cache for prompts of that length and some steps: the present one with its graphs, if it fits."""
        self._last_step = 0
        if self.cache is None or not self.cache.holds(batch, positions + 1):
            self.cache = None  # its memory first
            self._steps.clear()
            self._prompts.clear()
            self.cache = Cache.empty(self.spec, batch, positions + 1, self.dtype, self.device, self.growth)
        self.cache.begin([0] * batch)
        return self.cache

    def _read_cache(self) -> Cache:
        if self.cache is None:
            raise RuntimeError("step: nothing has been read; call prefill first")
        return self.cache

    def _run_prompt(self, ids: Tensor) -> Tensor:
        """A whole prompt without checks, of rows of one length."""
        return self._logits(self._forward(ids, Chunk.of(ids, 0, None, self._windows))[:, -1:])

    def _run_step(self, ids: Tensor) -> Tensor:
        """A step without checks, which depends on nothing but what is on the device."""
        cache = self._read_cache()
        logits = self._logits(self._forward(ids, StepTokens.of(ids, cache.lengths, self._windows)))
        cache.lengths.add_(ids.shape[1])
        return logits

    def _forward(self, ids: Tensor, at: Chunk | StepTokens) -> Tensor:
        """From tokens to the head's input [B, T, hidden]."""
        assert self.cache is not None
        x = functional.embedding(ids, self.weights.embedding) * self._embedding_scale
        rotations = {key: key[0].rotation(at.positions, found) for key, found in self._frequencies.items()}
        norms = [*(w.attention_norm for w in self.weights.layers), self.weights.norm]
        x, h = self._add(x, None, norms[0])
        for layer, w, cache, following in zip(
            self.spec.layers, self.weights.layers, self.cache.layers, norms[1:], strict=True
        ):
            h = self._attention(h, layer, w, cache, rotations[layer.rope, layer.head_dim], at)
            x, h = self._add(x, h, w.mlp_norm, w.attention_out_norm)
            h = w.down(gated(w.gate_up(h), self.spec.activation, self._impl))
            x, h = self._add(x, h, following, w.mlp_out_norm, w.scalar)
        return h

    def _attention(
        self,
        h: Tensor,
        layer: LayerSpec,
        w: LayerWeights,
        cache: LayerCache,
        rotation: Rotation,
        at: Chunk | StepTokens,
    ) -> Tensor:
        heads = HeadLayout(layer.q_heads, layer.kv_heads, layer.head_dim, layer.key_is_value)
        norms = HeadNorms(w.q_norm, w.k_norm, self.spec.v_norm, self.spec.norm_eps)
        targets = at.targets(cache)
        q = rotated_heads(w.qkv(h), heads, rotation, norms, targets, self._impl)
        with named_range(attention_name(layer)):
            out = self.attend(q, at.keys(targets, cache), layer, self._options(layer, w), at.masks)
        return w.output(out.transpose(1, 2).flatten(2))

    def _add(
        self,
        x: Tensor,
        update: Tensor | None,
        norm: Tensor,
        update_norm: Tensor | None = None,
        scalar: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The residual stream with what a part adds to it, and its norm, which the next part reads."""
        return residual_norm(x, update, norm, update_norm, scalar, self.spec.norm_eps, self._impl)

    def _options(self, layer: LayerSpec, w: LayerWeights) -> dict[str, Any]:
        """What `blockskip.attention` and `decode` are told alike."""
        more = {"sinks": w.sinks, "softcap": self.spec.attention_softcap}
        return {"scale": layer.scale} | {name: value for name, value in more.items() if value is not None}

    def _logits(self, hidden: Tensor) -> Tensor:
        logits, cap = self.weights.head(hidden).float(), self.spec.logit_softcap
        return logits if cap is None else cap * torch.tanh(logits / cap)

    def _check_ids(self, ids: Tensor, look: bool = True) -> None:
        tensor("ids", ids, (torch.int64,))
        if ids.ndim != 2 or min(ids.shape) < 1:
            raise ValueError(f"ids: given shape {tuple(ids.shape)}; [batch, tokens] is needed, at least one of each")
        if ids.device != self.device:
            raise ValueError(f"ids: is on {ids.device}; must be on the weights' {self.device}")
        if look and not (int(ids.min()) >= 0 and int(ids.max()) < self.spec.vocabulary):
            raise ValueError(
                f"ids: given from {int(ids.min())} to {int(ids.max())}; must be from 0 to {self.spec.vocabulary - 1}"
            )


def attention_name(layer: LayerSpec) -> str:
    """What a profile calls a layer's attention, the writing of its cache included."""
    return "attention full" if layer.window is None else "attention sliding"
