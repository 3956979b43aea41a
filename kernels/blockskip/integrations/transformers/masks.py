"""From what transformers says of a forward pass to a blockskip mask, which all layers of one kind share.

transformers counts positions by slots, padding included: query i stands at q_offset + i, key j at kv_offset + j. A band
asks for their difference alone, so here the first key stands at 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from transformers.masking_utils import bidirectional_mask_function, causal_mask_function, sdpa_mask

import blockskip as bs


@dataclass(frozen=True, eq=False)
class PreparedMask:
    """What the layers of one kind may see in a forward pass, as `blockskip.attention` takes it.

    q_len, keys: how many queries there are, and slots of keys. q_start, kv_len: as in `blockskip.attention`, where None
    is the last queries, and all keys. kv_start: int32 [B], how many slots of padding come first in each row; None where
    there is no padding. ring: as in `blockskip.attention`.
    """

    mask: bs.Mask
    q_len: int
    keys: int
    q_start: int | None = None
    kv_len: int | Tensor | None = None
    kv_start: Tensor | None = None
    ring: bool = False

    ndim: ClassVar[int] = 4
    """transformers tells by it that a mask is not one of padding, and hands it back to `prepare`."""

    def __getitem__(self, index: Any) -> PreparedMask:
        """mask[:, :, -n:, :], of the last queries alone: what Gemma 4 asks for in layers that share keys."""
        queries = index[2] if isinstance(index, tuple) and len(index) == 4 else None
        everything = slice(None)
        others = index[:2] + index[3:] if isinstance(index, tuple) else ()
        if not isinstance(queries, slice) or any(each != everything for each in others):
            raise ValueError(
                f"index: given {index!r}; a prepared mask has its last queries cut out alone, [:, :, -n:, :]"
            )
        start, stop, step = queries.indices(self.q_len)
        if stop != self.q_len or step != 1:
            raise ValueError(f"index: given {queries!r} of {self.q_len} queries; only the last ones can be cut out")
        spec = self.mask.spec()
        if not isinstance(spec, str):  # by the call's rows
            return replace(self, mask=bs.dense(spec[1][0][..., start:, :]), q_len=stop - start)
        q_start = None if self.q_start is None else self.q_start + start
        return replace(self, q_len=stop - start, q_start=q_start)


class Sizes(NamedTuple):
    """As transformers names them; q_offset is a tensor where a static cache counts its tokens on the device."""

    batch_size: int
    q_length: int
    kv_length: int
    q_offset: Any
    kv_offset: int


def prepare(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable = causal_mask_function,
    attention_mask: Tensor | PreparedMask | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    config: Any = None,
    **others: Any,
) -> PreparedMask:
    """The mask function of transformers' AttentionMaskInterface; `local_size` is the window.

    attention_mask: bool [batch, positions], False for padding; or what `generate` had prepared before.
    """
    if isinstance(attention_mask, PreparedMask):
        return attention_mask
    sizes = Sizes(batch_size, q_length, kv_length, q_offset, kv_offset)
    band = None
    if not use_vmap:  # else functions that the model or the user gave are part of it
        plain = allow_is_causal_skip or q_length == 1  # else something else may be
        band = _band(mask_function, local_size, config, plain, "allow_is_bidirectional_skip" in others)
    found = None if band is None else _of_band(band, sizes, attention_mask, torch.device(device), allow_is_causal_skip)
    if found is not None:
        return found
    if local_size == kv_length and q_length == 1 and isinstance(q_offset, Tensor):
        raise ValueError(
            "attention_mask: a ring cache is read by causal windows and padding alone, and this model has a mask of "
            "more; use transformers' StaticCache"
        )
    kept = sdpa_mask(
        batch_size=batch_size, q_length=q_length, kv_length=kv_length, q_offset=q_offset, kv_offset=kv_offset,
        mask_function=mask_function, attention_mask=attention_mask, use_vmap=use_vmap, device=device,
        allow_is_causal_skip=False,
    )  # fmt: skip
    assert kept is not None  # it is where a skip is allowed
    return PreparedMask(bs.dense(kept[:1] if kept.stride(0) == 0 else kept), q_length, kv_length)


def _band(mask_function: Callable, window: int | None, config: Any, plain: bool, both_sides: bool) -> bs.Band | None:
    """The band that the function stands for; None for any other.

    A window's function is one of transformers' closures, of no identity: it is known by the window in the
    configuration, and by what comes with it. plain: whether nothing can have been joined to it but another `and`.
    """
    if mask_function is causal_mask_function:
        return bs.Band(None, 0)
    if mask_function is bidirectional_mask_function:
        return bs.Band(None, None)
    if window is None or window != getattr(config, "sliding_window", None):
        return None
    if window == getattr(config, "attention_chunk_size", None) or getattr(mask_function, "__name__", "") != "and_mask":
        return None
    if both_sides:
        return bs.Band(window, window)
    return bs.Band(window - 1, 0) if plain else None


def _of_band(
    band: bs.Band, sizes: Sizes, attention_mask: Tensor | None, device: torch.device, may_skip: bool
) -> PreparedMask | None:
    """None for what lengths cannot say: padding that both sides of a query see, and gaps between tokens."""
    _, q_len, keys, q_offset, kv_offset = sizes
    q_start = q_offset - kv_offset
    end = q_start + q_len
    on_device = isinstance(end, Tensor)
    if on_device and q_len == 1 and band.left is not None and keys == band.left + 1:
        return _of_ring(band, sizes, end, attention_mask)
    real = None if attention_mask is None else attention_mask[:, kv_offset : kv_offset + keys]
    if _shows_no_padding(real):
        real = None
    if band.right != 0 or (not on_device and end > keys):  # keys behind the queries are seen, or a cache lacks some
        covers = attention_mask is None or attention_mask.shape[1] >= kv_offset + keys  # beyond it all is padding
        return PreparedMask(band, q_len, keys, q_start) if covers and real is None and not on_device else None
    if on_device:
        kv_len = end.to(torch.int32)
    elif q_len == 1 and not may_skip:  # a compiled step: an int would be compiled anew for each token
        kv_len = torch.full((), end, dtype=torch.int32, device=device)
    else:
        kv_len = end
    before, has_gaps = (None, False) if real is None else _padding(real)
    if has_gaps:
        return None
    if before is None:
        return PreparedMask(band, q_len, keys, None, kv_len)
    lengths = (kv_len - before).clamp(min=0).to(torch.int32)
    return PreparedMask(band, q_len, keys, None, lengths, before.to(torch.int32))


def _shows_no_padding(real: Tensor | None) -> bool:
    """Whether it is known that there is none: it is read back, once a forward pass, unless torch.compile traces."""
    return real is not None and not torch.compiler.is_compiling() and bool(real.all())


def _of_ring(band: bs.Band, sizes: Sizes, end: Tensor, attention_mask: Tensor | None) -> PreparedMask:
    """One query over as many slots as its window has, which hold the last positions modulo their number.

    A static cache that counts its tokens on the device has them so; transformers' own are then not yet full, which is
    the same. kv_start does not go with a ring, so padding becomes a mask of the slots.
    """
    slots = sizes.kv_length
    if attention_mask is None or _shows_no_padding(attention_mask):
        return PreparedMask(band, 1, slots, None, end.to(torch.int32), ring=True)
    slot = torch.arange(slots, dtype=torch.int64, device=attention_mask.device)
    position = end - 1 - (end - 1 - slot) % slots  # below 0: not written yet
    there = (position >= 0) & (position < attention_mask.shape[1])
    kept = attention_mask[:, position.clamp(0, attention_mask.shape[1] - 1)] & there
    return PreparedMask(bs.dense(kept[:, None, None]), 1, slots)


def _padding(real: Tensor) -> tuple[Tensor | None, bool]:
    """(int64 [B]: how many slots of padding come first in each row, whether there is any between a row's tokens).

    real: bool [B, slots]. None where none comes first: padding behind a row's tokens is seen by none of them. While
    torch.compile traces nothing can be read: a gap raises when the graph runs.
    """
    before = (real.cumsum(1) == 0).sum(1)
    runs = real[:, :1].sum(1) + (real[:, 1:] & ~real[:, :-1]).sum(1)
    if torch.compiler.is_compiling():
        said = "attention_mask: has padding between tokens; torch.compile takes it on the left"
        torch._assert_async((runs <= 1).all(), said)  # pyright: ignore[reportPrivateImportUsage]
        return before, False
    most, most_runs = torch.stack([before.max(), runs.max()]).tolist()
    return (before if most else None), most_runs > 1
