"""The state of an anatomy explorer: for which GPU its kernel is compiled, and with which numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skiplab.machine.capability import compilable_capability, sm_name


@dataclass(frozen=True)
class AnatomySettings:
    """arch: a compute capability, however it is written. config: the kernel's numbers, by name.

    ValueError names the setting, what was given and what is allowed.
    """

    arch: str
    config: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, arch: object, config: Mapping[str, int]) -> AnatomySettings:
        return cls(sm_name(compilable_capability(arch)), tuple(config.items()))

    @property
    def label(self) -> str:
        """`64x64x4x3 sm_90`."""
        return " ".join(filter(None, ("x".join(str(number) for _, number in self.config), self.arch)))
