"""What a decoder layer's heads are: their sizes, norms and rotation, and where keys and values go."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class HeadLayout(NamedTuple):
    """The heads of one layer. query, kv: how many; dim: head_dim, even.

    key_is_value: values are the keys as the product gave them, before their norm and rotation.
    """

    query: int
    kv: int
    dim: int
    key_is_value: bool = False

    @property
    def width(self) -> int:
        """Numbers a token that the fused product of queries, keys and values gives."""
        return (self.query + self.kv * (1 if self.key_is_value else 2)) * self.dim

    @property
    def first_value(self) -> int:
        """The first head of the product that is read as values."""
        return self.query if self.key_is_value else self.query + self.kv


class HeadNorms(NamedTuple):
    """RMS norms of each head. query, key: weights [D], None for no norm. value: whether values have one, unweighted."""

    query: Tensor | None = None
    key: Tensor | None = None
    value: bool = False
    eps: float = 1e-6


class Rotation(NamedTuple):
    """cos, sin: float32 [B or 1, T, 1, D / 2], of each position and pair of dimensions."""

    cos: Tensor
    sin: Tensor


class Targets(NamedTuple):
    """Where a layer's keys and values are written: [B, Hkv, slots, D], any strides.

    slots: int64 [B or 1, T], the slot of each token; None: the first token's is 0, and so on.
    """

    keys: Tensor
    values: Tensor
    slots: Tensor | None = None
