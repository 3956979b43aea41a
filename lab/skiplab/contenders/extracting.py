"""A function of a notebook's cell or a script as a file of its own: its source, and that of all that it names."""

from __future__ import annotations

import ast
import linecache
import math
import symtable
import sys
from dataclasses import dataclass, field
from types import FunctionType, ModuleType
from typing import Any

PLAIN = (int, float, str, bool, bytes, type(None))


class Unextractable(ValueError):
    """A function that cannot be written as a file; the text says which name prevents it."""


def standalone(function: Any) -> str:
    """The text of a module that defines the function as its module does: imports, constants, what it calls, itself.

    What it names is looked up as it is now. Unextractable where its source is not to be found, as of a function that
    another one made, or where it names an object that no text makes.
    """
    parts = _Parts(vars(sys.modules[function.__module__]))
    parts.add(function.__name__, function)
    imports = "\n".join(sorted(parts.imports))
    return "\n\n\n".join(filter(None, (imports, "\n".join(parts.constants), *parts.definitions))) + "\n"


@dataclass
class _Parts:
    """What a module consists of, collected from one function on."""

    names: dict[str, Any]
    imports: set[str] = field(default_factory=set)
    constants: list[str] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def add(self, name: str, value: Any) -> None:
        """Take the text that makes `name`, behind that of all it names itself."""
        if name in self.seen:
            return
        self.seen.add(name)
        inner = _unwrapped(value)
        if (statement := _import_of(name, value)) is not None:
            self.imports.add(statement)
        elif isinstance(value, ModuleType):
            self.imports.add(f"import {value.__name__}" + (f" as {name}" if name != value.__name__ else ""))
        elif isinstance(inner, FunctionType | type) and inner.__module__ != "__main__":
            self._import(name, inner)
        elif isinstance(inner, FunctionType | type):
            self._define(name, inner)
        else:
            self._constant(name, value)

    def _import(self, name: str, value: Any) -> None:
        own = value.__qualname__
        if "." in own or getattr(sys.modules.get(value.__module__), own, None) is None:
            raise Unextractable(f"{name} is {value!r}, which no import gives")
        self.imports.add(f"from {value.__module__} import {own}" + (f" as {name}" if own != name else ""))

    def _define(self, name: str, value: Any) -> None:
        if value.__name__ != name:
            raise Unextractable(f"{name} is another name of {value.__name__}; call it by that one")
        text = _definition(value)
        for used in _global_names(text):
            if used in self.names:
                self.add(used, self.names[used])
        self.definitions.append(text)

    def _constant(self, name: str, value: Any) -> None:
        if (text := _written(value)) is not None:
            self.constants.append(f"{name} = {text}")
            return
        kind = type(value)
        if kind.__name__ == "constexpr" and kind.__module__.startswith("triton"):
            written = _written(value.value)
            if written is not None:
                self.imports.add("import triton.language as _tl")
                self.constants.append(f"{name} = _tl.constexpr({written})")
                return
        if kind.__name__ == "dtype" and kind.__module__ == "torch":
            self.imports.add("import torch as _torch")
            self.constants.append(f"{name} = _{value}")
            return
        raise Unextractable(
            f"{name} is {kind.__name__}, which no text makes: put it into the function, or into a module"
        )


def _unwrapped(value: Any) -> Any:
    """The function under Triton's decorators, which hold it as `fn`."""
    while type(value).__module__.startswith(("triton.runtime", "triton.experimental")) and hasattr(value, "fn"):
        value = value.fn
    return value


def _written(value: Any) -> str | None:
    """The literal of plain data; None for anything else."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, PLAIN):
        return repr(value)
    if type(value) in (tuple, list, set, dict):
        inner = [*value, *value.values()] if isinstance(value, dict) else list(value)
        return repr(value) if all(_written(one) is not None for one in inner) else None
    return None


def _definition(value: Any) -> str:
    """The text of a function or class that stands at the top of its file or cell."""
    if value.__qualname__ != value.__name__:
        raise Unextractable(f"{value.__qualname__} is defined inside a function")
    for file in _files_of(value):
        lines = linecache.getlines(file)
        for node in reversed(_parsed(lines)):
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == value.__name__:
                first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
                if isinstance(value, type) or first <= value.__code__.co_firstlineno <= (node.end_lineno or first):
                    return "".join(lines[first - 1 : node.end_lineno]).rstrip()
    raise Unextractable(f"{value.__qualname__}: its source is not to be found")


def _files_of(value: Any) -> list[str]:
    """Where it may be defined: a function's own file; of a class, which does not know, all cells, the latest first."""
    if isinstance(value, FunctionType):
        return [value.__code__.co_filename]
    return _main_files()


def _main_files() -> list[str]:
    """The cells of this notebook, the latest first, and the script."""
    script = getattr(sys.modules["__main__"], "__file__", None)
    cells = [name for name in reversed(linecache.cache) if "ipykernel" in name or name.startswith("<ipython")]
    return [*cells, *([script] if script else [])]


def _import_of(name: str, value: Any) -> str | None:
    """The statement of a cell, or of the script, that imports `value` as this name."""
    for file in _main_files():
        every = ast.walk(ast.Module(_parsed(linecache.getlines(file)), []))
        for node in (one for one in every if isinstance(one, ast.Import | ast.ImportFrom)):
            for alias in node.names:
                if name == (alias.asname or alias.name) and _imported(node, alias) is value:
                    bound = f" as {alias.asname}" if alias.asname else ""
                    origin = f"from {node.module} " if isinstance(node, ast.ImportFrom) else ""
                    return f"{origin}import {alias.name}{bound}"
    return None


def _imported(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> Any:
    """What the statement would bind now, as far as it is loaded."""
    if isinstance(node, ast.Import):
        return sys.modules.get(alias.name)
    if node.level or node.module is None:
        return None
    found = getattr(sys.modules.get(node.module), alias.name, None)
    return sys.modules.get(f"{node.module}.{alias.name}") if found is None else found


def _parsed(lines: list[str]) -> list[ast.stmt]:
    try:
        return ast.parse("".join(lines)).body
    except SyntaxError:  # a cell with a magic command
        return []


def _global_names(text: str) -> list[str]:
    """The names of its module that a definition reads, in its decorators, too."""
    top = symtable.symtable(text, "definition", "exec")
    found = [one.get_name() for one in top.get_symbols() if one.is_referenced() and not one.is_assigned()]
    tables = list(top.get_children())
    while tables:
        table = tables.pop()
        found += [one.get_name() for one in table.get_symbols() if one.is_global() and one.is_referenced()]
        tables += table.get_children()
    return list(dict.fromkeys(found))
