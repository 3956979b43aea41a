"""The arguments of `attention_varlen`, as given and as checked."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self

import torch

from ...arguments import choice, flag, integer, tensor
from ...config import TileConfig
from ...launching.repeated import Kind, kind_of
from ...mask import Band, Mask, band
from ..call import IMPLS, AttentionCall
from ..checks import check_scale, check_sinks, check_softcap, check_tensors
from ..lengths import LARGEST_POSITION

NAMES = ("q", "k", "v")


class VarlenArguments(NamedTuple):
    """What `blockskip.attention_varlen` was given, unchecked; see there for each."""

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor | None = None
    max_seqlen_q: int | None = None
    max_seqlen_k: int | None = None
    mask: Mask | None = None
    scale: float | None = None
    impl: str = "auto"
    config: TileConfig | tuple[int, int, int, int] | None = None
    return_lse: bool = False
    sinks: torch.Tensor | None = None
    softcap: float | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        """What differs between calls of a kind; in the order of `VarlenCall.tensors`."""
        cu_k = self.cu_seqlens_q if self.cu_seqlens_k is None else self.cu_seqlens_k
        return self.q, self.k, self.v, self.sinks, self.cu_seqlens_q, cu_k

    def kind(self) -> Kind | None:
        """The kind of this call."""
        lengths = self.max_seqlen_q, self.max_seqlen_k, self.cu_seqlens_k is None
        options = "varlen", *lengths, self.scale, self.impl, self.config, self.return_lse, self.softcap
        return kind_of(self.tensors, options, self.impl, self.mask)


@dataclass(frozen=True, eq=False)
class VarlenCall:
    """A checked call: all sequences as one batch of attention, q [1, Hq, total, D], and where each begins.

    cu_q, cu_k: int32 [sequences + 1], contiguous. q, k, v: as they were given, [total, heads, D].
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    attention: AttentionCall

    @property
    def sequences(self) -> int:
        return len(self.cu_q) - 1

    @property
    def tensors(self) -> tuple[torch.Tensor | None, ...]:
        return self.q, self.k, self.v, self.attention.sinks, self.cu_q, self.cu_k

    def given(self, tensors: Iterable[torch.Tensor | None]) -> Self:
        """The call with other tensors, in the order of `tensors`."""
        q, k, v, sinks, cu_q, cu_k = tensors
        batches = (batch_of(t) for t in (q, k, v))  # pyright: ignore[reportArgumentType]
        attention = self.attention.given((*batches, sinks, None, None, None, None))
        return replace(self, q=q, k=k, v=v, cu_q=cu_q, cu_k=cu_k, attention=attention)  # pyright: ignore[reportArgumentType]

    def extents(self) -> list[tuple[int, int, int, int]]:
        """(first query, end, first key, end) of each sequence, bounded as the kernels bound them. Reads the device."""
        found = []
        for cu, total in ((self.cu_q, len(self.q)), (self.cu_k, len(self.k))):
            first = cu[:-1].clamp(0, total)
            found += [first.tolist(), torch.maximum(first, cu[1:].clamp(max=total)).tolist()]
        return list(zip(*found, strict=True))


def batch_of(packed: torch.Tensor) -> torch.Tensor:
    """[total, heads, D] as one batch, [1, heads, total, D]."""
    return packed.transpose(0, 1).unsqueeze(0)


def check(given: VarlenArguments) -> VarlenCall:
    """A checked call; TypeError or ValueError names the argument, what was given and what is allowed."""
    q, k, v, _, _, max_q, max_k, mask, scale, impl, config, return_lse, sinks, softcap = given
    choice("impl", impl, IMPLS)
    flag("return_lse", return_lse)
    _check_packed(q, k, v)
    q4, k4, v4 = map(batch_of, (q, k, v))
    check_tensors(q4, k4, v4, NAMES, float64=impl == "reference")
    cu_q, cu_k = _check_sequences(given)
    longest = _longest("max_seqlen_q", max_q, len(q)), _longest("max_seqlen_k", max_k, len(k))
    if given.cu_seqlens_k is None and max_k is None:
        longest = longest[0], min(longest[0], len(k))
    mask = band(None, None) if mask is None else mask
    if not isinstance(mask, Mask):
        raise TypeError(f"mask: given {type(mask).__name__}; a blockskip mask, such as causal(), or None is needed")
    if not isinstance(mask, Band):
        raise ValueError(
            f"mask: given {mask!r}; a band is needed, such as causal() or sliding_window(w): for other masks call "
            "attention, with document(lengths) & mask where the lengths are known to the host"
        )
    scale = check_scale(scale, q.shape[2])
    attention = AttentionCall(
        q4, k4, v4, mask, scale, None, len(k), None, "auto", impl, None if config is None else TileConfig.of(config),
        return_lse, False, sinks=check_sinks(sinks, q4), softcap=check_softcap(softcap, scale), longest=longest,
    )  # fmt: skip
    return VarlenCall(q, k, v, cu_q, cu_k, attention)


def _check_packed(q: Any, k: Any, v: Any) -> None:
    """What `check_tensors` would say of four dimensions."""
    for name, t in zip(NAMES, (q, k, v), strict=True):
        tensor(name, t)
        if t.ndim != 3:
            raise ValueError(f"{name}: given {t.ndim} dimensions; [total, heads, head_dim] is needed")
        if min(t.shape) < 1:
            raise ValueError(f"{name}: given shape {tuple(t.shape)}; every size must be at least 1")
        if len(t) >= LARGEST_POSITION:
            raise ValueError(f"{name}: given {len(t)} rows; there must be less than {LARGEST_POSITION}")
    if k.shape != v.shape:
        raise ValueError(f"v: given shape {tuple(v.shape)}; must be k's {tuple(k.shape)}")


def _check_sequences(given: VarlenArguments) -> tuple[torch.Tensor, torch.Tensor]:
    """(cu_seqlens_q, cu_seqlens_k), contiguous."""
    if given.cu_seqlens_k is None and len(given.q) != len(given.k):
        raise ValueError(
            f"cu_seqlens_k: None takes cu_seqlens_q's, but q has {len(given.q)} rows and k {len(given.k)}; give it"
        )
    cu_q = _check_cu("cu_seqlens_q", given.cu_seqlens_q, given.q)
    if given.cu_seqlens_k is None:
        return cu_q, cu_q
    cu_k = _check_cu("cu_seqlens_k", given.cu_seqlens_k, given.q)
    if len(cu_k) != len(cu_q):
        raise ValueError(f"cu_seqlens_k: given {len(cu_k)} numbers; must be cu_seqlens_q's {len(cu_q)}")
    return cu_q, cu_k


def _check_cu(name: str, cu: Any, q: torch.Tensor) -> torch.Tensor:
    tensor(name, cu)
    if cu.dtype != torch.int32:
        raise TypeError(f"{name}: given a tensor of {cu.dtype}; int32 is needed")
    if cu.device != q.device:
        raise ValueError(f"{name}: is on {cu.device}; must be on q's {q.device}")
    if cu.ndim != 1 or len(cu) < 2:
        raise ValueError(f"{name}: given shape {tuple(cu.shape)}; [sequences + 1] is needed, of one sequence or more")
    if cu.is_neg():
        raise ValueError(f"{name}: is a negated view, which a kernel cannot tell; call .resolve_neg()")
    return cu.contiguous()


def _longest(name: str, given: Any, total: int) -> int:
    return total if given is None else min(integer(name, given, 1), total)
