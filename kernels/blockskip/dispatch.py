"""Launching a Triton kernel without asking Triton each time what it was compiled for, and a call's launches made ready.

Triton's own launch binds the arguments, looks at each of their numbers in Python and builds a text of it all to look
the kernel up by. For tensors that come with their shapes and strides that is most of what a launch costs the host. Here
a kernel is found by the same traits, less dearly gathered; what Triton compiled is then launched as it offers itself.
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs
from triton.runtime import driver


class Launch(NamedTuple):
    """Arguments, constexpr parameters by name, and grid of one launch; `compile` of the same works without a GPU."""

    arguments: tuple
    constants: dict[str, Any]
    grid: tuple[int, ...]


class Described(NamedTuple):
    """A tensor that a kernel reads block by block through the copy engine.

    It is seen as [.., size], row after row of its memory, of which the kernel names blocks; a row begins at a multiple
    of 16 bytes. swizzle: bytes in which the block's lines are permuted in shared memory, 0 for none.
    """

    tensor: torch.Tensor
    size: int
    block: tuple[int, int]
    swizzle: int

    def descriptor(self) -> Any:
        """As Triton's launch takes it."""
        from triton.experimental.gluon.language import NVMMASharedLayout
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        lines = self.tensor.view(-1, self.size)
        layout = NVMMASharedLayout(self.swizzle, 8 * lines.element_size(), 2)
        return TensorDescriptor.from_tensor(lines, list(self.block), layout)


class Found(NamedTuple):
    """A kernel to be called as run(*arguments, *last); with stream=None, on the current stream."""

    run: Callable
    last: tuple


class Dispatcher:
    """Compiled kernels by the traits of the arguments that Triton specialises them for."""

    def __init__(self) -> None:
        self._compiled: dict[tuple, tuple[Any, tuple]] = {}

    def find(self, kernel: Any, launch: Launch, **options: Any) -> Found:
        """The kernel for arguments like the launch's, on the current device; compiled if there is none yet.

        options: num_warps and what else Triton takes.
        """
        arguments, constants, grid = launch
        if not isinstance(kernel, triton.JITFunction):
            return Found(_interpreted(kernel, launch, options), ())
        device = torch.cuda.current_device()
        key = (id(kernel), device, *constants.values(), *options.values(), *map(traits, arguments))
        found = self._compiled.get(key)
        if found is None:
            compiled = kernel.warmup(*map(as_launched, arguments), **constants, **options, grid=grid)
            last = tuple(constants[name] for name in kernel.arg_names[len(arguments) :])
            found = self._compiled[key] = compiled, last
        compiled, last = found
        run = _direct(compiled, (*grid, 1, 1)[:3])
        return Found(_with_memory(run) if compiled.metadata.global_scratch_size else run, last)

    def launch(self, kernel: Any, launch: Launch, **options: Any) -> None:
        """The launch, once, on the current device and stream."""
        run, last = self.find(kernel, launch, **options)
        run(*map(as_launched, launch.arguments), *last)


def as_launched(argument: Any) -> Any:
    """The argument as Triton takes it: a descriptor for what is `Described`."""
    return argument.descriptor() if isinstance(argument, Described) else argument


def _direct(compiled: Any, grid: tuple[int, ...]) -> Callable:
    """A launch as Triton does it, but that hooks, and what is said to them, are left out where there are none."""
    hooked = compiled[grid]  # loads the kernel, too
    run, function, packed = compiled.run, compiled.function, compiled.packed_metadata
    runtime = knobs.runtime

    def launch(*arguments, stream=None):
        first, last = runtime.launch_enter_hook, runtime.launch_exit_hook
        if stream is None or getattr(first, "calls", first) or getattr(last, "calls", last):
            hooked(*arguments, stream=stream)
        else:
            run(*grid, stream, function, packed, None, None, None, *arguments)

    return launch


def _with_memory(run: Callable) -> Callable:
    """The same for a kernel that makes descriptors, for which it needs memory: Triton asks its allocator each time.

    Which allocator that is, is a matter of the context; in a copy of it, the caller's own stays as it is.
    """

    def launch(*arguments, **options):
        contextvars.copy_context().run(_lend_memory, run, arguments, options)

    return launch


def _lend_memory(run: Callable, arguments: tuple, options: dict[str, Any]) -> None:
    triton.set_allocator(lambda size, alignment, stream: torch.empty(size, dtype=torch.int8, device="cuda"))
    run(*arguments, **options)


def _interpreted(kernel: Any, launch: Launch, options: dict[str, Any]) -> Callable:
    named = [getattr(type(argument), "_make", None) for argument in launch.arguments]
    program, constants = kernel[launch.grid], launch.constants

    def run(*arguments, stream=None):
        # the interpreter reads named tuples by name
        given = [argument if make is None else make(argument) for make, argument in zip(named, arguments, strict=True)]
        program(*given, **constants, **options)

    return run


def traits(argument: Any) -> Any:
    """What Triton (3.6, 3.7) specialises a kernel for, or finer: of a tuple, of each of its items.

    A tensor's dtype and whether it begins at a multiple of 16 bytes; whether an int is 1, divisible by 16, and how
    wide. Plain tuples are shapes and strides, ints alone; named tuples hold anything.
    """
    kind = type(argument)
    if kind is int:
        return _traits_of_int(argument)
    if argument is None or kind is float:
        return kind
    if isinstance(argument, torch.Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if kind is tuple:
        return _traits_of_ints(argument)
    if kind is Described:
        return argument.tensor.dtype, argument.block, argument.swizzle
    if isinstance(argument, tuple):
        return tuple([traits(item) for item in argument])
    raise TypeError(f"arguments: given {kind.__name__}; tensors, ints, floats, None, and tuples of these are allowed")


@lru_cache(maxsize=4096)
def _traits_of_ints(numbers: tuple[int, ...]) -> tuple:
    if not all(type(number) is int for number in numbers):
        kinds = ", ".join(type(number).__name__ for number in numbers)
        raise TypeError(f"arguments: given a plain tuple of {kinds}; it must hold ints alone")
    return tuple(map(_traits_of_int, numbers))


def _traits_of_int(number: int) -> Any:
    if number == 1:
        return int
    divisible = number % 16 == 0
    return divisible if -(1 << 31) <= number < 1 << 31 else (divisible, number < 1 << 63)


DISPATCHER = Dispatcher()
"""One for the process: what was compiled stays."""

Room = tuple[tuple[int, ...], torch.dtype]
"""Shape and dtype of memory that a call needs."""


def allocate(rooms: Sequence[Room | None], device: torch.device) -> list[Any]:
    """New tensors, unwritten; None where no room is asked for. Each begins at a multiple of 16 bytes, as all new do."""
    return [None if room is None else torch.empty(room[0], dtype=room[1], device=device) for room in rooms]


def stream_of(index: int) -> int:
    """The handle of a CUDA device's current stream."""
    return driver.active.get_current_stream(index)  # pyright: ignore[reportAttributeAccessIssue]


class Varying(int):
    """A number that each call gives afresh: an object of its own, whatever else in the launch has the same value."""


def _plain(argument: Any) -> Any:
    """The argument with ints where it holds `Varying`."""
    if type(argument) is Varying:
        return int(argument)
    make = getattr(type(argument), "_make", None)
    return argument if make is None else make(map(_plain, argument))


class Step(NamedTuple):
    """One launch of a call."""

    kernel: Any
    launch: Launch
    options: dict[str, Any]


class Ready:
    """The launches of a call, ready for tensors of the same dtypes, shapes, strides and alignments.

    Made of a call's `inputs`, tensors, ints or None, of which it keeps none, and of the `rooms` that its launches
    write. steps(inputs, made) says the launches. Each tensor among their arguments is one of those two, by itself or in
    a tuple, but for what tuples of the types `tables` hold: that belongs to the call's kind, and is kept. An int of the
    inputs is `Varying` there, and given afresh where it is an argument itself, or an item of a named tuple; what else
    is computed of it, and what Triton specialises for, must be the same for every call.
    """

    def __init__(
        self,
        inputs: Sequence[torch.Tensor | int | None],
        rooms: Sequence[Room | None],
        steps: Callable[..., Iterable[Step]],
        tables: tuple[type, ...] = (),
    ) -> None:
        self._rooms, self._device = rooms, next(t.device for t in inputs if isinstance(t, torch.Tensor))
        self._index = self._device.index if self._device.type == "cuda" else None
        with self._on_device():
            stand_ins = [_stand_in(t) for t in inputs]
            made = allocate(rooms, self._device)
            pool = _Pool([*stand_ins, *made], tables)
            self._steps: list[tuple[Found, list[Callable]]] = []
            for kernel, launch, options in steps(stand_ins, made):
                getters = [pool.getter(argument) for argument in launch.arguments]
                plain = launch._replace(arguments=tuple(map(_plain, launch.arguments)))
                self._steps.append((DISPATCHER.find(kernel, plain, **options), getters))
        self._constants, self._streams = pool.constants, set()

    def __call__(self, *inputs: torch.Tensor | int | None) -> list[Any]:
        """The tensors of `rooms`, written from these inputs on the current stream of their device."""
        if self._index is None or torch.cuda.current_device() == self._index:
            return self._launch(inputs)
        with self._on_device():
            return self._launch(inputs)

    def _launch(self, inputs: Sequence[torch.Tensor | int | None]) -> list[Any]:
        made = allocate(self._rooms, self._device)
        pool = (*inputs, *made, *self._constants)
        stream = 0 if self._index is None else stream_of(self._index)
        if stream not in self._streams:
            self._use_on(stream)
        for (run, last), getters in self._steps:
            run(*[get(pool) for get in getters], *last, stream=stream)
        return made

    def _use_on(self, stream: int) -> None:
        """Tables may be freed while a stream still reads them, and not be given out before it has."""
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


def _stand_in(given: torch.Tensor | int | None) -> torch.Tensor | Varying | None:
    """An object apart, even where one tensor is given twice, or a number is that of a size."""
    if given is None:
        return None
    return given.detach() if isinstance(given, torch.Tensor) else Varying(given)


class _Pool:
    """Where a call's arguments are found: its inputs and rooms in their order, then what is the same for each call."""

    def __init__(self, tensors: Sequence[torch.Tensor | Varying | None], tables: tuple[type, ...]) -> None:
        self._slots = {id(t): i for i, t in enumerate(tensors) if t is not None}
        self._count, self._tables, self.constants = len(tensors), tables, []

    def getter(self, argument: Any) -> Callable[[tuple], Any]:
        """Takes the argument from the pool; a named tuple of tensors comes as a plain one, `Described` as launched."""
        if isinstance(argument, Described):
            return _describer(argument, self._slot(argument.tensor))
        if isinstance(argument, tuple) and not self._slots.keys().isdisjoint(map(id, argument)):
            return itemgetter(*map(self._slot, argument))
        return itemgetter(self._slot(argument))

    def _slot(self, argument: Any) -> int:
        if id(argument) in self._slots:
            return self._slots[id(argument)]
        if not isinstance(argument, self._tables):
            _check_constant(argument)
        self.constants.append(argument)
        return self._count + len(self.constants) - 1


def _describer(described: Described, slot: int) -> Callable[[tuple], Any]:
    """Makes the descriptor of the tensor in that slot of a pool; what was checked of the first holds for it, too."""
    first = described.descriptor()
    kind, same = type(first), {name: value for name, value in vars(first).items() if name != "base"}

    def describe(pool: tuple) -> Any:
        made = object.__new__(kind)
        made.__dict__.update(same, base=pool[slot])
        return made

    return describe


def _check_constant(argument: Any) -> None:
    if isinstance(argument, Varying):
        raise ValueError(f"arguments: given {argument!r} inside another argument, where it would go stale")
    if isinstance(argument, tuple):
        for item in argument if type(argument) is not tuple else ():  # plain ones hold ints, see `traits`
            _check_constant(item)
    elif not (argument is None or isinstance(argument, int | float)):
        kind = type(argument).__name__
        raise ValueError(f"arguments: given a {kind} that is neither an input of the call nor allocated for it")
