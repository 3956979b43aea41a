"""The state of a mask explorer: one frozen value, from which mask, workload, tile map and code follow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import blockskip as bs
from blockskip.arguments import choice, flag, integer

from skiplab.sweep import mask_text
from skiplab.workload import DTYPES, MODELS, HeadShape, Workload


@dataclass(frozen=True)
class MaskKind:
    """A kind of mask: its label, the settings that it reads, and how it is built of them."""

    label: str
    parameters: tuple[str, ...]
    build: Callable[[MaskSettings], bs.Mask]


@dataclass(frozen=True)
class MaskSettings:
    """An explorer's state. Lengths, window, sink, prefix, chunk and stride count tokens; `documents` counts documents.

    kv_len None: as many keys as queries. `inside_causal` cuts chunked, document and dilated masks to causal. `model`
    names a head shape of `skiplab.workload.MODELS`; `text` is a mask as `Mask.from_spec` reads it; `predict_for` a GPU
    of `known_gpus()` or THIS_MACHINE. ValueError names the setting, what was given and what is allowed.
    """

    kind: str = "sliding window"
    window: int = 512
    sink: int = 4
    prefix: int = 512
    chunk: int = 1024
    documents: int = 4
    stride: int = 64
    text: str = "sliding_window(512) | (sink(4) & causal())"
    inside_causal: bool = True
    q_len: int = 4096
    kv_len: int | None = None
    block_m: int = 128
    block_n: int = 64
    model: str = "laptop"
    batch: int = 1
    dtype: str = "bfloat16"
    predict_for: str = "NVIDIA H200"

    def __post_init__(self) -> None:
        for name, allowed in (("kind", KINDS), ("model", MODELS), ("dtype", DTYPES)):
            choice(name, getattr(self, name), tuple(allowed))
        for name, least in LEAST.items():
            value = getattr(self, name)
            if name == "kv_len" and value is None:
                continue
            integer(name, value, least)
        flag("inside_causal", self.inside_causal)
        if self.kind == "text":
            mask_text(self.text)

    @property
    def keys(self) -> int:
        """The number of keys, never None."""
        return self.q_len if self.kv_len is None else self.kv_len

    @property
    def shape(self) -> HeadShape:
        return MODELS[self.model]

    @property
    def mask(self) -> bs.Mask:
        return KINDS[self.kind].build(self)

    @property
    def document_lengths(self) -> list[int]:
        """`documents` lengths that fill the keys, uneven like packed prompts; equal settings give equal lengths."""
        count = min(self.documents, self.keys)
        weights = [3 + (7 * i) % 5 for i in range(count)]
        ends = [self.keys * sum(weights[: i + 1]) // sum(weights) for i in range(count)]
        return [end - start for start, end in zip([0, *ends], ends, strict=False) if end > start]

    @property
    def workload(self) -> Workload:
        shape = self.shape
        return Workload(
            q_len=self.q_len, kv_len=self.keys, mask=self.mask, batch=self.batch, q_heads=shape.q_heads,
            kv_heads=shape.kv_heads, head_dim=shape.head_dim, dtype=self.dtype,
        )  # fmt: skip

    @property
    def tilemap(self) -> bs.TileMap:
        return self.workload.tilemap(self.block_m, self.block_n)

    def code(self) -> str:
        """Python that makes the same workload and tile map, and the same explorer."""
        shape = self.shape
        arguments = [
            f"q_len={self.q_len}", f"kv_len={self.keys}", f"mask={python(self.mask)}", f"batch={self.batch}",
            f"q_heads={shape.q_heads}", f"kv_heads={shape.kv_heads}", f"head_dim={shape.head_dim}",
            f"dtype={self.dtype!r}",
        ]  # fmt: skip
        return "\n".join(
            [
                "import blockskip as bs",
                "from skiplab import MaskExplorer, Workload",
                "",
                "workload = Workload(",
                *(f"    {argument}," for argument in arguments),
                ")",
                f"tilemap = workload.tilemap(block_m={self.block_m}, block_n={self.block_n})",
                "print(tilemap.summary())",
                f"explorer = MaskExplorer({', '.join(f'{name}={value!r}' for name, value in self.given().items())})",
                "explorer",
            ]
        )

    def given(self) -> Mapping[str, object]:
        """The settings that differ from the defaults or that this kind of mask reads."""
        used = {"kind", *KINDS[self.kind].parameters, "q_len", "block_m", "block_n"}
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        others = {name for kind in KINDS.values() for name in kind.parameters} - used
        defaults = {field.name: field.default for field in fields(self)}
        return {
            name: value
            for name, value in values.items()
            if name in used or (name not in others and value != defaults[name])
        }


def python(mask: bs.Mask) -> str:
    """The mask as an expression with `bs.`, from its text."""
    text = mask.spec()
    if not isinstance(text, str):
        raise ValueError(f"mask: {mask!r} holds tensors and cannot be written as code")
    for name in ("band", "causal", "sliding_window", "prefix_lm", "sink", "chunked", "document", "dilated"):
        text = text.replace(f"{name}(", f"bs.{name}(")
    return text


def _inside(settings: MaskSettings, mask: bs.Mask) -> bs.Mask:
    return mask & bs.causal() if settings.inside_causal else mask


KINDS: Mapping[str, MaskKind] = {
    "causal": MaskKind("causal: every earlier key", (), lambda s: bs.causal()),
    "sliding window": MaskKind("sliding window: the last keys", ("window",), lambda s: bs.sliding_window(s.window)),
    "window + sink": MaskKind(
        "window + sink: the last keys and the first few", ("window", "sink"),
        lambda s: bs.sliding_window(s.window) | (bs.sink(s.sink) & bs.causal()),
    ),
    "prefix-LM": MaskKind("prefix-LM: causal, and all of a prefix", ("prefix",), lambda s: bs.prefix_lm(s.prefix)),
    "chunked": MaskKind(
        "chunked: keys of the same chunk", ("chunk", "inside_causal"), lambda s: _inside(s, bs.chunked(s.chunk))
    ),
    "document": MaskKind(
        "document: keys of the same packed prompt", ("documents", "inside_causal"),
        lambda s: _inside(s, bs.document(s.document_lengths)),
    ),
    "dilated": MaskKind(
        "dilated: every n-th key", ("stride", "inside_causal"), lambda s: _inside(s, bs.dilated(s.stride))
    ),
    "text": MaskKind("text: any mask, as --mask takes it", ("text",), lambda s: bs.Mask.from_spec(s.text)),
    "none": MaskKind("none: every key", (), lambda s: bs.band(None, None)),
}  # fmt: skip
"""The kinds of masks that an explorer offers, in the order in which it lists them."""

LEAST = {
    "window": 1, "sink": 0, "prefix": 0, "chunk": 1, "documents": 1, "stride": 1, "q_len": 1, "kv_len": 1, "block_m": 1,
    "block_n": 1, "batch": 1,
}  # fmt: skip

THIS_MACHINE = "this machine"
