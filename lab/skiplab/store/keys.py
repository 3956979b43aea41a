"""Keys of points: which GPU of a machine measured one is no part of them."""

from __future__ import annotations

import re

_INDEX = re.compile(r"(?<=\| cuda):\d+(?= \||$)")


def without_index(key: str) -> str:
    """The key of a row, by `cuda` for any of a machine's GPUs: older files have their index in it."""
    return _INDEX.sub("", key) if "cuda:" in key else key
