"""Commands whose errors name what was typed: `--q-len` for an argument `q_len`, and what was given."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

NAMED = re.compile(r"(\w+): ")
ALIASES = {
    "budget_s": ("budget",), "compare": ("runs",), "contender": ("name", "what"), "kernel": ("name",),
    "model": ("spec",), "out_dir": ("out",), "query": ("runs",), "source": ("spec",), "spec": ("mask",),
    "steps": ("new",),
}  # fmt: skip
"""What an error calls an argument, and the parameters of commands that it came by, where these have another name."""
KINDS = (("integer", "a whole number"), ("number", "a number"), ("bool", "true or false"))
"""What is allowed, by a word of pydantic's message."""
PYTHONS = re.compile(r"<list\[\w+\]>")
"""How typer shows an argument that may be given several times."""
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""Of the click that this typer uses, its own or the package."""


class Command(TyperCommand):
    """A command whose parameters are told of as they are typed, whoever refuses them."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        typed = list(args)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            raise _refused(error) from error
        except USAGE_ERROR as error:
            if "unexpected extra argument" in str(error) and any(one.startswith("-") for one in typed):
                error.message = f"{error.message}; several values of an option have commas between"  # type: ignore[attr-defined]
            raise

    def get_help(self, ctx: Any) -> str:
        return PYTHONS.sub(lambda match: " " * len(match[0]), super().get_help(ctx))

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (ValueError, TypeError) as error:
            text = as_typed(str(error), self.params, _axes(ctx.params.get("at")))
            if text == str(error):
                raise
            raise ValueError(text) from error


class DefaultGroup(TyperGroup):
    """A group that runs its first command where none is named; a word that is no command is refused as one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = next(iter(self.commands))
        named = bool(args) and (not args[0].startswith("-") or args[0] == "--help")
        if named and args[0] not in (*self.commands, "--help"):
            raise ValueError(f"COMMAND: got {args[0]!r}; allowed are {', '.join(self.commands)}, or none for {first}")
        return super().parse_args(ctx, args if named else [first, *args])


def as_typed(text: str, params: Sequence[Any], axes: Iterable[str] = ()) -> str:
    """An error's text with the argument's name, before the colon, as the command line has it.

    params: the command's. axes: names that were given by `--at`.
    """
    match = NAMED.match(text)
    if match is None:
        return text
    name, rest = match[1], text[match.end() :]
    if name in axes:
        return f"--at {name}: {rest}"
    by_name = {one.name: one for one in params}
    for known in (name, *ALIASES.get(name, ())):
        if known in by_name:
            return f"{_typed(by_name[known])}: {rest}"
    return text


def _typed(param: Any) -> str:
    """`--q-len` of an option, `NAME` of an argument."""
    if param.param_type_name == "argument":
        return (param.metavar or param.name).removesuffix("...").upper()
    return max(param.opts, key=lambda text: (text.startswith("--"), text == f"--{param.name}".replace("_", "-")))


def _axes(at: Sequence[str] | None) -> list[str]:
    return [text.partition("=")[0].strip() for text in at or ()]


def _refused(error: typer.BadParameter) -> Exception:
    """What was given and what is allowed, where typer says only what it could not make of it."""
    told = getattr(error.__cause__, "errors", None)
    allowed = next((words for word, words in KINDS if word in error.message), None)
    if told is None or allowed is None or error.param is None:
        return error
    return ValueError(f"{_typed(error.param)}: got {told()[0]['input']!r}; allowed is {allowed}")
