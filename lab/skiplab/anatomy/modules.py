"""The operations with kernels of ours to take apart: the module of each in this package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Any, Protocol, cast

from blockskip.tuned.files import OPERATIONS

from skiplab.anatomy.compiled import Anatomy


class AnatomyModule(Protocol):
    """What such a module holds."""

    def compiles(self, contender: str) -> bool:
        """Whether the contender has a kernel of ours that can be named here."""
        ...

    def sizes(self, contender: str) -> tuple[str, ...]:
        """The names of a config's numbers; none for a contender that takes none."""
        ...

    def default(self, arch: Any, workload: Any, contender: str) -> tuple[int, ...]:
        """The config that a call takes where nothing was tuned."""
        ...

    def anatomy(self, arch: Any, workload: Any, contender: str, config: tuple[int, ...]) -> Anatomy:
        """The anatomy of a contender's kernel for this workload."""
        ...


MODULES: Mapping[str, AnatomyModule] = MappingProxyType(
    {name: cast(AnatomyModule, import_module(f"skiplab.anatomy.{name}")) for name in OPERATIONS}
)
