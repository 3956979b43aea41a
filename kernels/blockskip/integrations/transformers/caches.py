"""A static cache of transformers whose layers with a window are rings: a step writes one slot, and no number leaves the
device.

transformers' own static layer with a window moves all its keys by one slot for each token, and counts tokens in an int:
under torch.compile with CUDA graphs each token then has a graph of its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import StaticCache, StaticLayer, StaticSlidingWindowLayer

from .attention import attend


class RingLayer(StaticLayer):
    """Keys and values of the last positions: that of position p in slot p % slots. max_cache_len: the slots."""

    is_sliding = True
    is_croppable = False

    def __init__(self, max_cache_len: int, **others: Any) -> None:
        super().__init__(max_cache_len=max_cache_len)
        self._seen: int | None = 0
        """Tokens that were added; None after single ones, which the device alone counts."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **others: Any) -> tuple[Tensor, Tensor]:
        """Adds keys and values [B, Hkv, L, D].

        Returns what attention is given: all slots for one token; for several the keys before them, in order, and they.
        """
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        keys, values = self.keys, self.values
        assert keys is not None and values is not None
        count = key_states.shape[-2]
        if count == 1:
            self._seen = None
            slot = (self.cumulative_length % self.max_cache_len)[None]
            keys.index_copy_(2, slot, key_states)
            values.index_copy_(2, slot, value_states)
            self.cumulative_length.add_(1)
            return keys, values
        seen = self._read_seen()
        self.cumulative_length.add_(count)
        self._seen = seen + count
        return self._add(keys, key_states, seen), self._add(values, value_states, seen)

    def _add(self, held: Tensor, new: Tensor, seen: int) -> Tensor:
        """The earlier ones that the first of several sees, and they; the last are then held."""
        count = new.shape[2]
        before, last = self._slots(seen - self._previous(seen), seen, new), min(count, self.max_cache_len)
        found = torch.cat((held.index_select(2, before), new), 2) if len(before) else new
        held.index_copy_(2, self._slots(seen + count - last, seen + count, new), new[:, :, -last:])
        return found

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """(keys that `update` will return, the position of the first; of a single token all slots, and 0)."""
        if query_length == 1:
            return self.max_cache_len, 0
        seen = self._read_seen()
        return self._previous(seen) + query_length, seen - self._previous(seen)

    def reset(self) -> None:
        super().reset()
        self._seen = 0

    def crop(self, *args: Any, **others: Any) -> None:
        """ValueError: the keys that later ones have overwritten are gone."""
        raise ValueError("crop: given to a ring cache, whose overwritten keys are gone; use transformers' StaticCache")

    def _read_seen(self) -> int:
        if self._seen is None:
            self._seen = int(self.cumulative_length)
        return self._seen

    def _previous(self, seen: int) -> int:
        """How many earlier keys the first of several tokens sees."""
        return min(seen, self.max_cache_len - 1)

    def _slots(self, first: int, end: int, of: Tensor) -> Tensor:
        """int64, on the tensor's device: where positions first .. end - 1 are."""
        return torch.arange(first, end, dtype=torch.int64, device=of.device) % self.max_cache_len


class RingCache(StaticCache):
    """See `ring_cache`."""

    def __init__(self, config: Any, max_cache_len: int) -> None:
        from transformers import AttentionInterface

        text = config.get_text_config(decoder=True)
        if AttentionInterface().get(text._attn_implementation) is not attend:
            raise ValueError(
                f"config: given one of attn_implementation={text._attn_implementation!r}, which does not read rings; "
                "model.set_attn_implementation('blockskip') after register(), then its config, is needed"
            )
        super().__init__(config=config, max_cache_len=max_cache_len)
        if getattr(text, "attention_chunk_size", None) is None:  # else a layer's window may be a chunk
            self.layers = [
                RingLayer(x.max_cache_len) if type(x) is StaticSlidingWindowLayer else x for x in self.layers
            ]
