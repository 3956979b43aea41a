"""The arguments of `attention` and `decode`, as given and as checked, and who computes them."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch

from ..config import TileConfig
from ..gpu import Gpu
from ..launching.repeated import GROWING, Kind, kind_of
from ..launching.view import View, in_pieces_of_16_bytes
from ..mask import Band, Mask, band
from .caches import FLOAT8, check_float8_capability, dequantized, times

IMPLS = ("auto", "reference", "tiled", "triton")
SHARED_SKIPS = ("auto", "bounds")
"""Skip modes whose launches for a band serve any number of keys; the other modes read tables made for one number."""
MOST_IN_GRID = 65535
"""The most batches, and the most heads, of a launch: the limit of a CUDA grid's second and third dimensions."""


class AttentionArguments(NamedTuple):
    """What `blockskip.attention` was given, unchecked; see there for each."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: Mask | None = None
    scale: float | None = None
    q_start: int | None = None
    kv_len: int | torch.Tensor | None = None
    skip: str = "auto"
    impl: str = "auto"
    config: TileConfig | tuple[int, int, int, int] | None = None
    return_lse: bool = False
    record: bool = False
    ring: bool = False
    route: str = "measured"
    sinks: torch.Tensor | None = None
    softcap: float | None = None
    kv_start: torch.Tensor | None = None
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None

    def kind(self) -> tuple[Kind | None, int | None]:
        """(the kind of this call, its int kv_len if launches of the kind may serve other lengths, else None).

        They may where the queries are the last positions and either a band gives the loop's bounds, or there is a
        single query, whose tiles are in a table of many positions (`mask_bits.position_tables`). All others read tables
        for one number of keys: the queries of a tile share it, and which tiles they share depends on where they stand;
        a `dense` or `mask_mod` is asked by the call's row, not by the position; the bits of a `dilated` are too many.
        """
        (
            q, k, v, mask, scale, q_start, kv_len, skip, impl, config, return_lse, record, ring, route, sinks, softcap,
            kv_start, k_scale, v_scale,
        ) = self  # fmt: skip
        lengths = growing = None
        if isinstance(kv_len, torch.Tensor):
            kv_len, lengths = None, kv_len
        elif type(kv_len) is int and q_start is None and skip in SHARED_SKIPS and not record and (
            _is_band(mask) or (not ring and _is_single_query(q, mask))
        ):  # fmt: skip
            kv_len, growing = GROWING, kv_len
        options = "attention", scale, q_start, kv_len, skip, impl, config, return_lse, record, ring, route, softcap
        tensors = q, k, v, lengths, sinks, kv_start, k_scale, v_scale
        return kind_of(tensors, options, impl, mask, skip == "map"), growing


def _is_band(mask: Mask | None) -> bool:
    return mask is None or type(mask) is Band


def _is_single_query(q: torch.Tensor, mask: Mask | None) -> bool:
    """Whether there is one query, and a mask that tables of positions serve; both arguments are unchecked."""
    return isinstance(mask, Mask) and mask.is_of_positions and isinstance(q, torch.Tensor) and q.shape[2:3] == (1,)


class DecodeArguments(NamedTuple):
    """What `blockskip.decode` was given, unchecked; see there for each."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    kv_len: int | torch.Tensor | None = None
    window: int | None = None
    scale: float | None = None
    splits: int | str = "auto"
    impl: str = "auto"
    return_lse: bool = False
    ring: bool = False
    sinks: torch.Tensor | None = None
    softcap: float | None = None
    kv_start: torch.Tensor | None = None
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None

    def kind(self) -> tuple[Kind | None, int | None]:
        """(the kind of this call, its int kv_len if there is one: launches of the kind may serve other lengths)."""
        (
            q, k, v, kv_len, window, scale, splits, impl, return_lse, ring, sinks, softcap, kv_start, k_scale, v_scale
        ) = self  # fmt: skip
        lengths = growing = None
        if isinstance(kv_len, torch.Tensor):
            kv_len, lengths = None, kv_len
        elif type(kv_len) is int:
            kv_len, growing = GROWING, kv_len
        options = "decode", kv_len, window, scale, splits, impl, return_lse, ring, softcap
        return kind_of((q, k, v, lengths, sinks, kv_start, k_scale, v_scale), options, impl), growing


class _Call:
    """What both operations' calls have."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    sinks: torch.Tensor | None
    kv_len: int
    lengths: torch.Tensor | None
    starts: torch.Tensor | None
    k_scale: torch.Tensor | None
    v_scale: torch.Tensor | None

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.q.shape[1] // self.k.shape[1]

    @property
    def tile_dtype(self) -> torch.dtype:
        """By which tiles are chosen: that of keys and values, but float32 where products are float32."""
        return self.q.dtype if self.q.dtype == torch.float32 else self.k.dtype

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What differs between calls of a kind, beside a growing kv_len; in the order of `TENSORS`."""
        return self.q, self.k, self.v, self.sinks, self.lengths, self.starts, self.k_scale, self.v_scale

    def given(self, tensors: Iterable[torch.Tensor | None], **others: Any) -> Self:
        """The call with other tensors, in the order of `TENSORS`."""
        return replace(self, **dict(zip(TENSORS, tensors, strict=True)), **others)  # pyright: ignore[reportArgumentType]

    @property
    def bounded_lengths(self) -> torch.Tensor | None:
        """`lengths`, bounded as the kernels bound them."""
        if self.lengths is None or self.starts is None:
            return None if self.lengths is None else self.lengths.clamp(0, self.kv_len)
        return torch.minimum(self.lengths.clamp(min=0), self.kv_len - self.starts.clamp(0, self.kv_len))

    def from_first_keys(self) -> Self:
        """The call with each batch's first key in slot 0, in copies of k and v: for implementations in PyTorch."""
        if self.starts is None:
            return self
        order = torch.arange(self.kv_len, dtype=torch.int64, device=self.q.device) + self.starts.clamp(min=0)[:, None]
        rows = torch.arange(self.q.shape[0], dtype=torch.int64, device=self.q.device)[:, None]
        order = order.clamp(max=self.kv_len - 1)
        k, v = (t.transpose(1, 2)[rows, order].transpose(1, 2) for t in (self.k, self.v))
        return replace(self, k=k, v=v, lengths=self.bounded_lengths, starts=None)  # pyright: ignore[reportArgumentType]

    def dequantized(self) -> Self:
        """The call with keys and values in float64 where they are float8: for the reference."""
        if self.k.dtype != FLOAT8:
            return self
        k, v = dequantized(self.k, self.k_scale), dequantized(self.v, self.v_scale)
        return replace(self, k=k, v=v, k_scale=None, v_scale=None)  # pyright: ignore[reportArgumentType]

    def by_float32(self, attend: Callable[[Self], tuple]) -> tuple:
        """attend(call) -> (out, lse), which knows no scales: with float8 keys, queries and results bear them."""
        if self.k.dtype != FLOAT8:
            return attend(self)
        q, kv_heads = self.q, self.k.shape[1]
        unscaled = replace(self, q=times(q, self.k_scale, kv_heads), k_scale=None, v_scale=None)  # pyright: ignore[reportArgumentType]
        out, lse = attend(unscaled)
        return times(out, self.v_scale, kv_heads).to(q.dtype), lse


TENSORS = ("q", "k", "v", "sinks", "lengths", "starts", "k_scale", "v_scale")
"""The tensors of a call."""


def in_float32(tensors: Iterable[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """A call's tensors with floats of 16 bits in float32."""
    halves = torch.float16, torch.bfloat16
    return [t.float() if t is not None and t.dtype in halves else t for t in tensors]


@dataclass(frozen=True, eq=False)
class AttentionCall(_Call):
    """A checked attention call.

    See `blockskip.attention` for shapes. kv_len is the number of keys, or the most there can be where the true number
    stands on the device: `lengths` int32 [B], else None. ring: the slots of k and v hold the last positions. starts:
    int32 [B], the slots of the first keys, or None where they are 0; with lengths alone. longest: of packed sequences,
    which are one batch whose lengths stand on the device, the most queries and keys that one is planned for; else None.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: Mask
    scale: float
    q_start: int | None
    kv_len: int
    lengths: torch.Tensor | None
    skip: str
    impl: str
    config: TileConfig | None
    return_lse: bool
    record: bool
    ring: bool = False
    route: str = "measured"
    sinks: torch.Tensor | None = None
    softcap: float | None = None
    starts: torch.Tensor | None = None
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None
    longest: tuple[int, int] | None = None

    @property
    def q_len(self) -> int:
        """The number of queries; of packed sequences that of the longest."""
        return self.q.shape[2] if self.longest is None else self.longest[0]

    @property
    def planned_kv_len(self) -> int:
        """The number of keys, of the longest sequence; for a device kv_len as if the whole buffer were used, once."""
        if self.longest is not None:
            return self.longest[1]
        return self.kv_len if self.lengths is None else min(self.kv_len, self.k.shape[2])

    @property
    def planned_q_start(self) -> int:
        """The first query's position; for a device kv_len without q_start, as if the whole buffer were used."""
        return self.planned_kv_len - self.q_len if self.q_start is None else self.q_start


@dataclass(frozen=True, eq=False)
class DecodeCall(_Call):
    """A checked decode call.

    See `blockskip.decode` for shapes. kv_len is the number of keys, or the most there can be where the true number
    stands on the device: `lengths` int32 [B], else None. splits None: chosen. ring: slots hold the last positions.
    starts: as of `AttentionCall`. visible: the mask of a call whose queries see other keys than a window's; bits: the
    same as the kernel reads it, int64 [1 or B, 1 or Hq, Lq, ceil(kv_len / 64)], bit n of a row for its key n.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    kv_len: int
    lengths: torch.Tensor | None
    window: int | None
    splits: int | None
    impl: str
    return_lse: bool
    ring: bool = False
    sinks: torch.Tensor | None = None
    softcap: float | None = None
    starts: torch.Tensor | None = None
    k_scale: torch.Tensor | None = None
    v_scale: torch.Tensor | None = None
    visible: Mask | None = None
    bits: torch.Tensor | None = None

    @property
    def rows(self) -> int:
        """Rows that one KV head serves: the queries of its group of query heads."""
        return self.group * self.q.shape[2]

    @property
    def mask(self) -> Band:
        mask = band(None if self.window is None else self.window - 1, 0)
        assert isinstance(mask, Band)
        return mask


def scores_line(call: AttentionCall | DecodeCall) -> str | None:
    """What `explain` says of a call's scores; None where they are what q, k and the scale make them."""
    capped = [] if call.softcap is None else [f"softcap {call.softcap:g}"]
    said = [*capped, *["a sink a query head"] * (call.sinks is not None)]
    return f"scores  {'; '.join(said)}" if said else None


def can_use_tma(call: AttentionCall | DecodeCall) -> bool:
    """Whether the copy engine can read a call's keys and values."""
    return not call.ring and _is_tma_readable(call.k) and _is_tma_readable(call.v)


def _is_tma_readable(t: torch.Tensor) -> bool:
    """Whether the copy engine can read a tensor: rows of adjoining elements that begin at multiples of 16 bytes."""
    return t.stride(2) > 0 and in_pieces_of_16_bytes(View.of(t))


def sign_and_scale(scale: float) -> tuple[int, float]:
    """The scores' sign (-1, 0, 1) and |scale| * log2 e, both as the kernels take them: the latter is above 0.

    A scale that float32 holds as 0, or as a subnormal that a GPU may flush, makes all scores 0 by the sign; a factor of
    0 would turn a masked score, -inf, to NaN.
    """
    size = abs(scale) * math.log2(math.e)
    return (0, 1.0) if size < torch.finfo(torch.float32).tiny else (int(math.copysign(1, scale)), size)


def choose_impl(call: AttentionCall | DecodeCall) -> tuple[str, str]:
    """(the implementation of a call, the reason for it). Raises ValueError for what that implementation cannot do."""
    on_cuda = call.q.is_cuda
    if call.impl == "triton" and not on_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl: 'triton' needs CUDA tensors, these are on {call.q.device}; set TRITON_INTERPRET=1 before triton is "
            "imported to run the kernel in Triton's interpreter (correct, very slow), or use impl='tiled'"
        )
    if call.impl == "tiled" and on_cuda and call.lengths is not None:
        raise ValueError("impl: 'tiled' cannot take a kv_len tensor on CUDA without reading it back; use impl='triton'")
    found = (call.impl, "asked for")
    if call.impl == "auto":
        found = ("triton", "tensors on CUDA") if on_cuda else ("tiled", f"tensors on {call.q.device}")
    if found[0] == "triton":
        for name, t in zip(TENSORS, call.tensors, strict=True):
            if t is not None and t.is_neg():
                raise ValueError(f"{name}: is a negated view, which a kernel cannot tell; call .resolve_neg()")
        for given, what in zip(call.q.shape, ("batches", "heads"), strict=False):
            if given > MOST_IN_GRID:
                raise ValueError(f"q: given {given} {what}; impl='triton' takes up to {MOST_IN_GRID}, as a CUDA grid")
        if call.k.dtype == FLOAT8:
            check_float8_capability(Gpu.of(call.q.device).capability)
    return found
