"""What is wrong with a record that the schema refuses, in words: the field, what it holds, what is allowed."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import Any

import msgspec

from skiplab.operations import OPERATIONS
from skiplab.store.schema import STATUSES, Header, Row

ALLOWED = {"status": STATUSES, "operation": OPERATIONS, "axes.operation": OPERATIONS, "record": ("point", "end")}
_PATH = re.compile(r"(?P<reason>.*?)(?: - at `(?:key in )?\$(?P<path>.*)`)?", re.DOTALL)
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")


def fault(error: Exception, line: bytes | Mapping[str, Any], what: str) -> str:
    """The error of a line that could not be decoded, or a record that could not be converted, in words.

    what: `row` or `header`. Names the field, what it holds, and what is allowed.
    """
    if isinstance(error, RecursionError):
        return "broken line: nested too deep"
    if not isinstance(error, msgspec.ValidationError):
        return f"broken line: {error}"
    try:
        record = msgspec.json.decode(line) if isinstance(line, bytes) else line
    except (msgspec.DecodeError, RecursionError) as worse:
        return f"broken line: {worse}"
    if not isinstance(record, Mapping):
        return f"a JSON object is expected, got {type(record).__name__}"
    match = _PATH.fullmatch(str(error))
    assert match is not None
    return _in_words(match["reason"], (match["path"] or "").removeprefix("."), record, what)


def _in_words(reason: str, path: str, record: Mapping[str, Any], what: str) -> str:
    if reason.startswith("Object missing required field"):
        name = reason.split("`")[1]
        if name == "record":
            return f"record is None; allowed are {' and '.join(map(repr, ALLOWED['record']))}"
        return f"{path} lacks {name}" if path else f"the {what} lacks {', '.join(_missing(record, what))}"
    value = _value(record, path)
    if path in ALLOWED and reason.startswith("Invalid"):
        verb = " is" if path == "record" else ""
        return f"{path}{verb} {value}; allowed are {', '.join(ALLOWED[path])}"
    return f"{path or what} {value}; {reason[0].lower()}{reason[1:]}"


def _missing(record: Mapping[str, Any], what: str) -> list[str]:
    fields = msgspec.structs.fields(Header if what == "header" else Row)
    return [field.name for field in fields if field.required and field.name not in record]


def _value(record: Any, path: str) -> str:
    """The record's value at the path, shortened; followed as far as it exists."""
    for name, number in _STEP.findall("." + path if path else ""):
        try:
            record = record[name if name else int(number)]
        except (LookupError, TypeError):
            break
    return reprlib.repr(record)
