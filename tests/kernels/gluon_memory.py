"""What a Gluon kernel's names stand for on a CPU: pointers, shared memory, barriers, products that are under way."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from gluon_groups import NOBODY, running_group


class Pointer:
    """Elements of a tensor's memory, counted from its first; a number of them or a tensor of numbers."""

    type = SimpleNamespace(layout=None)

    def __init__(self, memory: torch.Tensor, offset: Any = 0):
        self.memory, self.offset = memory, offset
        self.dtype = SimpleNamespace(element_ty=memory.dtype)

    @classmethod
    def to(cls, tensor: torch.Tensor) -> Pointer:
        elements = tensor.untyped_storage().nbytes() // tensor.element_size() - tensor.storage_offset()
        return cls(tensor.detach().as_strided((elements,), (1,), tensor.storage_offset()))

    def __add__(self, more: Any) -> Pointer:
        return Pointer(self.memory, self.offset + more)


class Shared:
    """A part of shared memory, which holds NaN, or any integers, until it is written."""

    layout = None

    def __init__(self, data: torch.Tensor):
        self.data, self.dtype = data, data.dtype

    def index(self, i) -> Shared:
        return Shared(self.data[int(i)])

    def permute(self, order) -> Shared:
        return Shared(self.data.permute(order))

    def reshape(self, shape) -> Shared:
        return Shared(self.data.view(*shape))

    def slice(self, start: int, length: int, dim: int) -> Shared:
        return Shared(self.data.narrow(dim, start, length))

    def _reinterpret(self, dtype, shape, layout) -> Shared:
        return Shared(self.data.view(dtype).view(*shape))

    def store(self, value: torch.Tensor) -> None:
        self.data.copy_(value)

    def load(self, layout=None) -> torch.Tensor:
        return self.data.clone()


class Barrier:
    """An mbarrier: a phase ends when all have arrived and all announced bytes have come."""

    def __init__(self):
        self.count = self.missing = self.bytes = self.phase = 0
        self.copies: list[Callable[[], int]] = []

    def init(self, count: int) -> None:
        self.count = self.missing = count

    def arrive(self, bytes: int = 0) -> None:
        assert self.count > 0, "the barrier was not initialised"
        self.bytes += bytes
        self.missing -= 1
        assert self.missing >= 0, "more have arrived than a phase takes"
        self._complete()

    def wait(self, phase: int) -> None:
        """Until the phase of this parity has ended."""
        if not self._has_ended(phase):
            group = running_group()
            assert group is not None, NOBODY
            group.wait(lambda: self._has_ended(phase))

    def copied(self, copy: Callable[[], int], late: bool) -> None:
        """A copy is under way whose bytes count here; late: it happens once somebody waits."""
        self.copies.append(copy)
        if not late:
            self._deliver()

    def _has_ended(self, phase: int) -> bool:
        self._deliver()
        return self.phase & 1 != phase

    def _deliver(self) -> None:
        for copy in self.copies:
            self.bytes -= copy()
        self.copies.clear()
        self._complete()

    def _complete(self) -> None:
        if self.missing == 0 and self.bytes == 0:
            self.phase += 1
            self.missing = self.count


class Barriers(list):
    """One a stage."""

    def index(self, stage) -> Barrier:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self[stage]


class Product:
    """A product that was begun; its sum is there once it was waited for."""

    def __init__(self, a, b: Shared, acc: torch.Tensor, use_acc: bool):
        self._terms, self.sum = (a, b, acc, use_acc), torch.empty(0)

    def compute(self) -> None:
        a, b, acc, use_acc = self._terms
        acc = acc.sum if isinstance(acc, Product) else acc
        product = (a.data if isinstance(a, Shared) else a).float() @ b.data.float()
        self.sum = acc + product if use_acc else product
