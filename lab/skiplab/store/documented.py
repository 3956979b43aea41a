"""The schema as tables of documentation, in Markdown: `fill` writes them between two comments of a page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from msgspec import NODEFAULT, Struct, inspect

from skiplab.operations import OPERATIONS
from skiplab.operations.base import LARGEST, fields_of, kind_of
from skiplab.store.schema import FLAGS, Device, End, Header, Roof, Row, RowWork
from skiplab.text import markdown

SECTION = re.compile(r"(<!-- schema: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
NAMES = {inspect.StrType: "text", inspect.BoolType: "true or false", inspect.AnyType: "anything"}
WITHIN = ((inspect.IntType, "whole number"), (inspect.FloatType, "number"))


def fill(page: str) -> str:
    """The page with every table of the schema in it written anew; ValueError for a table that there is not."""

    def written(found: re.Match[str]) -> str:
        if found[2] not in TABLES:
            raise ValueError(f"schema: got {found[2]!r}; allowed are {', '.join(TABLES)}")
        return f"{found[1]}{TABLES[found[2]]()}\n{found[3]}"

    return SECTION.sub(written, page)


def of_struct(*structs: type[Struct], inside: Mapping[str, type[Struct]] | None = None) -> str:
    """A line for each field; inside: structures whose fields follow the one that holds them, as `work.bytes`."""
    lines = [line for struct in structs for line in _lines(struct, "", inside or {})]
    return markdown(["key", "kind", "what"], dict.fromkeys(lines))


def _lines(struct: type[Struct], prefix: str, inside: Mapping[str, type[Struct]]) -> Iterable[tuple[str, str, str]]:
    for field in fields_of(struct):
        needed = "" if field.required or prefix else ", or absent"
        yield f"`{prefix}{field.name}`", f"{_kind(kind_of(field.type))}{needed}", said(field)
        if field.name in inside:
            yield from _lines(inside[field.name], f"{field.name}.", {})


def _of_axes() -> str:
    """A line for each axis: which operations have it, and what it is in each."""
    told: dict[str, dict[str, inspect.Field]] = {}
    for name, operation in OPERATIONS.items():
        for field in fields_of(operation.axes):
            told.setdefault(field.name, {})[name] = field
    lines = [("`operation`", "text", ", ".join(OPERATIONS), "which of the lab's operations")]
    for axis, fields in told.items():
        meanings: dict[str, list[str]] = {}
        for name, field in fields.items():
            meanings.setdefault(said(field), []).append(name)
        words = [f"{', '.join(names)}: {said}" if len(meanings) > 1 else said for said, names in meanings.items()]
        kind = _kind(kind_of(next(iter(fields.values())).type))
        lines.append((f"`{axis}`", kind, ", ".join(fields), "; ".join(words)))
    return markdown(["axis", "kind", "operations", "what"], lines)


def said(field: inspect.Field) -> str:
    """What a field means, and its default where that is no matter of course."""
    told = field.type.extra_json_schema if isinstance(field.type, inspect.Metadata) else None
    default = field.default
    silent = default in (NODEFAULT, None, "", False)
    return (told or {}).get("description", "") + ("" if silent else f" (default: {default})")


def _kind(kind: Any) -> str:
    """A type in words."""
    if isinstance(kind, inspect.ListType):
        return f"list of: {_kind(kind_of(kind.item_type))}"
    if isinstance(kind, inspect.DictType):
        return f"by name: {_kind(kind_of(kind.value_type))}"
    if isinstance(kind, inspect.LiteralType):
        return "one of " + ", ".join(f"`{value}`" for value in sorted(map(str, kind.values)))
    if isinstance(kind, inspect.UnionType):
        return " or ".join(dict.fromkeys(_kind(one) for one in kind.types))
    for of, name in WITHIN:
        if isinstance(kind, of):
            return " ".join([name, *_limits(kind)])
    return NAMES.get(type(kind), "object")


def _limits(kind: Any) -> list[str]:
    """The limits that a reader checks, but those of 64 bits."""
    signs = (("gt", "> "), ("ge", "≥ "), ("lt", "< "), ("le", "≤ "))
    limits = [(sign, getattr(kind, name)) for name, sign in signs]
    return [f"{sign}{limit:g}" for sign, limit in limits if limit is not None and abs(limit) < LARGEST]


TABLES: Mapping[str, Callable[[], str]] = {
    "header": lambda: of_struct(Header, inside={"device": Device, "roof": Roof}),
    "row": lambda: of_struct(Row, inside={"work": RowWork}),
    "axes": _of_axes,
    "end": lambda: of_struct(End),
    "flags": lambda: markdown(["flag", "meaning"], [(f"`{flag}`", meaning) for flag, meaning in FLAGS.items()]),
}
"""The tables by the name that a page's comment has."""
