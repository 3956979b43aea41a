"""Runs a Gluon kernel for Hopper on a CPU, which Triton's interpreter does not: its Python, over torch tensors.

Each group of warps is a thread, of which one runs at a time, until it waits; barriers count arrivals and bytes as the
device's do. A product is computed as late as it may be, when it is waited for and no other group can go on, from what
the buffers hold then; copies happen at once, or as late as they may, when their barrier is waited for. So memory that
is given back too early shows in the result, and so does a descriptor that is made anew under a copy; who waits for what
never comes is an error. Layouts mean nothing here, and products are summed in torch's order.
"""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from blockskip.launching.dispatch import TmaTensor
from blockskip.linear.hopper.share import WRITTEN
from gluon_groups import Groups, running_group
from gluon_memory import Barrier, Barriers, Pointer, Product, Shared
from triton.language import constexpr

TAG = torch.tensor([WRITTEN]).view(torch.float32)


class Machine:
    """One program's surroundings, and the modules that a kernel's source finds by name."""

    def __init__(self, grid: tuple[int, ...], copies: str):
        self.grid, self.program = (*grid, 1, 1)[:3], (0, 0, 0)
        self.late = copies == "late"
        self.descriptors: dict[Any, SimpleNamespace] = {}

    def names(self) -> dict[str, Any]:
        """By the name that the kernel's module has for it."""
        layouts = dict.fromkeys(
            ("BlockedLayout", "SliceLayout", "DotOperandLayout", "NVMMADistributedLayout", "DistributedLinearLayout",
             "SwizzledSharedLayout"), _nothing
        )  # fmt: skip
        gl = SimpleNamespace(
            **layouts, NVMMASharedLayout=_SharedLayout, constexpr=lambda x: x,
            int32=torch.int32, int64=torch.int64, float32=torch.float32, float16=torch.float16,
            bfloat16=torch.bfloat16, split=lambda t: t.unbind(-1), permute=lambda t, order: t.permute(order),
            reshape=lambda t, shape: t.reshape(shape), expand_dims=lambda t, axis: t.unsqueeze(axis),
            broadcast=torch.broadcast_tensors, static_range=range, to_tensor=torch.as_tensor,
            cast=lambda x, dtype: torch.as_tensor(x).to(dtype),
            where=_where, minimum=_scalar_or(min, torch.minimum), maximum=_scalar_or(max, torch.maximum),
            cdiv=lambda a, b: -(-a // b), load=_load, store=_store, arange=lambda a, b, layout=None: torch.arange(a, b),
            zeros=lambda shape, dtype, layout=None: torch.zeros(shape, dtype=dtype),
            full=lambda shape, value, dtype, layout=None: torch.full(shape, value, dtype=dtype),
            abs=torch.abs, exp2=torch.exp2, log2=torch.log2, fma=lambda a, b, c: a * b + c,
            max=lambda x, axis: x.amax(axis),
            sum=lambda x, axis: x.sum(axis), convert_layout=lambda x, layout, assert_trivial=False: x,
            allocate_shared_memory=_allocate,
            program_id=lambda axis: self.program[axis], num_programs=lambda axis: self.grid[axis],
            warp_specialize=self._warp_specialize,
        )  # fmt: skip
        mbarrier = SimpleNamespace(
            MBarrierLayout=lambda: Barriers, init=lambda bar, count: bar.init(count),
            wait=lambda bar, phase, pred=True: bar.wait(int(phase)) if pred else None,
            arrive=lambda bar, pred=True: bar.arrive() if pred else None, expect=lambda bar, bytes: bar.arrive(bytes),
        )  # fmt: skip
        tma = SimpleNamespace(
            make_tensor_descriptor=self._describe, async_copy_global_to_shared=self._copy,
            async_copy_shared_to_global=self._copy_out, store_wait=self._await_stores,
        )  # fmt: skip
        async_copy = SimpleNamespace(
            async_copy_global_to_shared=self._copy_rows, commit_group=self._end_rows, wait_group=self._await_rows,
        )  # fmt: skip
        return {
            "gl": gl, "tl": gl, "mbarrier": mbarrier, "tma": tma, "fence_async_shared": _nothing,
            "async_copy": async_copy, "warpgroup_mma": self._multiply, "warpgroup_mma_wait": self._wait,
            "gdc_wait": _nothing, "gdc_launch_dependents": _nothing, "thread_barrier": _nothing, "mma_v2": _mma,
            "differences": _differences, "raise_flags": _raise_flags, "await_flags": _await_flags,
            "leave": _leave, "take": _take,
            "scaled_differences": lambda packed, zero, scale: _differences(packed, zero) * scale,
        }  # fmt: skip

    def _describe(self, base: Pointer, shape, strides, block, layout) -> SimpleNamespace:
        """Each place in the source, by all its callers, has one descriptor in memory, made anew."""
        frame, lines = sys._getframe(1), []
        while frame is not None and frame.f_globals is not globals():
            lines.append(frame.f_lineno)
            frame = frame.f_back
        made = self.descriptors.setdefault(tuple(lines), SimpleNamespace())
        made.base, made.shape, made.strides, made.block = base, shape, strides, block
        return made

    def _copy(self, descriptor, place, barrier: Barrier, into: Shared) -> None:
        """A block from `place` on; what lies beyond the descriptor's shape is zeros."""

        def copy() -> int:
            memory, offset, sizes, strides = descriptor.base.memory, int(descriptor.base.offset), [], []
            described = zip(descriptor.block, place, descriptor.shape, descriptor.strides, strict=True)
            for size, start, end, stride in (map(int, dimension) for dimension in described):
                assert start >= 0, "a copy begins before the first element"
                offset += start * stride
                sizes.append(max(0, min(size, end - start)))
                strides.append(stride if size > 1 else 0)
            into.data.zero_()
            if 0 not in sizes:  # addresses are modulo 2**64
                first = memory.storage_offset() + (offset + (1 << 63)) % (1 << 64) - (1 << 63)
                into.data[tuple(map(slice, sizes))] = memory.as_strided(sizes, strides, first)
            return into.data.nbytes

        barrier.copied(copy, self.late)

    def _copy_out(self, descriptor, place, source: Shared) -> None:
        """A block from `place` on, without what lies beyond the descriptor's shape; late: once it is waited for."""

        def copy() -> None:
            described = zip(descriptor.block, map(int, place), descriptor.shape, strict=True)
            sizes = [max(0, min(size, end - start)) for size, start, end in described]
            first = descriptor.base.memory.storage_offset() + int(descriptor.base.offset)
            into = descriptor.base.memory.as_strided(descriptor.shape, descriptor.strides, first)
            parts = tuple(slice(int(start), int(start) + size) for start, size in zip(place, sizes, strict=True))
            into[parts] = source.data[tuple(map(slice, sizes))]

        running_group().stores.append(copy)
        if not self.late:
            self._await_stores(0)

    def _await_stores(self, outstanding: int) -> None:
        stores = running_group().stores
        while len(stores) > outstanding:
            stores.pop(0)()

    def _copy_rows(self, into: Shared, pointers: Pointer, mask: torch.Tensor) -> None:
        """A thread's own copies to shared memory, where there is nothing to be read until they are waited for."""
        into.data.fill_(math.nan)
        running_group().rows.append(lambda: into.store(_load(pointers, mask)))

    def _end_rows(self) -> None:
        group = running_group()
        group.copies.append(group.rows[:])
        group.rows.clear()

    def _await_rows(self, outstanding: int) -> None:
        copies = running_group().copies
        while len(copies) > outstanding:
            for copy in copies.pop(0):
                copy()

    def _multiply(self, a, b, acc, *, use_acc=True, is_async=False) -> Product:
        product = Product(a, b, acc, bool(use_acc))
        running_group().begun.append(product)
        assert is_async
        return product

    def _wait(self, outstanding: int, deps: tuple[Product, ...]) -> Any:
        group = running_group()
        if len(group.begun) > outstanding:
            group.wait(None)
        while len(group.begun) > outstanding:
            group.begun.pop(0).compute()
        sums = tuple(product.sum for product in deps)
        return sums[0] if len(sums) == 1 else sums

    def _warp_specialize(self, groups, warps, registers) -> None:
        Groups(groups).run()


def _nothing(*arguments, **named) -> None:
    pass


class _SharedLayout:
    get_default_for = staticmethod(_nothing)

    def __init__(self, *arguments):
        pass


def _differences(packed: torch.Tensor, zero: torch.Tensor) -> torch.Tensor:
    """What the instructions of `linear.hopper.unpack` do: element 2 j + h of a word is its nibble j + 4 h."""
    element = torch.arange(8)
    codes = packed >> 4 * (element // 2 + element % 2 * 4) & 15
    magic = 128 if zero.dtype == torch.bfloat16 else 1024
    return (codes + magic).to(zero.dtype) - zero


def _mma(a: torch.Tensor, b: torch.Tensor, acc: torch.Tensor) -> torch.Tensor:
    return acc + a.float() @ b.float()


def _raise_flags(flags: Pointer) -> None:
    flags.memory[flags.offset] = WRITTEN


def _await_flags(flags: Pointer) -> None:
    """Programs run one after the other: what is waited for must have been done."""
    assert (flags.memory[flags.offset] == WRITTEN).all(), (
        "waited for a program that runs later, or never raises its flags"
    )
    flags.memory[flags.offset] = 0


def _leave(pointers: Pointer, acc: torch.Tensor) -> None:
    """Two numbers and their tag, which are as many bits, adjoin."""
    first, memory = pointers.offset[:, ::2], pointers.memory
    for i, value in enumerate((acc[:, ::2], acc[:, 1::2], *TAG)):
        memory[first + i] = value


def _take(pointers: Pointer, count: int, stride: int) -> torch.Tensor:
    """Programs run one after the other: what is waited for must have been done."""
    first, memory, total = pointers.offset[:, ::2], pointers.memory, torch.tensor(0.0)
    for _ in range(min(int(count), 4)):
        tags = (memory[first + 2 + i].view(torch.int32) == half.view(torch.int32) for i, half in enumerate(TAG))
        assert all(same.all() for same in tags), "waited for a program that runs later, or never leaves its sums"
        total = total + torch.stack([memory[first], memory[first + 1]], -1).flatten(-2)
        memory[first + 2] = memory[first + 3] = 0
        first = first + stride
    return total


def _scalar_or(few: Callable, many: Callable) -> Callable:
    def choose(a, b):
        if isinstance(a, torch.Tensor) or isinstance(b, torch.Tensor):
            return many(torch.as_tensor(a), torch.as_tensor(b))
        return few(a, b)

    return choose


def _where(condition, yes, no) -> Any:
    if isinstance(condition, torch.Tensor):
        return torch.where(condition, yes, no)
    return yes if condition else no


def _load(pointer: Pointer, mask=None, other=0) -> Any:
    if not isinstance(pointer.offset, torch.Tensor) or pointer.offset.ndim == 0:
        return pointer.memory[int(pointer.offset)].item()
    if mask is None or (mask.shape == pointer.offset.shape and mask.all()):
        return pointer.memory[pointer.offset]
    offset, mask = torch.broadcast_tensors(pointer.offset, mask)
    found = torch.full(offset.shape, other, dtype=pointer.memory.dtype)
    found[mask] = pointer.memory[offset[mask]]
    return found


def _store(pointer: Pointer, value: torch.Tensor, mask: torch.Tensor | None = None) -> None:
    if mask is None or (mask.shape == pointer.offset.shape and mask.all()):
        pointer.memory[pointer.offset] = value
        return
    offset, value, mask = torch.broadcast_tensors(pointer.offset, value, mask)
    pointer.memory[offset[mask]] = value[mask]


def _allocate(dtype, shape, layout) -> Any:
    if layout is Barriers:
        return Barriers(Barrier() for _ in range(shape[0]))
    return Shared(torch.full(shape, math.nan if dtype.is_floating_point else 0x5A5A5A5A, dtype=dtype))


def interpret(kernel: Any, launch: Any, copies: str) -> None:
    """The launch of a Gluon kernel, program after program; copies: they happen `early` or `late`."""
    machine = Machine(launch.grid, copies)
    run = _plain(kernel, machine.names(), {})
    arguments = [_pointers(argument) for argument in launch.arguments]
    for program in range(math.prod(machine.grid)):
        rest, first = divmod(program, machine.grid[0])
        machine.program = first, rest % machine.grid[1], rest // machine.grid[1]
        run(*arguments, **launch.constants)


def _plain(function: Any, machine: dict[str, Any], modules: dict[int, dict[str, Any]]) -> Callable:
    """A compiled function as plain Python, in whose module `machine`'s names stand for Gluon's, as in all it calls.

    modules: the names of those that were made so, by the identity of their own.
    """
    fn = function.fn
    names = modules.get(id(fn.__globals__))
    if names is None:
        names = modules[id(fn.__globals__)] = {**fn.__globals__, **machine}
        for name, value in fn.__globals__.items():
            if name in machine:
                continue
            if isinstance(getattr(value, "fn", None), types.FunctionType):
                names[name] = _plain(value, machine, modules)
            elif isinstance(value, constexpr):
                names[name] = value.value
    return types.FunctionType(fn.__code__, names, fn.__name__, fn.__defaults__)


def _pointers(argument: Any) -> Any:
    if isinstance(argument, TmaTensor):
        of = {name: getattr(argument, name) for name in ("shape", "strides", "block")}
        return SimpleNamespace(base=Pointer.to(argument.tensor), dtype=argument.tensor.dtype, **of)
    if isinstance(argument, torch.Tensor):
        return Pointer.to(argument)
    make = getattr(type(argument), "_make", None)
    return argument if make is None else make(map(_pointers, argument))
