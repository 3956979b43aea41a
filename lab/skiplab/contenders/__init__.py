"""Ours and the peers behind one protocol; a file for each operation. `@kernel` adds a user's own."""

from skiplab.contenders import attention, decode, flash, linear  # noqa: F401 - they register their contenders
from skiplab.contenders.attention import with_config
from skiplab.contenders.base import Contender, Planned, Registry, Unsupported, contender, contenders, is_cuda, kernel

__all__ = [
    "Contender",
    "Planned",
    "Registry",
    "Unsupported",
    "contender",
    "contenders",
    "is_cuda",
    "kernel",
    "with_config",
]
