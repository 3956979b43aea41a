"""Calls that are repeated: what was prepared for one serves every later call of its kind.

Checking a call, planning it and gathering its launches' arguments is most of what a call costs the host. All of that is
decided by a call's kind: shapes, strides, dtypes and alignments of its tensors, the mask, its numbers and its options.
Where the number of keys grows from token to token, one kind holds all numbers, told apart by the guards of their plans.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from types import NoneType
from typing import Any

import torch

from ..config import TileConfig
from ..mask import Band, Mask
from .guards import Guard

TENSORS = (torch.Tensor, torch.nn.Parameter)
OPTIONS = frozenset((bool, int, float, str, NoneType, TileConfig))
"""Types of options: two equal values of the same one mean the same."""
KIND_BYTES = 4096
"""What a kind counts for in the store of a mask that owns it; its tables on the device are counted apart."""
MOST_KINDS = 256
"""Beyond so many one is dropped: the oldest one that no call has asked for since the last time it was the oldest."""
MOST_PREPARED = 256
"""Beyond so many launches of one kind, told apart by guards, all of them are dropped."""
MOST_NUMBERS = 4096
MOST_RECENT = 64
"""So many numbers find their launch without asking the guards: the layers of a model give the same number in turn."""
ALIGNMENT = 16
"""Bytes: Triton compiles apart for tensors that begin at a multiple of it."""
GROWING = "grows"
"""Takes the place of an int kv_len in a kind, whose calls are told apart by guards. No kv_len is a str."""


Kind = tuple[tuple[Hashable, ...], Mask | None]
"""(everything that calls must have in common to share launches, the mask whose tables the launches hold or None)."""


def kind_of(
    tensors: Sequence[torch.Tensor | None], options: tuple, impl: str, mask: Any = None, tables: bool = False
) -> Kind | None:
    """The kind of a call; None for calls that the Triton kernels do not do, and for arguments that cannot be compared.

    tensors: the call runs on the first one's device; others may be None. options: the operation's name and all other
    arguments. tables: whether the launches hold tables of a mask even where that is a band.
    """
    first, types = tensors[0], tuple(map(type, options))
    if first is None or type(first) not in TENSORS or first.is_nested or not OPTIONS.issuperset(types):
        return None
    if impl != "triton" and not (impl == "auto" and first.is_cuda):
        return None
    # a CUDA graph takes another plan; without CUDA it is this variable that allows the kernels
    where = torch.cuda.is_current_stream_capturing() if first.is_cuda else os.environ.get("TRITON_INTERPRET")
    key: list[Any] = [where, types, options]
    for t in tensors:
        if t is None:
            key.append(None)
        elif type(t) in TENSORS:
            is_error = t.is_neg() or (t.requires_grad and torch.is_grad_enabled())
            key += t.dtype, t.device, t.shape, t.stride(), t.data_ptr() % ALIGNMENT == 0, is_error
        else:
            return None
    if not tables and (mask is None or type(mask) is Band):
        return (None if mask is None else (mask.left, mask.right), *key), None
    return ((kind_of, *key), mask) if isinstance(mask, Mask) else None


class _Question:
    """A guard's question, and for each answer the next question or what is prepared."""

    __slots__ = ("answers", "ask")

    def __init__(self, guard: Guard, following: Any) -> None:
        self.ask, self.answers = guard.ask, {guard.answer: following}


class _Prepared(dict):
    """What is prepared for the calls of one kind, by their number; None where nothing is.

    Held are the most recent numbers. For any other the tree of guards is asked, which has them in the order in which
    planning asked. Planning is pure: after the same answers it asks the same next question.
    """

    __slots__ = ("_tree", "asked", "count")

    def __init__(self) -> None:
        self._tree: Any = None
        self.count = 0
        """Of launches that guards tell apart."""
        self.asked = False
        """Whether a call has asked since this was last the oldest kind."""

    def __missing__(self, number: int | None) -> Callable | None:
        node = self._tree
        while type(node) is _Question:
            node = node.answers.get(node.ask(number))  # pyright: ignore[reportArgumentType] - guards are a number's
        if node is not None:
            if len(self) >= MOST_RECENT:
                self.clear()
            self[number] = node
        return node

    def put(self, guards: Sequence[Guard], prepared: Callable) -> None:
        if self.count >= MOST_PREPARED:
            self._tree, self.count = None, 0
            self.clear()
        node = self._tree
        for i, guard in enumerate(guards):
            if type(node) is not _Question:
                break
            following = node.answers.get(guard.answer)
            if following is None:
                node.answers[guard.answer] = _branch(guards[i + 1 :], prepared)
                self.count += 1
                return
            node = following
        if node is None:
            self._tree, self.count = _branch(guards, prepared), 1


def _branch(guards: Sequence[Guard], prepared: Callable) -> Any:
    node: Any = prepared
    for guard in reversed(guards):
        node = _Question(guard, node)
    return node


class RepeatedCalls:
    """Prepared launches by the kind of their calls, and by the guards of a growing number of keys.

    Launches that hold a mask's tables are the mask's own, and go with it and with its contents.
    """

    def __init__(self, most_kinds: int = MOST_KINDS) -> None:
        self._most_kinds, self._by_kind, self._lock = most_kinds, dict[Hashable, _Prepared](), threading.Lock()
        self._numbers, self._next = dict[Hashable, int](), itertools.count()

    def __len__(self) -> int:
        """Kinds, but for those that masks own."""
        return len(self._by_kind)

    def get(self, kind: Kind | None, number: int | None = None) -> Callable | None:
        """What is prepared for calls of this kind with this growing number; None where nothing is."""
        if kind is None:
            return None
        key, owner = kind
        prepared = self._by_kind.get(key) if owner is None else owner.owned.find(key)
        if prepared is None:
            return None
        prepared.asked = True
        return prepared[number]

    def put(self, kind: Kind | None, prepared: Callable, guards: Sequence[Guard] = ()) -> None:
        """Keep it for calls of this kind whose growing number answers the guards alike."""
        if kind is None:
            return
        key, owner = kind
        if owner is not None:
            owner.owned.put(key, _Prepared(), KIND_BYTES).put(guards, prepared)
            return
        with self._lock:
            if key not in self._by_kind and len(self._by_kind) >= self._most_kinds:
                self._drop_one()
            self._by_kind.setdefault(key, _Prepared()).put(guards, prepared)

    def _drop_one(self) -> None:
        """Drops the oldest kind that was not asked for; those that were become the newest ones."""
        while True:
            oldest = next(iter(self._by_kind))
            prepared = self._by_kind.pop(oldest)
            if not prepared.asked:
                return
            prepared.asked = False
            self._by_kind[oldest] = prepared

    def number_of(self, facts: Iterable[Hashable]) -> int:
        """A number that stands for these facts in kinds, where it is compared and hashed sooner than they are.

        It never comes to stand for others. Beyond `MOST_NUMBERS` all are forgotten: equal facts get another one then.
        """
        facts = tuple(facts)
        with self._lock:
            if facts not in self._numbers and len(self._numbers) >= MOST_NUMBERS:
                self._numbers.clear()
            return self._numbers.setdefault(facts, next(self._next))

    def clear(self) -> None:
        """Forgets all but what masks own; a test that changes a table of the library calls it."""
        with self._lock:
            self._by_kind.clear()


REPEATED = RepeatedCalls()
"""One for the process, as `mask.SHARED` is."""
