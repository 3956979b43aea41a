"""Any kernel compiled, and not run: one that is named with its arguments, or all that a call launches."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from skiplab.anatomy.compiled import Anatomy, disassemble, read
from skiplab.anatomy.pretended import pretended_gpu
from skiplab.anatomy.target import compiling_for

if TYPE_CHECKING:
    from blockskip.launching.dispatch import Launch

POINTERS = {
    "fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64, "i1": torch.bool,
    "i8": torch.int8, "u8": torch.uint8, "i16": torch.int16, "i32": torch.int32, "i64": torch.int64,
    "fp8e4nv": torch.float8_e4m3fn, "fp8e5": torch.float8_e5m2,
}  # fmt: skip
"""Triton's names of what pointers point to."""
INTEGER = 1 << 20
"""What an argument described as `i32:16` is taken to be; `i32` is one more: no multiple of 16, and not 1, which Triton
compiles specially."""
FLOAT = 0.5


def kernel_anatomy(kernel: Any, *arguments: Any, arch: Any, **constants: Any) -> Anatomy:
    """The anatomy of a `@triton.jit` or Gluon function for a compute capability; no GPU is needed and nothing runs.

    arguments, in the function's order: tensors on any device or a torch dtype in the place of one; numbers; Triton's
    words for either: "*bf16", "i32", "i32:16" for a multiple of 16. constants: the constexpr arguments, num_warps,
    num_stages and other options.
    An autotuned kernel has an anatomy for each of its configs: `kernel_anatomies`.
    """
    (made, *more) = kernel_anatomies(kernel, *arguments, arch=arch, **constants).values()
    if more:
        raise ValueError(
            f"kernel: {_name(kernel)} is tuned over {1 + len(more)} configs; kernel_anatomies has them all"
        )
    return made


def kernel_anatomies(kernel: Any, *arguments: Any, arch: Any, **constants: Any) -> dict[str, Anatomy]:
    """As `kernel_anatomy`, by config, for a kernel under `@triton.autotune`; one without has a single one, named ''."""
    if not hasattr(kernel, "warmup"):
        raise TypeError(
            f"kernel: got {kernel!r}; allowed are functions under @triton.jit, @triton.autotune or Gluon's jit"
        )
    given = tuple(map(_argument, arguments))
    found: dict[str, Anatomy] = {}
    for config in getattr(kernel, "configs", None) or (None,):
        inner, own = (kernel, {}) if config is None else (kernel.fn, config.all_kwargs())
        with compiling_for(arch):
            compiled = inner.warmup(*given, grid=(1,), **{**constants, **own})
        found["" if config is None else str(config)] = read(compiled, arch)
    return found


def _argument(value: Any) -> Any:
    """An argument as `warmup` takes it: words are numbers, or the dtype of a pointer."""
    if not isinstance(value, str):
        return value
    word, _, aligned = value.strip().partition(":")
    if aligned not in ("", "16"):
        raise ValueError(f"argument: got {value!r}; allowed behind the colon is 16, for a multiple of 16")
    if word.startswith("*"):
        name = word.removeprefix("*").removeprefix("k")
        if name in POINTERS:
            return POINTERS[name]
    elif word in ("i32", "i64"):
        return (INTEGER if word == "i32" else INTEGER << 20) + (not aligned)
    elif word in ("fp32", "fp64"):
        return FLOAT
    allowed = ", ".join(f"*{name}" for name in POINTERS)
    raise ValueError(
        f"argument: got {value!r}; allowed are i32, i64 (i32:16 for a multiple of 16), fp32, and of pointers {allowed}"
    )


def launched_anatomies(call: Callable[[], Any], arch: Any) -> dict[str, Anatomy]:
    """The anatomies of all Triton kernels that a call launches, by name, in order; they are compiled, and not run.

    What a launch would have written stays as it was. Where torch sees no GPU, `torch.cuda` tells of one that is not
    there (`pretended.pretended_gpu`). A kernel that is compiled in several ways, as under
    `@triton.autotune`, has its name followed by a number.
    """
    found: dict[str, Anatomy] = {}
    with pretended_gpu(arch), _recorded() as compiled:
        call()
    for one in {id(one): one for one in compiled}.values():
        anatomy = read(one, arch)
        found[_unused(anatomy.name, found)] = anatomy
    return found


def prepared_anatomy(arch: Any, kernel: Any, launch: Launch, **options: Any) -> Anatomy:
    """The anatomy of a launch as our kernels' `launch.py` prepares it."""
    from blockskip.launching.dispatch import as_launched

    with compiling_for(arch):
        compiled = kernel.warmup(*map(as_launched, launch.arguments), **launch.constants, **options, grid=launch.grid)
    return read(compiled, arch)


@contextlib.contextmanager
def _recorded() -> Iterator[list[Any]]:
    """The compiled kernels of all launches inside the block, none of which runs."""
    from triton.runtime.autotuner import Autotuner
    from triton.runtime.jit import JITFunction

    compiled: list[Any] = []
    launch, tune = JITFunction.run, Autotuner.run

    def compile_only(self: Any, *arguments: Any, warmup: bool = True, **named: Any) -> Any:
        made = launch(self, *arguments, warmup=True, **named)
        compiled.append(made)
        return made

    def compile_all(self: Any, *arguments: Any, warmup: bool = True, **named: Any) -> Any:
        return [self.fn.run(*arguments, warmup=True, **{**named, **config.all_kwargs()}) for config in self.configs]

    JITFunction.run, Autotuner.run = compile_only, compile_all  # type: ignore[method-assign]
    try:
        yield compiled
    finally:
        JITFunction.run, Autotuner.run = launch, tune  # type: ignore[method-assign]


def _unused(name: str, taken: Mapping[str, Any]) -> str:
    return next(one for one in (name, *(f"{name} {number}" for number in range(2, 10_000))) if one not in taken)


def _name(kernel: Any) -> str:
    return getattr(kernel, "__name__", None) or getattr(getattr(kernel, "fn", None), "__name__", "the kernel")


def anatomy_table(anatomies: Mapping[str, Anatomy] | Iterable[tuple[str, Anatomy]]) -> Any:
    """A table of many: a row for each, by name, as `Anatomy.row` has it."""
    import pandas as pd

    made = dict(anatomies)
    disassemble(made.values())
    rows = {name: one.row() for name, one in made.items()}
    return pd.DataFrame.from_dict(rows, orient="index")
