"""The launches of a call, prepared once for every call with tensors of the same kinds. Imports triton."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

import torch
from triton.runtime import driver

from .dispatch import DISPATCHER, Launch, TmaTensor, traits_of_int
from .guards import GuardedInt

APART = 256
"""Bytes: what shares an allocation begins at multiples of it, as what has one of its own does on a GPU."""
MOST_MAPS = 4096
"""Of 128 bytes, for a descriptor of a kind of call; beyond so many all are dropped."""

Memory = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of a tensor that is allocated for each call."""


def allocate(memory: Sequence[Memory | None], device: torch.device) -> list[Any]:
    """New tensors, unwritten; None where none is asked for. Each begins at a multiple of 16 bytes, as all new do."""
    return [None if one is None else torch.empty(one[0], dtype=one[1], device=device) for one in memory]


def stream_of(index: int) -> int:
    """The handle of a CUDA device's current stream."""
    return driver.active.get_current_stream(index)  # pyright: ignore[reportAttributeAccessIssue]


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
                getters = {i: [pool.getter(one)] for i, one in enumerate(launch.arguments) if not _is_described(one)}
                plain = launch._replace(arguments=tuple(map(_plain, launch.arguments)))
                planned.append((launch.arguments, getters, DISPATCHER.find(kernel, plain, **options)))
        self._by_address = all(kernel.by_address is not None for *_, kernel in planned)
        self._steps: list[tuple[Callable, tuple, list[Callable]]] = []
        for arguments, getters, kernel in planned:
            for i in filter(lambda i: _is_described(arguments[i]), range(len(arguments))):
                getters[i] = pool.descriptor_getters(arguments[i], kernel.encoders[i] if self._by_address else None)
            run = kernel.by_address if self._by_address else kernel.run
            self._steps.append((run, kernel.last, [get for i in range(len(arguments)) for get in getters[i]]))
        self._constants, self._streams = pool.constants, set()
        self._divide_memory(results)
        given = [*inputs, *self._results]
        self._tensors = [i for i, one in enumerate(given) if isinstance(one, torch.Tensor | partial)]

    def _divide_memory(self, shapes: Sequence[tuple[int, ...]] | None) -> None:
        """What is returned comes in tensors of its own, the rest, where addresses will do, in one."""
        count = len(self._memory) if shapes is None else len(shapes)
        self._results: list[Callable[[], torch.Tensor] | None] = []
        self._offsets, size = [], 0
        for i, one in enumerate(self._memory[:count]):
            shape = () if one is None else one[0] if shapes is None else shapes[i]
            self._results.append(one and partial(torch.empty, shape, dtype=one[1], device=self._device))
        for one in self._memory[count:]:
            self._offsets.append(None if one is None else size)
            size += 0 if one is None else -(-math.prod(one[0]) * one[1].itemsize // APART) * APART
        self._own = partial(torch.empty, size, dtype=torch.uint8, device=self._device) if size else None

    def __call__(self, *inputs: torch.Tensor | int | None) -> list[Any]:
        """The results, written from these inputs on the current stream of their device."""
        if self._index is None or torch.cuda.current_device() == self._index:
            return self._launch(inputs)
        with self._on_device():
            return self._launch(inputs)

    def _launch(self, inputs: Sequence[torch.Tensor | int | None]) -> list[Any]:
        made = [allocated and allocated() for allocated in self._results]
        pool: list[Any] = [*inputs, *made]
        if self._by_address:
            for slot in self._tensors:
                pool[slot] = pool[slot].data_ptr()
            own = self._own and self._own()  # held until all is launched
            first = 0 if own is None else own.data_ptr()
            for at in self._offsets:
                pool.append(None if at is None else first + at)
        else:
            pool += allocate(self._memory[len(made) :], self._device)
        pool += self._constants
        stream = 0 if self._index is None else stream_of(self._index)
        if stream not in self._streams:
            self._use_on(stream)
        for run, last, getters in self._steps:
            run(*[get(pool) for get in getters], *last, stream=stream)
        return made

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


class _Pool:
    """Maps arguments to slots of a pool: a call's inputs, then its memory, then what all calls share."""

    def __init__(self, tensors: Sequence[torch.Tensor | Varying | None], tables: tuple[type, ...]) -> None:
        self._slots = {id(t): i for i, t in enumerate(tensors) if t is not None}
        self._count, self._tables, self.constants = len(tensors), tables, []

    def getter(self, argument: Any) -> Callable[[Any], Any]:
        """Takes the argument from the pool; a named tuple of tensors comes as a plain one."""
        if isinstance(argument, tuple) and not self._slots.keys().isdisjoint(map(id, argument)):
            return itemgetter(*map(self._slot, argument))
        return itemgetter(self._slot(argument))

    def descriptor_getters(self, tensor: TmaTensor, encode: Callable | None) -> list[Callable[[Any], Any]]:
        """They take the descriptor, or what `encode` makes of it, the copy engine's map and numbers, of the pool."""
        slot = self._slot(tensor.tensor)
        if encode is None:
            return [_descriptor_getter(tensor, slot)]
        maps, numbers = _Maps(tensor, encode), encode(tensor.descriptor())[1:]  # numbers are the same for each call
        return [lambda pool: maps[pool[slot]], *(itemgetter(self._slot(number)) for number in numbers)]

    def _slot(self, argument: Any) -> int:
        if id(argument) in self._slots:
            return self._slots[id(argument)]
        if not isinstance(argument, self._tables):
            _check_constant(argument)
        self.constants.append(argument)
        return self._count + len(self.constants) - 1


def _descriptor_getter(tensor: TmaTensor, slot: int) -> Callable[[tuple], Any]:
    """A function that makes the descriptor of the tensor in that slot; checks are done once, for the first tensor."""
    first = tensor.descriptor()
    kind, same = type(first), {name: value for name, value in vars(first).items() if name != "base"}

    def describe(pool: tuple) -> Any:
        made = object.__new__(kind)
        made.__dict__.update(same, base=pool[slot])
        return made

    return describe


def _is_described(argument: Any) -> bool:
    return isinstance(argument, TmaTensor)


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
