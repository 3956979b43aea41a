"""Ours and the peers behind one protocol; a file for each operation. `@kernel` adds a user's own."""

from skiplab.contenders import flash, varlen  # noqa: F401 - peers of two operations; of packed prompts
from skiplab.contenders.base import (
    Contender,
    Planned,
    Registry,
    Unsupported,
    contender,
    contenders,
    is_cuda,
    kernel,
    with_config,
)
from skiplab.operations import modules_of

modules_of(__name__)  # each registers its own
from skiplab.contenders import huggingface, humming, ladder  # noqa: E402, F401 - after ours, which a list of them begins with

__all__ = [
    "Contender", "Planned", "Registry", "Unsupported", "contender", "contenders", "is_cuda", "kernel", "with_config",
]  # fmt: skip
