"""How masks are made: the public constructors, and reading a mask from its text."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.utils.weak import WeakTensorKeyDictionary

from ..arguments import integer
from .base import Mask
from .contents import Dense, MaskMod, tensor_version
from .kinds import Band, Chunked, Dilated, Document, PrefixLM, Sink
from .spec import CONSTRUCTORS, from_spec


def band(left: int | None, right: int | None) -> Mask:
    """Keeps -right <= q - k <= left; None is no limit on that side. Negative limits are allowed."""
    return Band(left, right)


def causal() -> Mask:
    """Every query sees the keys up to its own position."""
    return Band(None, 0)


def sliding_window(window: int) -> Mask:
    """Every query sees `window` keys, itself the last: 0 <= q - k < window. window >= 1."""
    return Band(integer("window", window, 1) - 1, 0)


def prefix_lm(prefix: int) -> Mask:
    """Causal, and every query sees the first `prefix` keys. prefix >= 0."""
    return PrefixLM(integer("prefix", prefix, 0))


def sink(count: int) -> Mask:
    """Every query sees the keys 0..count-1; use `sliding_window(w) | (sink(4) & causal())`. count >= 0."""
    return Sink(integer("count", count, 0))


def chunked(size: int) -> Mask:
    """A query sees the keys in its own chunk of `size` positions. size >= 1."""
    return Chunked(integer("size", size, 1))


def document(lengths: Sequence[int] | torch.Tensor) -> Mask:
    """A query sees the keys of its own packed document; `lengths` are the documents' lengths, each >= 1."""
    if not isinstance(lengths, Sequence | torch.Tensor | np.ndarray) or isinstance(lengths, str | bytes):
        raise TypeError(f"lengths: given {type(lengths).__name__}; a sequence of ints is needed")
    given = lengths if isinstance(lengths, Sequence) else lengths.tolist()
    whole = tuple(integer("lengths", n, 1) for n in (given if isinstance(given, Sequence) else (given,)))
    if not whole:
        raise ValueError("lengths: no document was given; at least one length is needed")
    integer("lengths' sum", sum(whole))
    return Document(whole)


def dilated(stride: int) -> Mask:
    """Keeps (q - k) % stride == 0. stride >= 1."""
    stride = integer("stride", stride, 1)
    return Band(None, None) if stride == 1 else Dilated(stride)


def dense(tensor: torch.Tensor) -> Mask:
    """A mask by elements: bool [q_len, kv_len] or [B or 1, H or 1, q_len, kv_len], by the call's rows. Copied."""
    if not isinstance(tensor, torch.Tensor) or tensor.dtype != torch.bool:
        given = tensor.dtype if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(f"tensor: given {given}; a bool tensor is needed")
    if tensor.ndim not in (2, 4):
        raise ValueError(
            f"tensor: given shape {tuple(tensor.shape)}; [q_len, kv_len] or [B or 1, H or 1, q_len, kv_len]"
        )
    with torch.inference_mode(False):  # torch counts no changes of an inference tensor
        return Dense(tensor.detach().clone()[(None,) * (4 - tensor.ndim)])


def mask_mod(fn: Callable) -> Mask:
    """FlexAttention's fn(b, h, q_idx, kv_idx) -> bool. Equal to itself alone, whatever other masks have the same `fn`.

    What `fn` gives is kept with the mask, so it must be pure while the mask lives; where the data that it reads has
    changed, make a new mask or call `mask.refresh()`.
    """
    if not callable(fn):
        raise TypeError(f"fn: given {type(fn).__name__}; a function fn(b, h, q_idx, kv_idx) is needed")
    return MaskMod(fn)


_OF_TENSORS = WeakTensorKeyDictionary()
"""A tensor -> {text: (mask, versions of its tensors)}: masks live as long as the tensor that they were made for."""


def mask_of(owner: torch.Tensor, text: str, tensors: Sequence[torch.Tensor]) -> Mask:
    """`from_spec((text, tensors))`, and while `owner` lives and `tensors` hold the same, the same object.

    So what was made of it serves later calls. Contents are compared, but in a CUDA graph capture, which cannot wait for
    that: there it is torch's count of their changes.
    """
    made: dict = _OF_TENSORS.setdefault(owner, {})  # pyright: ignore[reportAssignmentType]
    mask, versions = made.get(text, (None, None))
    now = tuple(map(tensor_version, tensors))
    if mask is None or versions != now or not _holds(mask, tensors):
        mask = from_spec((text, tensors))
        made[text] = mask, now
    return mask


def _holds(mask: Mask, tensors: Sequence[torch.Tensor]) -> bool:
    held = [leaf.tensor for leaf in mask.leaves() if isinstance(leaf, Dense)]
    if len(held) != len(tensors):  # one was given twice
        return False
    if tensors[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return True
    return all(torch.equal(own, given[(None,) * (4 - given.ndim)]) for own, given in zip(held, tensors, strict=True))


CONSTRUCTORS.update(
    {f.__name__: f for f in (band, causal, sliding_window, prefix_lm, sink, chunked, document, dilated, dense)}
)
