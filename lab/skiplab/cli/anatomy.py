"""The command `skiplab anatomy`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skiplab.cli import options
from skiplab.cli.run import save
from skiplab.contenders import contender, contenders
from skiplab.contenders.source import kernel_file, load_kernels
from skiplab.machine.capability import compilable_capability
from skiplab.operations import DEFAULT_OPERATION, operation_of
from skiplab.results.tables import Shown
from skiplab.sweep import sweep_at

if TYPE_CHECKING:
    from skiplab.anatomy import Anatomy

DEFAULT_ARCH = "sm_90"
COLUMNS = (
    "kernel", "arch", "registers", "spill_bytes", "shared_bytes", "blocks_per_sm", "limited_by", "wgmma", "mma", "dp4a",
    "TMA", "128-bit loads", "local memory", "loop_instructions",
)  # fmt: skip
"""What the table of several shows; --table writes all."""


def anatomy(
    name: Annotated[
        str, typer.Argument(help="A kernel of ours, your own, or a Triton function of --from.", metavar="NAME")
    ],
    kernels: Annotated[
        options.Texts, options.several("--from", help="A Python file, or a module's name, with your kernel")
    ] = None,
    operation: options.OperationOption = DEFAULT_OPERATION,
    arch: Annotated[
        options.Texts, options.several(help="Compute capabilities, as sm_90 or 9.0", default=DEFAULT_ARCH)
    ] = None,
    config: Annotated[
        options.Texts,
        options.several(help="Sizes, as 128x64x8x2", default="those that calls take where nothing is tuned"),
    ] = None,
    at: Annotated[
        list[str] | None,
        typer.Option("--at", help="Where, as q_len=4096 or head_dim=256; once for each axis.", metavar=options.AXIS),
    ] = None,
    argument: Annotated[
        options.Texts, options.several(help="Arguments of a Triton function, in order, as *bf16,*bf16,i32")
    ] = None,
    constant: Annotated[
        list[str] | None,
        typer.Option(
            "--constant",
            help="Of a Triton function, as BLOCK=64,128 or num_warps=4; once for each.",
            metavar="NAME=A,B,...",
        ),
    ] = None,
    lines: Annotated[bool, typer.Option(help="Show the inner loop beside the lines it came from.")] = True,
    sass: Annotated[bool, typer.Option("--sass", help="Show the inner loop's machine code, too.")] = False,
    table: options.Tables = None,
) -> None:
    """Take a kernel apart: what the compiler made of it, for any GPU, without one. Several are shown as a table.

    Registers, spills, shared memory, how many blocks a multiprocessor holds and what limits them, instructions by kind,
    and the inner loop line by line.

    \b
    Example:
      skiplab anatomy blockskip --arch sm_90 --config 128x64x8x2 --at head_dim=256
    """
    files = options.tables(table)
    operation_of(operation)
    archs = options.words("--arch", arch) or (DEFAULT_ARCH,)
    for one in archs:
        compilable_capability(one)
    sizes, axes = tuple(map(numbers_of, options.words("--config", config))), options.pairs("--at", at)
    arguments, constants = options.all_words("--argument", argument), options.pairs("--constant", constant)
    modules = _loaded(options.words("--from", kernels), archs[0])
    if name in contenders(operation):
        for option, given in (("--argument", arguments), ("--constant", tuple(constants))):
            if given:
                raise ValueError(f"{option}: got {given[0]}; it is for a Triton function of --from, and {name} is none")
        made = _of_contender(name, operation, archs, sizes, axes)
    else:
        found = next((vars(one)[name] for one in modules if name in vars(one)), None)
        if found is None:
            contender(name, operation)  # says which there are
        made = _of_function(found, archs, arguments, constants)
    _show(made, lines, sass)
    save(files, lambda: _table(made).reset_index(names="name"), lambda: _shown(made).markdown())


def _loaded(origins: Sequence[str], arch: str) -> list[ModuleType]:
    """The modules of --from, imported where torch has a GPU; all are looked for before what imports them is."""
    for origin in origins:
        kernel_file(origin)
    if not origins:
        return []
    from skiplab.anatomy import pretended_gpu

    with pretended_gpu(arch):
        return [load_kernels(origin) for origin in origins]


def _of_contender(
    name: str, operation: str, archs: Sequence[str], sizes: Sequence[tuple[int, ...]], at: dict[str, str]
) -> dict[str, Anatomy]:
    from skiplab.anatomy import contender_anatomies

    workloads = sweep_at(operation, (name,), at).workloads()
    workloads = workloads if at else workloads[:1]
    found = {}
    for workload, one in product(workloads, archs):
        where = f"{workload.key()} {one}" if len(workloads) > 1 else one
        made = contender_anatomies(name, workload, one, sizes or (None,))
        found |= {f"{label} {where}".strip(): anatomy for label, anatomy in made.items()}
    return found


def _of_function(
    kernel: Any, archs: Sequence[str], arguments: Sequence[str], constants: dict[str, str]
) -> dict[str, Anatomy]:
    from skiplab.anatomy import kernel_anatomies

    names, found = list(constants), {}
    choices = [[_constant(word) for word in text.split(",")] for text in constants.values()]
    for arch, values in product(archs, product(*choices)):
        chosen = dict(zip(names, values, strict=True))
        words = " ".join(f"{key}={value}" for key, value in chosen.items())
        made = kernel_anatomies(kernel, *arguments, arch=arch, **chosen)
        found |= {" ".join(filter(None, (words, label, arch))): one for label, one in made.items()}
    return found


def numbers_of(text: str) -> tuple[int, ...]:
    """A config as the command line has it."""
    parts = text.split("x")
    if not all(map(str.isdecimal, parts)):
        raise ValueError(f"--config: got {text!r}; allowed are whole numbers with x between, as 128x64x8x2")
    return tuple(map(int, parts))


def _constant(word: str) -> Any:
    """A constant's value: a number, True or False, or a text."""
    if word in ("True", "False"):
        return word == "True"
    return int(word) if word.removeprefix("-").isdecimal() else word


def _show(made: dict[str, Anatomy], lines: bool, sass: bool) -> None:
    if len(made) > 1:
        typer.echo(_shown(made))
        return
    ((name, one),) = made.items()
    typer.echo(f"{name}\n{one.told(lines)}")
    if sass and one.inner_loop:
        for instruction in one.inner_loop.instructions:
            typer.echo(f"  /*{instruction.address:04x}*/  {instruction.text:70s} {instruction.line or ''}")


def _table(made: dict[str, Anatomy]) -> Any:
    from skiplab.anatomy import anatomy_table

    return anatomy_table(made)


def _shown(made: dict[str, Anatomy]) -> Shown:
    table = _table(made)
    return Shown("compiled, not run", table[list(COLUMNS)].reset_index(names="config"), ())


COMMAND = anatomy
