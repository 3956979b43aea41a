"""The launches of a call, prepared once for every call with tensors of the same kinds. Imports triton."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from triton.runtime import driver

from .dispatch import DISPATCHER, CompiledKernel, Launch, TmaTensor, traits_of_int, unpacking
from .guards import GuardedInt
from .memory import Memory, allocate, allocation

APART = 256
"""Bytes: what shares an allocation begins at multiples of it, as what has one of its own does on a GPU."""
MOST_MAPS = 4096
"""Of 128 bytes, for a descriptor of a kind of call; beyond so many all are dropped."""

current_device: Callable[[], int] = getattr(torch._C, "_cuda_getDevice", torch.cuda.current_device)
"""The current CUDA device's index. `torch.cuda.current_device` asks first whether CUDA is initialised; where there are
CUDA tensors, it is."""


def stream_of() -> Callable[[Any], int]:
    """The function that gives the handle of a CUDA device's current stream."""
    return driver.active.get_current_stream  # pyright: ignore[reportAttributeAccessIssue]


class Varying(int):
    """Stands for an int that differs from call to call; its identity tells it from other ints of the same value."""


def _plain(argument: Any) -> Any:
    """The argument with plain ints instead of `Varying`."""
    if type(argument) is Varying:
        return int(argument)
    make = getattr(type(argument), "_make", None)
    return argument if make is None else make(map(_plain, argument))


class Step(NamedTuple):
    """One launch of a call."""

    kernel: Any
    launch: Launch
    options: dict[str, Any]


Input = torch.Tensor | int | GuardedInt | None


class Ready:
    """The launches of a call, prepared for every call with tensors of the same dtypes, shapes, strides and alignments.

    inputs: the call's tensors and ints (or None); none of them is kept. memory: what the launches write, allocated for
    each call, as `steps` sees it. results: the shapes in which the first of it are returned, with as many elements;
    None returns all of it.

    steps(inputs, made) yields the launches; each tensor among their arguments must be one of the inputs or of the made
    ones, by itself or in a tuple. Tuples of the types `tables` are the exception: what they hold belongs to the kind of
    call, and is kept. An int among the inputs is a `Varying` for `steps`, which may use it as an argument or an item of
    a named tuple, where each call's own int is put, but not compute with it. For a `GuardedInt`, what Triton
    specializes its kernels for is recorded as a guard.
    """

    def __init__(
        self,
        inputs: Sequence[Input],
        memory: Sequence[Memory | None],
        steps: Callable[..., Iterable[Step]],
        tables: tuple[type, ...] = (),
        results: Sequence[tuple[int, ...]] | None = None,
    ) -> None:
        self._memory, self._device = memory, next(t.device for t in inputs if isinstance(t, torch.Tensor))
        self._index = self._device.index if self._device.type == "cuda" else None
        with self._on_device():
            stand_ins = [_stand_in(t) for t in inputs]
            made = allocate(memory, self._device)
            pool, planned = _Pool([*stand_ins, *made], tables), []
            for kernel, launch, options in steps(stand_ins, made):
                sources = [pool.source(argument) for argument in launch.arguments]
                plain = launch._replace(arguments=tuple(map(_plain, launch.arguments)))
                planned.append((sources, DISPATCHER.find(kernel, plain, **options)))
        self._by_address = all(kernel.by_address is not None for _, kernel in planned)
        gathered = [pool.complete(sources, kernel, self._by_address) for sources, kernel in planned]
        self._launches, self._constants, self._streams = _numbered(gathered, pool.size), pool.constants, set()
        self._stream_of: Callable[[Any], int] | None = None if self._index is None else stream_of()
        self._divide_memory(results)
        given = [*inputs, *self._results]
        self._tensors = [i for i, one in enumerate(given) if isinstance(one, torch.Tensor) or callable(one)]

    def _divide_memory(self, shapes: Sequence[tuple[int, ...]] | None) -> None:
        """What is returned comes in tensors of its own, the rest, where addresses will do, in one."""
        count = len(self._memory) if shapes is None else len(shapes)
        self._results: list[Callable[[], torch.Tensor] | None] = []
        self._offsets, size = [], 0
        for i, one in enumerate(self._memory[:count]):
            if one is None:
                self._results.append(None)
            elif shapes is None:
                self._results.append(allocation(one[0], one[1], self._device, *one[2:]))
            else:
                self._results.append(allocation(shapes[i], one[1], self._device))
        for one in self._memory[count:]:
            self._offsets.append(None if one is None else size)
            size += 0 if one is None else -(-math.prod(one[0]) * one[1].itemsize // APART) * APART
        self._own = allocation((size,), torch.uint8, self._device) if size else None

    def __call__(self, *inputs: torch.Tensor | int | None) -> list[Any]:
        """The results, written from these inputs on the current stream of their device."""
        index, made = self._index, []
        if index is not None and index != current_device():
            with self._on_device():
                return self(*inputs)
        for allocate_one in self._results:
            made.append(None if allocate_one is None else allocate_one())
        pool: list[Any] = [*inputs, *made]
        own = self._add_addresses(pool) if self._by_address else self._add_memory(pool)  # held until all is launched
        pool += self._constants
        stream = 0 if self._stream_of is None else self._stream_of(index)
        if stream not in self._streams:
            self._use_on(stream)
        for launch, maps, getters, pick in self._launches:
            for addresses, slot in maps:
                pool.append(addresses[pool[slot]])
            for get in getters:
                pool.append(get(pool))
            launch(pick(pool), stream)
        del own
        return made

    def _add_addresses(self, pool: list[Any]) -> torch.Tensor | None:
        """Addresses in the place of the pool's tensors, and of the memory that is not returned, which comes back."""
        for slot in self._tensors:
            pool[slot] = pool[slot].data_ptr()
        own, first = None, 0
        if self._own is not None:
            own = self._own()
            first = own.data_ptr()
        for at in self._offsets:
            pool.append(None if at is None else first + at)
        return own

    def _add_memory(self, pool: list[Any]) -> None:
        """The memory that is not returned, as tensors, where addresses will not do."""
        pool += allocate(self._memory[len(self._results) :], self._device)

    def _use_on(self, stream: int) -> None:
        """Records that this stream reads the tables, so that the allocator does not reuse their memory meanwhile."""
        for table in _tensors_in(self._constants) if self._index is not None else ():
            table.record_stream(torch.cuda.current_stream(self._index))
        self._streams.add(stream)

    def _on_device(self):
        return contextlib.nullcontext() if self._index is None else torch.cuda.device(self._index)


def _tensors_in(argument: Any) -> Iterator[torch.Tensor]:
    if isinstance(argument, torch.Tensor):
        yield argument
    elif isinstance(argument, tuple | list):
        for item in argument:
            yield from _tensors_in(item)


def _stand_in(given: Input) -> torch.Tensor | Varying | None:
    """A distinct stand-in for each input, so that a tensor given twice, or an int equal to a size, is distinguished."""
    if given is None:
        return None
    if isinstance(given, GuardedInt):
        given.ask(traits_of_int)  # the kernel is compiled for them
        return Varying(given.value)
    return given.detach() if isinstance(given, torch.Tensor) else Varying(given)


_Map = tuple["_Maps", int]
"""The copy engine's map of the tensor whose address is in that slot of the pool."""
Source = int | _Map | Callable[[list], Any]
"""Where an argument comes from: a slot of the pool, a map, or a function of the pool."""
_Launch = tuple[Callable[[tuple, int], None], list[_Map], list[Callable[[list], Any]], Callable[[list], tuple]]
"""One launch of a call: the kernel's, the maps and then the functions of the pool whose values are added to the pool,
and what picks the arguments out of it. Plain tuples are unpacked in half the time of named ones."""


class _Pool:
    """Maps arguments to slots of a pool: a call's inputs, then its memory, then what all calls share."""

    def __init__(self, tensors: Sequence[torch.Tensor | Varying | None], tables: tuple[type, ...]) -> None:
        self._slots = {id(t): i for i, t in enumerate(tensors) if t is not None}
        self._count, self._tables, self.constants = len(tensors), tables, []

    @property
    def size(self) -> int:
        return self._count + len(self.constants)

    def source(self, argument: Any) -> Source | TmaTensor:
        """Where the argument comes from; of a descriptor that is known with the kernel alone (`complete`)."""
        if isinstance(argument, TmaTensor):
            return argument
        if isinstance(argument, tuple) and not self._slots.keys().isdisjoint(map(id, argument)):
            return itemgetter(*map(self._slot, argument))  # a named tuple of tensors comes as a plain one
        return self._slot(argument)

    def complete(
        self, sources: Sequence[Source | TmaTensor], kernel: CompiledKernel, by_address: bool
    ) -> tuple[Callable, list[Source]]:
        """(the kernel's launch, where all that it takes comes from)."""
        found: list[Source] = []
        for i, source in enumerate(sources):
            if isinstance(source, TmaTensor):
                found += self._described(source, kernel.encoders[i] if by_address else None)
            else:
                found.append(source)
        launch = kernel.by_address if by_address else unpacking(kernel.run)
        return launch, found + [self._kept(constant) for constant in kernel.last]  # pyright: ignore[reportReturnType]

    def _described(self, tensor: TmaTensor, encode: Callable | None) -> list[Source]:
        """The descriptor, or what `encode` makes of it: the copy engine's map, and numbers."""
        slot = self._slot(tensor.tensor)
        if encode is None:
            return [_descriptor_getter(tensor, slot)]
        numbers = encode(tensor.descriptor())[1:]  # the same for each call
        return [(_Maps(tensor, encode), slot), *map(self._slot, numbers)]

    def _slot(self, argument: Any) -> int:
        if id(argument) in self._slots:
            return self._slots[id(argument)]
        if not isinstance(argument, self._tables):
            _check_constant(argument)
        return self._kept(argument)

    def _kept(self, constant: Any) -> int:
        self.constants.append(constant)
        return self.size - 1


def _numbered(gathered: Sequence[tuple[Callable, list[Source]]], size: int) -> list[_Launch]:
    """The launches of a call; size: of the pool before they add to it."""
    launches = []
    for launch, found in gathered:
        maps = [one for one in found if isinstance(one, tuple)]
        getters: list[Any] = [one for one in found if callable(one)]
        slots = {id(one): size + i for i, one in enumerate([*maps, *getters])}
        launches.append((launch, maps, getters, _picker([slots.get(id(one), one) for one in found])))
        size += len(slots)
    return launches


def _picker(slots: list[Any]) -> Callable[[list], tuple]:
    return itemgetter(*slots) if len(slots) > 1 else lambda pool: tuple(pool[slot] for slot in slots)


def _descriptor_getter(tensor: TmaTensor, slot: int) -> Callable[[list], Any]:
    """A function that makes the descriptor of the tensor in that slot; checks are done once, for the first tensor."""
    first = tensor.descriptor()
    kind, same = type(first), {name: value for name, value in vars(first).items() if name != "base"}

    def describe(pool: list) -> Any:
        made = object.__new__(kind)
        made.__dict__.update(same, base=pool[slot])
        return made

    return describe


class _Maps(dict):
    """The copy engine's maps by the address of what they are for; all else of it is a call's kind."""

    def __init__(self, tensor: TmaTensor, encode: Callable) -> None:
        first = tensor.descriptor()
        self._kind, self._encode = type(first), encode
        self._same = {name: value for name, value in vars(first).items() if name != "base"}

    def __missing__(self, address: int) -> Any:
        if len(self) >= MOST_MAPS:
            self.clear()
        described = object.__new__(self._kind)
        described.__dict__.update(self._same, base=_Address(address))
        return self.setdefault(address, self._encode(described)[0])


class _Address(int):
    """An address that says so as a tensor does."""

    def data_ptr(self) -> int:
        return int(self)


def _check_constant(argument: Any) -> None:
    if isinstance(argument, Varying):
        raise ValueError(f"arguments: given {argument!r} inside another argument, where it would go stale")
    if isinstance(argument, tuple):
        for item in argument if type(argument) is not tuple else ():  # plain ones hold ints, see `traits`
            _check_constant(item)
    elif not (argument is None or isinstance(argument, int | float)):
        kind = type(argument).__name__
        raise ValueError(f"arguments: given a {kind} that is neither an input of the call nor allocated for it")
