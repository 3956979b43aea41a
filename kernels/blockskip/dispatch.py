"""Launching a Triton kernel without asking Triton each time what it was compiled for.

Triton's own launch binds the arguments, looks at each of their numbers in Python and builds a text of it all to look
the kernel up by. For tensors that come with their shapes and strides that is most of what a call costs the host. Here a
kernel is found by the same traits, less dearly gathered; what Triton compiled is then launched as it offers itself.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton


class Launch(NamedTuple):
    """Arguments, constexpr parameters by name, and grid of one launch; `compile` of the same works without a GPU."""

    arguments: tuple
    constants: dict[str, Any]
    grid: tuple[int, ...]


class Dispatcher:
    """Compiled kernels by the traits of the arguments that Triton specialises them for."""

    def __init__(self) -> None:
        self._compiled: dict[tuple, tuple[Any, tuple]] = {}

    def launch(self, kernel: Any, launch: Launch, **options: Any) -> None:
        """The launch on the current device and stream. options: num_warps and what else Triton takes."""
        arguments, constants, grid = launch
        if not isinstance(kernel, triton.JITFunction):  # interpreted
            kernel[grid](*arguments, **constants, **options)
            return
        device = torch.cuda.current_device()
        key = (id(kernel), device, *constants.values(), *options.values(), *map(traits, arguments))
        found = self._compiled.get(key)
        if found is None:
            compiled = kernel[grid](*arguments, **constants, **options)
            last = tuple(constants[name] for name in kernel.arg_names[len(arguments) :])
            self._compiled[key] = compiled, last
            return
        compiled, last = found
        compiled[(*grid, 1, 1)](*arguments, *last)


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
