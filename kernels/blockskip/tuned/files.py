"""The files that `skiplab tune` writes: one a device, with a section for each operation that was tuned there.

They stand in the package's own `configs/`, and in the user's `configs/` (`user_folder`), whose sections come first.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from .attention import Entry
from .decode import DecodeEntry
from .linear import LinearEntry

SCHEMA = 3
"""Counted up where an entry means something else: since 3, `programs` of a weight in tiles are those of all rows."""
CONFIGS = Path(__file__).parents[1] / "configs"
OPERATIONS: Mapping[str, Callable[[Mapping[str, Any]], Any]] = MappingProxyType(
    {"attention": Entry.of, "decode": DecodeEntry.of, "linear": LinearEntry.of}
)
"""What is tuned, and what makes an entry of a file's fields."""


COMMANDS: Mapping[str, str] = MappingProxyType(
    {"attention": "skiplab tune", "decode": "skiplab tune decode", "linear": "skiplab tune linear"}
)
"""What writes an operation's section."""


@dataclass(frozen=True)
class Place:
    """Where an entry stands: its file, its operation's section, its number there from 1, and what it is for."""

    path: Path
    operation: str
    number: int
    what: str

    def __str__(self):
        return f"{self.path}, entry {self.number} of {self.operation} ({self.what})"

    @property
    def way_out(self) -> str:
        """What to do about an entry that this device, or this version, cannot use."""
        return (
            "It was tuned with other kernels or on another device: run "
            f"`{COMMANDS[self.operation]}` on this one, whose result then counts, or take the entry out of the file, "
            "for the defaults"
        )


@dataclass(frozen=True)
class Section:
    """What was tuned for one operation: with which versions, by which runs, and the winners."""

    torch: str
    triton: str
    runs: str
    entries: tuple[Any, ...]


@dataclass(frozen=True)
class Tuned:
    """A file: what was tuned on one device, by operation. path: where it was read, None for one not yet written."""

    device: str
    capability: tuple[int, int]
    sections: Mapping[str, Section]
    path: Path | None = field(default=None, compare=False)

    def entries(self, operation: str) -> tuple[Any, ...]:
        """The operation's, none where it was not tuned."""
        section = self.sections.get(operation)
        return () if section is None else section.entries

    def place(self, operation: str, entry: Any) -> Place | None:
        """Where the entry of that operation stands; None where this was read from no file."""
        if self.path is None:
            return None
        return Place(self.path, operation, self.entries(operation).index(entry) + 1, entry.what)


def user_folder() -> Path:
    """Where a user's own measurements are kept: `skiplab` in $XDG_CONFIG_HOME, or in `~/.config`."""
    return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "skiplab"


def read_tuned(path: Path) -> Tuned:
    """Read a file of `configs/`; ValueError names the file, what is wrong with it, and the way out."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or content.get("schema") != SCHEMA:
            schema = content.get("schema") if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"schema is {schema!r}; this version of blockskip reads {SCHEMA}")
        major, minor = map(int, content["capability"].split("."))
        sections = {name: _section(name, section) for name, section in content["operations"].items()}
        return Tuned(str(content["device"]), (major, minor), sections, path)
    except KeyError as error:
        raise ValueError(_unreadable(path, f"{error.args[0]} is missing")) from error
    except (OSError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(_unreadable(path, str(error))) from error


def _unreadable(path: Path, why: str) -> str:
    return f"{path}: {why}. Delete the file, or move it away, for the defaults; `skiplab tune` writes a new one"


def _section(operation: str, content: Mapping[str, Any]) -> Section:
    if operation not in OPERATIONS:
        raise ValueError(f"operations: given {operation!r}; allowed are {', '.join(OPERATIONS)}")
    texts = {name: str(content[name]) for name in ("torch", "triton", "runs")}
    return Section(**texts, entries=tuple(map(OPERATIONS[operation], content["entries"])))


@lru_cache(maxsize=8)
def tuned_devices(*folders: Path) -> tuple[Tuned, ...]:
    """All files of the folders, by default the user's and the package's, read once."""
    folders = folders or (user_folder() / "configs", CONFIGS)
    return tuple(read_tuned(path) for folder in folders for path in sorted(folder.glob("*.json")))
