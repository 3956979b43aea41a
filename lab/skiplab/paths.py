"""Paths: where `data/` is, where runs go, and how files are named: names taken from a run become slugs."""

from __future__ import annotations

import re
from pathlib import Path

from blockskip.tuned.files import user_folder

LONGEST_NAME = 120
"""Letters of a file's name before its suffix; many file systems take 255 bytes."""


def data_path(*parts: str) -> Path:
    """A path inside `data/`: the packaged copy where there is one, else the repository's."""
    return (_packaged() if installed() else _repository() / "data").joinpath(*parts)


def installed() -> bool:
    """Whether this is an installed package, which nothing may write into, rather than a checkout of the repository."""
    return _packaged().is_dir()


def notebooks_path() -> Path:
    """The folder of the notebooks: the packaged ones, else the repository's."""
    return _packaged().with_name("notebooks") if installed() else _repository() / "notebooks"


def runs_directory() -> Path:
    """Where a user's runs go: `runs` beside a checkout's notebooks, or in the working folder where it is installed."""
    return Path("runs") if installed() else notebooks_path() / "runs"


def is_shipped(path: Path) -> bool:
    """Whether a run file is one of those that skiplab brings with it, in `data/runs`."""
    return path.resolve().parent == data_path("runs").resolve()


def own_data(kind: str) -> Path:
    """The folder for measurements of a kind, such as roofs: `data` of a checkout; the user's folder where installed.

    That is `blockskip.tuned.files.user_folder`: `skiplab` in $XDG_CONFIG_HOME, or in `~/.config`.
    """
    return user_folder() / kind if installed() else data_path(kind)


def _packaged() -> Path:
    return Path(__file__).resolve().parent / "data"


def _repository() -> Path:
    return Path(__file__).resolve().parents[2]


def slug(text: str) -> str:
    """Small letters, digits and dashes."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def file_name(text: str, suffix: str) -> str:
    """A file name made of any text: its slug, cut to a safe length, or `unnamed`; and the suffix."""
    return (slug(text)[:LONGEST_NAME].strip("-") or "unnamed") + suffix


def inside(folder: Path, *parts: str) -> Path:
    """The path in the folder; ValueError where a link, `..` or an absolute part would lead out of it."""
    path = folder.joinpath(*parts)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"{'/'.join(parts)}: leads out of the folder {folder.name}; allowed are paths inside it")
    return path


def unused(path: Path) -> Path:
    """The path, with the first free number appended if a file has that name."""
    candidates = (path.with_stem(f"{path.stem}-{number}") for number in range(2, 10_000))
    return path if not path.exists() else next(one for one in candidates if not one.exists())
