"""The source of a user's kernel: the text that registers it, by which it reaches other processes, and its file."""

from __future__ import annotations

import hashlib
import linecache
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from skiplab.contenders import base
from skiplab.contenders.base import Contender, collected
from skiplab.contenders.extracting import Unextractable, standalone
from skiplab.paths import file_name

FOLDER = "kernels"
"""Beside the run files: where the sources of kernels from notebooks go."""
HEX_DIGITS = 12
_PREFIX = "skiplab_kernel_"
_CONTENDERS = "__skiplab_contenders__"
_TEXT = "__skiplab_text__"


@dataclass(frozen=True)
class KernelSource:
    """The text of a module that registers a kernel. file: where it is, None for what a notebook's cell defines.

    module: the name to import it by, '' for what cannot be imported.
    """

    name: str
    text: str
    file: Path | None = None
    module: str = ""

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:HEX_DIGITS]

    def origin(self, folder: Path) -> str:
        """What `--from` is given: the module, the file as it is called from here, or the one written to `folder`."""
        return self.module or _relative(self.file or self.path(folder))

    def path(self, folder: Path) -> Path:
        """Where the source of a cell's kernel is kept."""
        return folder / FOLDER / file_name(f"{self.name}-{self.hash}", ".py")

    def keep(self, folder: Path) -> None:
        """Write the file that `origin` names, where there is none yet."""
        if self.module or self.file is not None:
            return
        path = self.path(folder)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.text, encoding="utf-8")


def source_of(entry: Contender) -> KernelSource | None:
    """The source of a user's kernel; None for the lab's own, and for one that another function made.

    That of a module or a file is all of it; of a notebook's cell or a script it is what the kernel needs
    (`extracting.standalone`).
    """
    user = entry.user
    if entry.is_own or user is None or not hasattr(user, "__code__"):
        return None
    module = sys.modules.get(user.__module__)
    if user.__module__ == "__main__":
        try:
            return KernelSource(entry.name, standalone(user))
        except Unextractable:
            return None
    if module is None or getattr(module, user.__qualname__, None) is not user:
        return None
    file = Path(getattr(module, "__file__", None) or "")
    if (text := getattr(module, _TEXT, None)) is not None:
        return KernelSource(entry.name, text, file)
    return KernelSource(entry.name, file.read_text(encoding="utf-8"), file, module.__name__) if file.is_file() else None


def why_no_source(entry: Contender) -> str:
    """The reason why a user's kernel has no source that another process could be given; '' if it has one."""
    user = entry.user
    if user is None or user.__module__ != "__main__":
        return "" if source_of(entry) else f"{entry.name} is made inside a function"
    try:
        standalone(user)
    except Unextractable as error:
        return str(error)
    return ""


def kernel_file(origin: str) -> Path | None:
    """The Python file that `--from` names, None where it names a module; ValueError where there is no such file."""
    path = Path(origin)
    if path.is_file():
        return path
    if path.suffix == ".py":
        raise ValueError(f"--from: there is no file {path.name}")
    return None


def load_kernels(origin: str) -> ModuleType:
    """Run a Python file, or import a module by its name, for the kernels that it registers; return the module.

    ValueError where there is no such file or module.
    """
    if (path := kernel_file(origin)) is not None:
        if (folder := str(path.resolve().parent)) not in sys.path:
            sys.path.append(folder)  # for what it imports beside it
        return _run(path.read_text(encoding="utf-8"), path.resolve())
    try:
        with collected():
            return import_module(origin)
    except ModuleNotFoundError as error:
        if error.name != origin and not origin.startswith(f"{error.name}."):
            raise
        raise ValueError(f"--from: got {origin}; there is no such file, and no such module") from None


def load_source(source: KernelSource) -> None:
    """Register the kernels of a source that came from another process; what was read before is not read again."""
    module = _run(source.text, source.file or Path(f"<{source.name} {source.hash}>"))
    if source.name not in (names := [one.name for one in getattr(module, _CONTENDERS)]):
        raise ValueError(f"{source.name}: its source registers {', '.join(names) or 'no kernel'}")


def _run(text: str, file: Path) -> ModuleType:
    """The module of that text; its lines are kept for whoever shows or compiles its functions."""
    name = _PREFIX + hashlib.sha256(f"{file}\n{text}".encode()).hexdigest()[:HEX_DIGITS]
    module = sys.modules.get(name)
    if module is None:
        module = _executed(name, text, file)
    for one in getattr(module, _CONTENDERS):
        base.REGISTRY.add(one)  # another source may have taken its name meanwhile
    return module


def _executed(name: str, text: str, file: Path) -> ModuleType:
    module: Any = ModuleType(name)
    module.__file__ = str(file)
    setattr(module, _TEXT, text)
    linecache.cache[str(file)] = (len(text), None, text.splitlines(keepends=True), str(file))
    sys.modules[name] = module
    try:
        with collected() as found:
            exec(compile(text, str(file), "exec"), vars(module))
    except BaseException:
        del sys.modules[name]
        raise
    setattr(module, _CONTENDERS, tuple(found))
    return module


def _relative(path: Path) -> str:
    """The path from the working folder where it is inside, else the name alone: headers hold no user's folders."""
    path, here = path.resolve(), Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else path.name


def sources_of(entries: Sequence[Contender]) -> dict[str, KernelSource]:
    """The sources of those that are users' kernels and have one, by name."""
    found = ((entry.name, source_of(entry)) for entry in entries)
    return {name: source for name, source in found if source is not None}
