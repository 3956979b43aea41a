"""One protocol for ours and the peers: a contender builds a callable for a workload, untimed, and is then timed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch
from blockskip.arguments import choice

from skiplab.operations import DEFAULT_OPERATION, operation_of

Solver = Callable[..., torch.Tensor]
"""What a contender builds: f(*arguments) -> out."""
Build = Callable[[Any, Sequence[Any]], Solver]
OWN = "skiplab.contenders"
"""The package whose contenders nobody may replace."""
NEEDS = {
    "float8": "it takes keys and values of q's dtype alone, and these are float8 with scales",
    "ragged": "it takes one number of keys for all sequences, and here each has its own",
    "sinks": "it knows no sinks",
}
"""What a workload may need of a contender, and what one is said that was not made for it."""


class Unsupported(Exception):
    """Raised by a contender's build or call: this workload is not for it; the message is the reason."""


@dataclass(frozen=True)
class Planned:
    """A call, and the choices of its build, which the measurement's row keeps as its plan."""

    call: Solver
    plan: Mapping[str, Any]

    def __call__(self, *arguments: Any) -> torch.Tensor:
        return self.call(*arguments)


@dataclass(frozen=True)
class Contender:
    """One way to do an operation.

    prepare(workload, inputs) -> the callable's own arguments, such as a packed weight; timing rotates over copies.
    build(workload, arguments) -> f(*arguments) -> out; allocates, tunes and compiles. Both are untimed. It may return
    a `Planned` f, which says what was chosen.
    supports(workload, device) -> None, or the reason why not, in words; for what `takes` allows.
    takes: of `NEEDS` what it was made for: its arguments are then all of the workload's `input_names`.
    skip: which work it executes (none, mask, bounds, map, auto); None if its tiles are unknown.
    tile: (block_m, block_n) of the plan it walks, None for our kernels, which are asked (`bs.explain`).
    bool_mask: whether it reads the mask as a tensor of one byte a (query, key) pair.
    additive_mask: whether it reads the mask as a tensor of the workload's dtype: 0 for a kept pair, -inf for another.
    config: the tile config that it was given; configured: makes `build` for a config, None if it takes none.
    sizes, configs (users' kernels): the names of a config's numbers, and all configs that it has to choose from.
    user: what `@kernel` decorates; None for the lab's own.
    repeats_heads: whether its `prepare` repeats keys and values for each query head, for want of grouped heads.
    operands (linear layers): (workload, inputs) -> x and weight as this contender rounds them, in float64.
    weight_rounding: the relative error that the contender may add to that weight by rounding inside.
    moved: bytes of the weight in the contender's own format, if that is not the packed one.
    whole_cache: whether a decode step with a window also reads the keys outside it.
    """

    name: str
    label: str
    summary: str
    build: Build
    supports: Callable[[Any, str], str | None] = lambda workload, device: None
    operation: str = DEFAULT_OPERATION
    skip: str | None = None
    tile: tuple[int, int] | None = None
    bool_mask: bool = False
    additive_mask: bool = False
    repeats_heads: bool = False
    config: tuple[int, ...] | None = None
    configured: Callable[[tuple[int, ...]], Build] | None = None
    prepare: Callable[[Any, Sequence[torch.Tensor]], Sequence[Any]] = lambda workload, inputs: inputs
    operands: Callable[[Any, Sequence[torch.Tensor]], tuple[torch.Tensor, torch.Tensor]] | None = None
    weight_rounding: float = 0.0
    moved: Callable[[Any], int] | None = None
    whole_cache: bool = False
    sizes: tuple[str, ...] = ()
    configs: tuple[tuple[int, ...], ...] = ()
    user: Callable[..., Any] | None = None
    takes: tuple[str, ...] = ()

    def refusal(self, workload: Any, device: str) -> str | None:
        """Why it cannot do this workload on this device, in words; None where it can."""
        lacking = [reason for need, reason in NEEDS.items() if need in workload.needs and need not in self.takes]
        return lacking[0] if lacking else self.supports(workload, device)

    def of(self, operation: str) -> Contender:
        """The same contender, for that operation."""
        return replace(self, operation=operation)

    def mask_bytes(self, workload: Any) -> int:
        """Bytes of the mask tensor that one call reads; 0 if it reads none."""
        pairs = workload.q_len * workload.keys
        return pairs * (self.bool_mask + self.additive_mask * workload.element_bytes)

    @property
    def module(self) -> str:
        """The module that defines it; `__main__` for notebooks and scripts."""
        return (self.user or self.build).__module__

    @property
    def is_own(self) -> bool:
        """Whether it is one of the lab's own contenders, which a child process gets by import."""
        return self.module.startswith(OWN)


_COLLECTED: ContextVar[list[Contender] | None] = ContextVar("collected", default=None)


@contextmanager
def collected() -> Iterator[list[Contender]]:
    """The contenders that are added inside the block."""
    taken: list[Contender] = []
    token = _COLLECTED.set(taken)
    try:
        yield taken
    finally:
        _COLLECTED.reset(token)


def is_collecting() -> bool:
    """Whether a file is being read for the kernels that it registers."""
    return _COLLECTED.get() is not None


class Registry:
    """Contenders by operation and name, in the order in which they were added."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Contender] = {}

    def add(self, contender: Contender) -> None:
        """Add a contender. ValueError for the name of one of the lab's own; a user's own may be redefined."""
        key = (contender.operation, contender.name)
        present = self._entries.get(key)
        if present is not None and present.is_own and not contender.is_own:
            raise ValueError(f"name: {contender.name!r} is one of the lab's own contenders; choose another name")
        self._entries[key] = contender
        if (taken := _COLLECTED.get()) is not None:
            taken.append(contender)

    def of(self, operation: str) -> dict[str, Contender]:
        """The operation's contenders by name."""
        return {name: entry for (kind, name), entry in self._entries.items() if kind == operation}


REGISTRY = Registry()


def contenders(operation: str = DEFAULT_OPERATION) -> dict[str, Contender]:
    """All contenders of an operation, by name."""
    return REGISTRY.of(operation)


def contender(name: str, operation: str = DEFAULT_OPERATION) -> Contender:
    """The contender of that name; ValueError lists the names there are."""
    known = contenders(operation)
    if name not in known:
        raise ValueError(f"contender: no {name!r}; there are {', '.join(known)}")
    return known[name]


def with_config(name: str, config: tuple[int, ...] | None, operation: str = DEFAULT_OPERATION) -> Contender:
    """The contender with a tile config of the caller's; ValueError where it takes none."""
    entry = contender(name, operation)
    if config is None:
        return entry
    if entry.configured is None:
        takers = [one.name for one in contenders(operation).values() if one.configured is not None]
        only = f"only {', '.join(takers)} do" if takers else f"no contender of {operation} does"
        raise ValueError(f"config: {name} takes none; {only}")
    return replace(entry, build=entry.configured(config), config=config)


def kernel(
    operation: str = DEFAULT_OPERATION,
    *,
    name: str,
    supports: Callable[[Any], bool | str | None] | None = None,
    label: str | None = None,
    configs: Mapping[str, Sequence[int]] | None = None,
    takes: Sequence[str] = (),
) -> Callable[[Any], Any]:
    """Register your own kernel: decorates `build(workload, inputs)`, which returns `f(*inputs) -> out`.

    inputs are q, k, v for attention and decode, x and the float weight for linear, which your kernel is checked with.
    `supports(workload)` returns True (or None), or False, or the reason why not as text.
    takes: of `float8` (keys and values), `ragged` (numbers of keys) and `sinks` what your kernel is made for. Inputs
    are then all that `workload.input_names` says, as q, k, v, k_scale, v_scale; others are not given such workloads.
    configs: numbers to choose from, by name: `{"BLOCK": (64, 128), "num_warps": (4, 8)}`. Then it decorates
    `build(workload, inputs, config)`, which is given one number of each, as a dict: the first of each, unless the point
    has others. `skiplab.tune` times all combinations.
    """
    operation_of(operation)
    for need in takes:
        choice("takes", need, tuple(NEEDS))
    choices = _choices(configs or {})

    def verdict(workload: Any, device: str) -> str | None:
        answer = None if supports is None else supports(workload)
        if answer is None or answer is True:
            return None
        return answer if isinstance(answer, str) else f"{name} says that it does not support this workload"

    def register(user: Any) -> Any:
        summary = (user.__doc__ or "your own kernel").strip().splitlines()[0]
        entry = Contender(name, label or name, summary, user, verdict, operation, user=user, takes=tuple(takes))
        if choices:
            configured, every = _configured(name, user, tuple(choices)), tuple(product(*choices.values()))
            build = configured(tuple(values[0] for values in choices.values()))
            entry = replace(entry, build=build, configured=configured, sizes=tuple(choices), configs=every)
        REGISTRY.add(entry)
        return user

    return register


def _choices(configs: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
    """ValueError or TypeError for what is no mapping of names to whole numbers."""
    if not isinstance(configs, Mapping):
        raise TypeError(f"configs: given {configs!r}; a dict of names and numbers is needed, as {{'BLOCK': (64, 128)}}")
    found = {name: tuple(values) for name, values in configs.items()}
    for name, values in found.items():
        if not values or not all(isinstance(value, int) and not isinstance(value, bool) for value in values):
            raise ValueError(f"configs: {name} is {values!r}; allowed are whole numbers, one at least")
    return found


def _configured(name: str, user: Any, sizes: tuple[str, ...]) -> Callable[[tuple[int, ...]], Build]:
    """What makes a `build` of a config's numbers."""

    def configured(numbers: tuple[int, ...]) -> Build:
        if len(numbers) != len(sizes):
            raise ValueError(f"config: got {numbers}; {name} takes {len(sizes)} numbers: {', '.join(sizes)}")
        config = dict(zip(sizes, numbers, strict=True))

        def build(workload: Any, inputs: Sequence[Any]) -> Solver:
            made = user(workload, inputs, dict(config))
            plan = {**(made.plan if isinstance(made, Planned) else {}), **config}
            return Planned(made.call if isinstance(made, Planned) else made, plan)

        return build

    return configured


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"
