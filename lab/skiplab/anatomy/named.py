"""The anatomy of a contender by its name: our kernels with their sizes, and whatever a user's own launches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from skiplab.anatomy.compiled import Anatomy
from skiplab.anatomy.launches import launched_anatomies
from skiplab.anatomy.modules import MODULES
from skiplab.contenders import Contender, contender, contenders, with_config
from skiplab.machine import default_device
from skiplab.machine.capability import compilable_capability
from skiplab.workload import Problem

Config = tuple[int, ...]


def contender_anatomies(
    name: str, workload: Problem, arch: Any, configs: Sequence[Config | None] = (None,)
) -> dict[str, Anatomy]:
    """The kernels of a contender for that workload, compiled for a compute capability, by config and kernel.

    configs: the contender's sizes, as a run's rows hold them; None for those that it takes where nothing was tuned.
    One of the lab's own has one kernel; a user's call is built and made, its Triton kernels are compiled and not run,
    and an anatomy is made of each. Without a GPU its tensors are the CPU's, and torch says that there is one
    (`pretended.pretended_gpu`). ValueError for a contender without a kernel to compile, and for a call that fails.
    """
    found: dict[str, Anatomy] = {}
    arch = compilable_capability(arch)
    for config in configs:
        entry = with_config(name, config, workload.operation) if config else contender(name, workload.operation)
        made = _ours(entry, workload, arch, config) if entry.is_own else _users(entry, workload, arch)
        found |= {f"{text} {kernel}".strip(): one for (text, kernel), one in made.items()}
    return found


def _ours(entry: Contender, workload: Problem, arch: Any, config: Config | None) -> dict[tuple[str, str], Anatomy]:
    module = MODULES.get(workload.operation)
    if module is None or not module.compiles(entry.name):
        raise ValueError(
            f"contender: got {entry.name}, which launches no kernel of ours with a name of its own; allowed are "
            f"{', '.join(compilables(workload.operation)) or 'none'} and your own of {workload.operation}"
        )
    config = config or (module.default(arch, workload, entry.name) if module.sizes(entry.name) else ())
    return {("x".join(map(str, config)), ""): module.anatomy(arch, workload, entry.name, config)}


def compilables(operation: str) -> tuple[str, ...]:
    """Our contenders with a kernel to compile."""
    module, known = MODULES.get(operation), contenders(operation).values()
    return tuple(one.name for one in known if module is not None and one.is_own and module.compiles(one.name))


def _users(entry: Contender, workload: Problem, arch: Any) -> dict[tuple[str, str], Anatomy]:
    failed: list[Exception] = []
    inputs = workload.inputs(default_device(), 0)

    def call() -> None:
        try:
            arguments = entry.prepare(workload, inputs)
            entry.build(workload, arguments)(*arguments)
        except Exception as error:
            failed.append(error)

    made = launched_anatomies(call, arch)
    if failed:
        raise ValueError(_why_not(entry, failed[0], tuple(made))) from failed[0]
    if not made:
        raise ValueError(f"contender: {entry.name} launched no Triton kernel for {workload.key()}")
    return {("x".join(map(str, entry.config or ())), kernel): one for kernel, one in made.items()}


def _why_not(entry: Contender, error: Exception, compiled: tuple[str, ...]) -> str:
    """What stopped a user's call, and what is left to do."""
    gpu = "with tensors on the GPU" if default_device() == "cuda" else "with CPU tensors in the place of a GPU's"
    before = f"; compiled before that: {', '.join(compiled)}" if compiled else ""
    return (
        f"contender: {entry.name} raised {type(error).__name__}: {error}. It was called {gpu}, its kernels compiled "
        f"and not run{before}. A @triton.jit function is compiled without its call: skiplab anatomy FUNCTION "
        "--from FILE.py --argument ..., or kernel_anatomy"
    )
