"""A table of compiled kernels, so that a launch need not go through Triton's own look-up.

Triton's launch binds the arguments, inspects each number in Python and builds a string to look the compiled kernel up.
With shapes and strides among the arguments that is most of what a launch costs the host. `Dispatcher` finds the kernel
by the same traits of the arguments, gathered more cheaply, and calls the launcher that Triton compiled.
"""

from __future__ import annotations

import contextvars
import copy
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from types import MappingProxyType
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
    """A tensor that a kernel reads or writes block by block through the copy engine (TMA), by a descriptor.

    shape, strides: of what the descriptor describes from the tensor's first element on, in elements; beyond the shape
    it reads zeros and writes nothing. All strides but the last, which is 1, are multiples of 16 bytes. block: as many
    sizes. swizzle: bytes within which a block's lines are permuted in shared memory, 0 for none.
    """

    tensor: torch.Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    block: tuple[int, ...]
    swizzle: int

    @classmethod
    def lines(cls, tensor: torch.Tensor, size: int, block: tuple[int, int], swizzle: int) -> TmaTensor:
        """The tensor's memory as lines of `size` elements."""
        return cls(tensor, tuple(tensor.view(-1, size).shape), (size, 1), block, swizzle)

    def descriptor(self) -> Any:
        """As Triton's launch takes it."""
        from triton.experimental.gluon.language import NVMMASharedLayout
        from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

        layout = NVMMASharedLayout(self.swizzle, 8 * self.tensor.element_size(), len(self.block))
        return TensorDescriptor(self.tensor, list(self.shape), list(self.strides), list(self.block), layout)


class CompiledKernel(NamedTuple):
    """A kernel, called as run(*arguments, *last, stream=None); None is the current stream.

    by_address: called as by_address((*arguments, *last), stream), with addresses where `run` takes tensors; None where
    there is no such way. In the place of the descriptors at `encoders` it takes what those make of them: a map for the
    copy engine, then the numbers of its shape and strides. Triton's own launch encodes each descriptor, and asks the
    driver of each tensor, at every call.
    """

    run: Callable
    last: tuple
    by_address: Callable[[tuple, int], None] | None = None
    encoders: Mapping[int, Callable[[Any], list]] = MappingProxyType({})


class Dispatcher:
    """Compiled kernels by the traits of the arguments that Triton specializes them for."""

    def __init__(self) -> None:
        self._compiled: dict[tuple, tuple] = {}

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
            compiled[(*grid, 1, 1)[:3]]  # loads the kernel, so that it has a launcher
            plain, encoders = encoding(compiled)
            entry = self._compiled[key] = compiled, last, plain, encoders, _below(plain)
        compiled, last, plain, encoders, below = entry
        grid = (*grid, 1, 1)[:3]
        lend = _with_memory if compiled.metadata.global_scratch_size else lambda run: run
        run = lend(_direct(compiled, grid))
        if len(encoders) != sum(isinstance(argument, TmaTensor) for argument in arguments):
            return CompiledKernel(run, last)
        if lend is _with_memory:
            return CompiledKernel(run, last, unpacking(lend(_direct(plain, grid))), encoders)
        return CompiledKernel(run, last, _by_address(plain, grid, below), encoders)

    def launch(self, kernel: Any, launch: Launch, **options: Any) -> None:
        """The launch, once, on the current device and stream."""
        found = self.find(kernel, launch, **options)
        found.run(*map(as_launched, launch.arguments), *found.last)


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


class _Below(NamedTuple):
    """The C function below Triton's launcher: call(*grid, stream, *between, arguments), unpacked if not `packs`."""

    call: Callable
    between: tuple
    packs: bool


def _by_address(compiled: Any, grid: tuple[int, ...], below: _Below | None) -> Callable[[tuple, int], None]:
    """As `_direct`, and past Triton's launcher to the C function below it, where that is known."""
    if below is None:
        return unpacking(_direct(compiled, grid))
    hooked, runtime = compiled[grid], knobs.runtime
    call, between, packs = below

    def launch(arguments: tuple, stream: int) -> None:
        first, last = runtime.launch_enter_hook, runtime.launch_exit_hook
        if getattr(first, "calls", first) or getattr(last, "calls", last):
            hooked(*arguments, stream=stream)
        elif packs:
            call(*grid, stream, *between, arguments)
        else:
            call(*grid, stream, *between, *arguments)

    return launch


def unpacking(run: Callable) -> Callable[[tuple, int], None]:
    """`CompiledKernel.run` called as `CompiledKernel.by_address` is."""
    return lambda arguments, stream: run(*arguments, stream=stream)


def _below(compiled: Any) -> _Below | None:
    """Triton's launcher only puts what it is given in order, and asks for memory where the kernel needs some.

    So it is called once, with marks in the places of grid, stream and argument, and its C function replaced by one that
    notes what it is given. None where the launcher needs memory, or is made otherwise.
    """
    launcher = compiled.run
    held = getattr(launcher, "__dict__", {})
    if "launch" not in held or held.get("global_scratch_size", 1) or held.get("profile_scratch_size", 1):
        return None
    noting, handed, argument = copy.copy(launcher), [], object()
    noting.launch = lambda *given: handed.append(given)
    marks = tuple(object() for _ in range(4))
    noting(*marks, compiled.function, compiled.packed_metadata, None, None, None, argument)
    (given,) = handed
    packs = given[-1] is not argument
    if given[:4] != marks or (packs and tuple(given[-1]) != (argument,)):
        return None
    return _Below(launcher.launch, given[4:-1], packs)


def encoding(compiled: Any) -> tuple[Any, dict[int, Callable[[Any], list]]]:
    """(the kernel without the step that encodes descriptors, what encodes them, by an argument's position).

    Triton (3.6, 3.7) wraps the launch of a kernel that takes descriptors in a function, whose variables these are.
    Where it does otherwise there are none of them, and the kernel is as it was.
    """
    wrapped = getattr(compiled.run, "launch", None)
    names = getattr(getattr(wrapped, "__code__", None), "co_freevars", ())
    held: dict[str, Any] = dict(zip(names, getattr(wrapped, "__closure__", None) or (), strict=True))
    if not held.keys() >= {"launcher", "tensordesc_indices", "tensordesc_meta"}:
        return compiled, {}
    from triton.backends.nvidia.driver import make_tensordesc_arg

    positions, layouts = sorted(held["tensordesc_indices"].cell_contents), held["tensordesc_meta"].cell_contents
    plain, launcher = copy.copy(compiled), copy.copy(compiled.run)
    launcher.launch = held["launcher"].cell_contents
    plain._run = launcher
    encoders = [partial(make_tensordesc_arg, metadata=layout) for layout in layouts]
    return plain, dict(zip(positions, encoders, strict=True))


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
