"""Ring caches: position p lies in slot p % R of R slots, and overwrites the position that lay there.

Everything but the loads counts in positions, as if the cache were endless; only a load turns a position into a slot.
The keys before kv_len - R are overwritten, so a mask must not see them.
"""

from __future__ import annotations

import torch

from ..mask import Band, Mask
from ..tilemap import TileMap


def positions(kv_len: int | torch.Tensor, slots: int, device: torch.device) -> torch.Tensor:
    """int64 [slots], or [.., slots] for a kv_len [.., 1]: the position that each slot holds, negative where none."""
    last = kv_len - 1
    return last - (last - torch.arange(slots, dtype=torch.int64, device=device)) % slots


def unrolled(x: torch.Tensor, first: int, end: int) -> torch.Tensor:
    """The positions first .. end - 1 of a ring x [.., slots, D]: a view, or a copy where they pass the last slot."""
    slots = x.shape[-2]
    start, rest = first % slots, end - first
    if start + rest <= slots:
        return x[..., start : start + rest, :]
    rounds, tail = divmod(start + rest - slots, slots)  # more than one round reads slots again, which a mask then drops
    return torch.cat([x[..., start:, :], *[x] * rounds, x[..., :tail, :]], -2)


def check_int(name: str, mask: Mask, q: torch.Tensor, kv_len: int, q_start: int, slots: int) -> None:
    """ValueError where `mask`, the argument called `name`, sees an overwritten key."""
    oldest = kv_len - slots
    if oldest <= 0:
        return
    first = _first_key(mask, q, kv_len, q_start)
    if first is not None and first < oldest:
        raise ValueError(
            f"{name}: {mask!r} sees key {first}, which is overwritten: after {kv_len} keys a ring of {slots} slots "
            f"holds the keys from {oldest} on"
        )


def check_device(name: str, mask: Mask, q_len: int, slots: int) -> None:
    """ValueError where `mask` may see an overwritten key for some kv_len; the queries are the last positions."""
    if not isinstance(mask, Band):
        raise ValueError(
            f"{name}: given {mask!r}; ring=True with a kv_len tensor needs a band such as sliding_window(w), for it "
            "cannot be looked at which keys of another mask are overwritten"
        )
    if mask.is_nothing or (mask.left is not None and mask.left + q_len <= slots):
        return
    raise ValueError(
        f"{name}: {mask!r} may see overwritten keys: {q_len} queries with a kv_len tensor and a ring of {slots} slots "
        f"need window + {q_len - 1} <= {slots}"
    )


def _first_key(mask: Mask, q: torch.Tensor, kv_len: int, q_start: int) -> int | None:
    """The first key that any query sees (with `dilated` among other masks: may see); None where no query sees a key."""
    batches, heads, q_len, _ = q.shape
    if isinstance(mask, Band):
        first = q_start if mask.right is None else max(q_start, -mask.right)  # an earlier query sees no key
        if mask.is_nothing or first >= q_start + q_len:
            return None
        return 0 if mask.left is None else max(first - mask.left, 0)
    by_batch, by_head = mask.varies
    firsts = []
    for b in range(batches if by_batch else 1):
        for h in range(heads if by_head else 1):
            runs = TileMap.build(mask, q_len, kv_len, q_len, 1, q_start, b, h).runs
            firsts += [int(runs[:, 0].min())] if len(runs) else []
    return min(firsts, default=None)
