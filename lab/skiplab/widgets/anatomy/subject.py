"""What an anatomy explorer takes apart: a contender's kernel, or a Triton function with its arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from skiplab.anatomy import Anatomy, contender_anatomies, kernel_anatomy
from skiplab.anatomy.modules import MODULES
from skiplab.anatomy.named import compilables
from skiplab.contenders import contender
from skiplab.sweep import sweep_at

Compile = Callable[[str, Mapping[str, int]], dict[str, Anatomy]]
WARPS, STAGES = (1, 2, 4, 8, 12, 16), (1, 2, 3, 4, 5, 6, 8)


@dataclass(frozen=True)
class Subject:
    """A kernel with numbers to choose. choices: of each, by name; default: those that it begins with.

    compile: arch, numbers -> the anatomies of its kernels by name. code: what makes the same subject, as arguments.
    """

    name: str
    choices: Mapping[str, tuple[int, ...]]
    default: Mapping[str, int]
    compile: Compile
    code: str


def subject_of(
    kernel: Any,
    arguments: Sequence[Any],
    operation: str,
    at: Mapping[str, Any],
    configs: Mapping[str, Sequence[int]] | None,
) -> Subject:
    """The subject of a contender's name, or of a function with its arguments; ValueError for what has no kernel."""
    if isinstance(kernel, str):
        return _of_contender(kernel, operation, at, configs)
    return _of_function(kernel, tuple(arguments), configs or {})


def _of_contender(
    name: str, operation: str, at: Mapping[str, Any], configs: Mapping[str, Sequence[int]] | None
) -> Subject:
    entry = contender(name, operation)
    workload = sweep_at(operation, (name,), at).workloads()[0]
    sizes, choices, default = entry.sizes, {}, ()
    if entry.is_own:
        if name not in compilables(operation):
            allowed = ", ".join(compilables(operation))
            raise ValueError(f"kernel: got {name}; allowed are {allowed}, your own, and Triton functions")
        sizes = MODULES[operation].sizes(name)
        default = MODULES[operation].default("sm_90", workload, name) if sizes else ()
        sizes = sizes[: len(default)]
        choices = {one: _around(one, number) for one, number in zip(sizes, default, strict=True)}
    elif sizes:
        default = entry.configs[0]
        choices = {one: tuple(sorted({config[i] for config in entry.configs})) for i, one in enumerate(sizes)}
    choices |= {one: tuple(values) for one, values in (configs or {}).items() if one in sizes}

    def compiled(arch: str, numbers: Mapping[str, int]) -> dict[str, Anatomy]:
        config = tuple(numbers[one] for one in sizes) if sizes else None
        return contender_anatomies(name, workload, arch, [config])

    words = [repr(name), f"operation={operation!r}", *([f"at={dict(at)!r}"] if at else [])]
    return Subject(name, choices, dict(zip(sizes, default, strict=True)), compiled, ", ".join(words))


def _of_function(kernel: Any, arguments: tuple[Any, ...], configs: Mapping[str, Sequence[int]]) -> Subject:
    choices = {name: tuple(values) for name, values in configs.items()}
    name = getattr(kernel, "__name__", None) or kernel.fn.__name__

    def compiled(arch: str, numbers: Mapping[str, int]) -> dict[str, Anatomy]:
        return {name: kernel_anatomy(kernel, *arguments, arch=arch, **numbers)}

    words = [name, *(repr(one) for one in arguments), f"configs={choices!r}"]
    return Subject(name, choices, {one: values[0] for one, values in choices.items()}, compiled, ", ".join(words))


def _around(name: str, number: int) -> tuple[int, ...]:
    """What a slider offers: powers of two up to four times as many or as few, or what warps and stages can be."""
    usual = {"num_warps": WARPS, "num_stages": STAGES}.get(name)
    near = usual or tuple(n for n in (number // 4, number // 2, number, 2 * number, 4 * number) if n > 0)
    return tuple(sorted({*near, number}))
