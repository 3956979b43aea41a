"""A scope around each program of a kernel that names no parts of its own: so one sees when it came and went."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Any

PROGRAM = "program"
_ENTER, _EXIT, _BODY = "skiplab_enter_scope", "skiplab_exit_scope", "skiplab_body_of"
_SCOPES = ("enter_scope", "exit_scope", "scope")


def scope_every_program() -> None:
    """From now on every kernel that is launched in this process has a scope: its own, or one around each program."""
    from triton.runtime.jit import JITFunction

    launch = JITFunction.run

    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        if self.hash is None and not has_scopes(self):
            put_program_scope(self)
        return launch(self, *arguments, **named)

    JITFunction.run = run  # type: ignore[method-assign]


def has_scopes(kernel: Any) -> bool:
    """Whether a `@triton.jit` or Gluon function names scopes, or one that it calls does."""
    return any(_named(call) in _SCOPES for one in _reached(kernel, set()) for call in _calls(one))


def put_program_scope(kernel: Any) -> None:
    """Name the whole of a kernel's program `PROGRAM`; it must not have been compiled yet.

    What it was becomes a function that it calls between the scope's ends, so that it may return where it likes.
    """
    from triton.profiler import language

    body = f"{_BODY}_{kernel.__name__}"
    names = ", ".join(kernel.arg_names)
    text = (
        f"def {kernel.__name__}({names}):\n    {_ENTER}({PROGRAM!r})\n    {body}({names})\n    {_EXIT}({PROGRAM!r})\n"
    )
    called = {_ENTER: language.enter_scope, _EXIT: language.exit_scope, body: type(kernel)(kernel.fn)}
    kernel.__globals__.update(called)
    kernel._unsafe_update_src(text)


def _reached(kernel: Any, seen: set[int]) -> Iterator[ast.AST]:
    """The source of a kernel, and of all functions that it calls."""
    from triton.runtime.jit import JITFunction

    if id(kernel) in seen:
        return
    seen.add(id(kernel))
    tree = kernel.parse()
    yield tree
    known = kernel.get_capture_scope()
    for name in {one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}:
        if isinstance(known.get(name), JITFunction):
            yield from _reached(known[name], seen)


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (one for one in ast.walk(tree) if isinstance(one, ast.Call))


def _named(call: ast.Call) -> str:
    """The last part of the name that is called: `scope` of `pl.scope("load")`."""
    return call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
