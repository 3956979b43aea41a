"""A scope around each program of a kernel, in whose timeline one then sees when every program came and went."""

from __future__ import annotations

from typing import Any

PROGRAM = "whole program"
_ENTER, _EXIT, _BODY = "skiplab_enter_scope", "skiplab_exit_scope", "skiplab_body_of"


def scope_every_program() -> None:
    """From now on every kernel that is launched in this process has a scope around each program, beside its own."""
    from triton.runtime.jit import JITFunction

    launch, seen = JITFunction.run, set[int]()

    def run(self: Any, *arguments: Any, **named: Any) -> Any:
        if id(self) not in seen and self.hash is None:
            put_program_scope(self)
        seen.add(id(self))
        return launch(self, *arguments, **named)

    JITFunction.run = run  # type: ignore[method-assign]


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
