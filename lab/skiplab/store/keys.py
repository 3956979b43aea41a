"""Keys of points, which leave out which GPU of a machine measured them."""

from __future__ import annotations

import re

_INDEX = re.compile(r"(?<=\| cuda):\d+(?= \||$)")


def without_index(key: str) -> str:
    """A row's key without the index of its GPU, which keys in older files contain."""
    return _INDEX.sub("", key) if "cuda:" in key else key
