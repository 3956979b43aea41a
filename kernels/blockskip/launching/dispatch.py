"""A table of compiled kernels, so that a launch need not go through Triton's own look-up.

Triton's launch binds the arguments, inspects each number in Python and builds a string to look the compiled kernel up.
With shapes and strides among the arguments that is most of what a launch costs the host. `Dispatcher` finds the kernel
by the same traits of the arguments, gathered more cheaply, and calls the launcher that Triton compiled.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from triton import knobs


class Launch(NamedTuple):
    """Arguments, constexpr parameters by name, and grid of one launch."""

    arguments: tuple
    constants: dict[str, Any]
    grid: tuple[int, ...]


class TmaTensor(NamedTuple):
    """A tensor that a kernel reads block by block through the copy engine (TMA), by a descriptor.

    The descriptor's shape is [.., size]: the tensor's memory as rows, each of which begins at a multiple of 16 bytes.
    swizzle: bytes within which a block's lines are permuted in shared memory, 0 for none.
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


class CompiledKernel(NamedTuple):
    """A compiled kernel, called as run(*arguments, *last, stream=None); None is the current stream."""

    run: Callable
    last: tuple


class Dispatcher:
    """Compiled kernels by the traits of the arguments that Triton specializes them for."""

    def __init__(self) -> None:
        self._compiled: dict[tuple, tuple[Any, tuple]] = {}

    def find(self, kernel: Any, launch: Launch, **options: Any) -> CompiledKernel:
        """The kernel for arguments like the launch's, on the current device; compiled if there is none yet.

        options: num_warps and what else Triton takes.
        """
        arguments, constants, grid = launch
        if not isinstance(kernel, triton.JITFunction):
            return CompiledKernel(_interpreted(kernel, launch, options), ())
        device = torch.cuda.current_device()
        key = (id(kernel), device, *constants.values(), *options.values(), *map(traits, arguments))
        entry = self._compiled.get(key)
        if entry is None:
            compiled = kernel.warmup(*map(as_launched, arguments), **constants, **options, grid=grid)
            last = tuple(constants[name] for name in kernel.arg_names[len(arguments) :])
            entry = self._compiled[key] = compiled, last
        compiled, last = entry
        run = _direct(compiled, (*grid, 1, 1)[:3])
        return CompiledKernel(_with_memory(run) if compiled.metadata.global_scratch_size else run, last)

    def launch(self, kernel: Any, launch: Launch, **options: Any) -> None:
        """The launch, once, on the current device and stream."""
        run, last = self.find(kernel, launch, **options)
        run(*map(as_launched, launch.arguments), *last)


def as_launched(argument: Any) -> Any:
    """The argument as Triton takes it: a descriptor instead of a `TmaTensor`."""
    return argument.descriptor() if isinstance(argument, TmaTensor) else argument


def _direct(compiled: Any, grid: tuple[int, ...]) -> Callable:
    """A direct launch of the compiled kernel: skips Triton's hooks and their metadata while no hook is set."""
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
    """The launch of a kernel that makes descriptors on the device, with an allocator for their memory.

    Triton's allocator is a context variable: it is set in a copy of the context, so that the caller's own stays.
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
    """The traits of an argument for which Triton (3.6, 3.7) specializes a kernel, or finer ones.

    A tensor's dtype and whether it begins at a multiple of 16 bytes; whether an int is 1, whether 16 divides it, and
    how wide it is; the traits of a tuple's items. Plain tuples are shapes and strides, ints alone; named tuples hold
    anything.
    """
    kind = type(argument)
    if kind is int:
        return traits_of_int(argument)
    if argument is None or kind is float:
        return kind
    if isinstance(argument, torch.Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if kind is tuple:
        return _traits_of_ints(argument)
    if kind is TmaTensor:
        return argument.tensor.dtype, argument.block, argument.swizzle
    if isinstance(argument, tuple):
        return tuple([traits(item) for item in argument])
    raise TypeError(f"arguments: given {kind.__name__}; tensors, ints, floats, None, and tuples of these are allowed")


@lru_cache(maxsize=4096)
def _traits_of_ints(numbers: tuple[int, ...]) -> tuple:
    if not all(type(number) is int for number in numbers):
        kinds = ", ".join(type(number).__name__ for number in numbers)
        raise TypeError(f"arguments: given a plain tuple of {kinds}; it must hold ints alone")
    return tuple(map(traits_of_int, numbers))


def traits_of_int(number: int) -> Any:
    """The `traits` of an int."""
    if number == 1:
        return int
    divisible = number % 16 == 0
    return divisible if -(1 << 31) <= number < 1 << 31 else (divisible, number < 1 << 63)


DISPATCHER = Dispatcher()
"""One for the process: what was compiled stays."""
