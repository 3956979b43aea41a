"""Where `data/` is, and what files in it are called."""

from __future__ import annotations

import re
from pathlib import Path


def data_path(*parts: str) -> Path:
    """A path inside `data/`: the packaged copy where there is one, else the repository's."""
    packaged = Path(__file__).parents[1] / "data"
    root = packaged if packaged.is_dir() else Path(__file__).resolve().parents[3] / "data"
    return root.joinpath(*parts)


def runs_directory() -> Path:
    """Where runs are kept; made when it is missing."""
    path = data_path("runs")
    path.mkdir(parents=True, exist_ok=True)
    return path


def slug(text: str) -> str:
    """Letters, digits and dashes, for file names."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
