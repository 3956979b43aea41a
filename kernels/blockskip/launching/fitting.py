"""What is said where sizes do not fit a device: who chose them, and the way out. Imports triton."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from triton.runtime.errors import OutOfResources

from ..tuned.choose import Origin


@contextmanager
def fitting(config: Any, origin: Origin | None) -> Iterator[None]:
    """Turns Triton's OutOfResources into a ValueError that names these sizes and where they are from."""
    try:
        yield
    except OutOfResources as error:
        raise ValueError(does_not_fit(config, origin, error)) from error


def does_not_fit(config: Any, origin: Origin | None, error: OutOfResources) -> str:
    """What the sizes need, what there is, and what to do: of a file's entry by its name, else by the argument's."""
    unit = "bytes of " if error.name == "shared memory" else ""
    amounts = f"{error.required} {unit}{error.name} a block, this device has {error.limit}"
    if origin is None or origin.place is None:
        asked = f"config: given {config} ({origin or 'asked for'}); it needs {amounts}"
        return f"{asked}: take smaller tiles or fewer stages, or None for the table's"
    return f"{origin.place} does not fit: its sizes, {config}, need {amounts}. {origin.place.way_out}"
