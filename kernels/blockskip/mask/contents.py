"""Masks that hold a tensor or a function: their contents may change, which `Mask.version` tells."""

from __future__ import annotations

import dis
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from .base import Mask
from .kept import kept_by_mask


@dataclass(frozen=True, repr=False, eq=False)
class Dense(Mask):
    """A bool tensor, [1 or B, 1 or H, q_len, kv_len], indexed by the call's rows. Equal if the contents are.

    A tensor that is filled in place makes another mask of it, with another hash.
    """

    tensor: torch.Tensor

    _is_value = False
    _is_of_positions = False

    def __eq__(self, other):
        if not isinstance(other, Dense) or self.tensor.shape != other.tensor.shape:
            return False
        return self is other or self._digest == other._digest

    def __hash__(self):
        return hash((self.tensor.shape, self._digest))

    @property
    def _digest(self) -> bytes:
        """Of the contents; read once a version, and from a GPU only where masks are compared or hashed."""
        version = self.version
        made = self.__dict__.get("_read")
        if made is None or made[0] != version:
            bits = np.packbits(self.tensor.cpu().numpy())
            made = self.__dict__["_read"] = version, hashlib.blake2b(bits.tobytes(), digest_size=32).digest()
        return made[1]

    @property
    def _version(self):
        return tensor_version(self.tensor), self.__dict__.get("_refreshed", 0)

    @property
    def extent(self):
        return self.tensor.shape[0], self.tensor.shape[1]

    def _for_batch(self, batch):
        return Dense(self.tensor[batch : batch + 1])

    @property
    def _varies(self):
        return self.tensor.shape[0] > 1, self.tensor.shape[1] > 1

    def check(self, q_len: int, kv_len: int) -> None:
        rows, cols = self.tensor.shape[-2:]
        if rows != q_len or cols < kv_len:
            raise ValueError(
                f"mask: dense has {rows} query rows and {cols} keys; the call has q_len {q_len} and kv_len {kv_len} "
                "(rows must be equal, keys at least kv_len)"
            )

    def _bind(self, device):
        tensor = self.tensor if self.tensor.device == device else _tensor_on(self, device)
        by_batch, by_head = self._varies

        def keep(q, k, batch, head, row):
            return tensor[batch if by_batch else 0, head if by_head else 0, row, k]

        return keep

    def _text(self, tensors):
        tensors.append(self.tensor)
        return f"dense({len(tensors) - 1})"

    def __repr__(self):
        return f"dense({'x'.join(map(str, self.tensor.shape))})"


@kept_by_mask(lambda tensor: tensor.nbytes)
def _tensor_on(mask: Dense, device: torch.device) -> torch.Tensor:
    return mask.tensor.to(device)


@dataclass(frozen=True, repr=False, eq=False)
class MaskMod(Mask):
    """FlexAttention's fn(b, h, q_idx, kv_idx) -> bool; q_idx is the call's row. Equal to itself alone.

    `fn` must be pure while the mask lives: what it gives is kept. After a change of the data that it reads, `refresh`.
    """

    fn: Callable

    _is_value = False
    _is_of_positions = False

    @property
    def _version(self):
        return self.__dict__.get("_refreshed", 0)

    @functools.cached_property
    def _varies(self):
        return _uses_argument(self.fn, 0), _uses_argument(self.fn, 1)

    def _bind(self, device):
        fn = self.fn

        def keep(q, k, batch, head, row):
            # FlexAttention hands over tensors; functions written for it may call methods on them
            batch, head = (_index(x, device) for x in (batch, head))
            answer = fn(batch, head, row, k)
            return answer.to(device) if isinstance(answer, torch.Tensor) else _index(answer, device) != 0

        return keep

    def mod(self, q_start=0, device=None):
        return self.fn

    def _for_batch(self, batch):
        fn = self.fn
        return MaskMod(lambda b, h, q, k: fn(b + batch, h, q, k))

    def _text(self, tensors):
        raise ValueError(f"mask: {self!r} is a function and has no text; use dense(tensor) where a spec is needed")

    def __repr__(self):
        return f"mask_mod({getattr(self.fn, '__name__', type(self.fn).__name__)})"


def tensor_version(tensor: torch.Tensor) -> int:
    """Grows with every change in place that torch sees; -1 for an inference tensor, whose changes it does not count."""
    return -1 if tensor.is_inference() else tensor._version


def _index(x, device: torch.device) -> torch.Tensor:
    return x.to(device) if isinstance(x, torch.Tensor) else torch.tensor(x, dtype=torch.int64, device=device)


def _uses_argument(fn: Callable, index: int) -> bool:
    """Whether a mask_mod reads its argument `index`; True unless its bytecode shows that it does not."""
    code = getattr(fn, "__code__", None)
    if code is None or code.co_argcount != 4 or code.co_flags & 0x0C:  # *args, **kwargs
        return True
    name = code.co_varnames[index]
    return any(name in _names(i.argval) for i in dis.get_instructions(code)) or "locals" in code.co_names


def _names(argval) -> tuple:
    return argval if isinstance(argval, tuple) else (argval,)
