"""The schema of a run file's lines: what a reader checks, and what a writer may write.

`data/README.md` says in words what each key means. Keys that are not listed here are kept unchecked, so that a
later version may add some. Counts fit in 64 bits, since a frame holds them as such; amounts are so small that rates and
logarithms of them are doubles.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union

import msgspec
from msgspec import Meta, Struct

from skiplab.operations import OPERATIONS
from skiplab.operations.base import Count, RowAxes

SCHEMA = 1
STATUSES = ("ok", "wrong", "unsupported", "out-of-memory", "crashed", "timeout")
Amount = Annotated[float, Meta(ge=0, le=1e30)]
PositiveFloat = Annotated[float, Meta(gt=0)]
Difference = Annotated[float, Meta(ge=0)]
Name = Annotated[str, Meta(min_length=1)]


FILED = {one.axes: one.filed for one in OPERATIONS.values()}
"""Axes that every row of a file has, beside those that every row has."""
if TYPE_CHECKING:
    Axes = RowAxes
    OperationName = str
else:
    Axes = Union[tuple(one.axes for one in OPERATIONS.values())]  # noqa: UP007 - of a table, not of names
    OperationName = Literal[tuple(OPERATIONS)]


class RunFileError(ValueError):
    """A run file that cannot be trusted; the message names the file, the line and the field."""


class Device(Struct):
    """A header's `device`: what readers use of it."""

    name: str
    kind: str = ""
    sms: Count | None = None
    compute_capability: Annotated[str, Meta(pattern=r"^\d{1,4}\.\d{1,4}$")] | None = None


class Roof(Struct):
    """A header's `roof`."""

    bandwidth_gbps: PositiveFloat
    tflops: PositiveFloat


class Header(Struct, tag_field="record", tag="header"):
    """The first line."""

    schema: Count
    run_id: Name
    device: Device
    operation: OperationName | None = None
    command: str = ""
    argv: list[str] = []
    parameters: dict[str, Any] = {}
    seed: int | None = None
    git: dict[str, str | bool] | None = None
    source_hash: str | None = None
    kernels: dict[str, dict[str, str]] = {}
    python: str | None = None
    torch: str | None = None
    triton: str | None = None
    cuda: str | None = None
    cpu: str | None = None
    threads: Count | None = None
    roof: Roof | None = None
    start: str = ""
    end: str | None = None


class End(Struct, tag_field="record", tag="end", omit_defaults=True):
    """The line that ends a run, or a part of it where it was continued.

    interrupted: whether it was stopped before its last point.
    """

    end: str
    interrupted: bool = False


END = End.__struct_fields__
"""The keys of a header that its file says in an end."""


def with_end(header: Mapping[str, Any], end: End | None) -> dict[str, Any]:
    """The header with that end; None: without an end."""
    going_on = {name: value for name, value in header.items() if name not in END}
    said = msgspec.to_builtins(end) if end is not None else {}
    return {**going_on, **{name: said[name] for name in END if name in said}}


class RowWork(Struct, gc=False):
    """FLOPs and bytes of one call."""

    useful_flops: Amount
    minimal_bytes: Amount
    dense_flops: Amount | None = None
    bytes: Amount | None = None
    executed_flops: Amount | None = None


class PlanFacts(Struct):
    """The part of a row's `plan` that readers use."""

    config: Annotated[list[Count], Meta(min_length=2)] | None = None
    packed: bool | None = None


class Timed(Struct, tag_field="record", tag="point", gc=False):
    """The part of a row that a frame shows, decoded without the rest, which is most of a row's bytes."""

    point: str
    axes: Axes
    contender: str
    status: Literal["ok", "wrong", "unsupported", "out-of-memory", "crashed", "timeout"]
    samples_ns: list[Count]
    label: str | None = None
    method: str | None = None
    error: Difference | None = None
    tolerance: Difference | None = None
    flags: list[str] = []
    error_text: str = ""
    work: RowWork | None = None
    parts_ns: dict[str, Amount] = {}
    peak_bytes: Count | None = None


class Row(Timed, tag_field="record", tag="point", kw_only=True, gc=False):
    """A row, one point measured."""

    key: str
    device: str
    torch_device: str = ""
    node: str = ""
    config: list[int] | None = None
    other_samples_ns: dict[str, list[Count]] = {}
    clocks: dict[str, Any] = {}
    plan: PlanFacts | None = None
    source_hash: str = ""
    kernel_hash: str = ""


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
