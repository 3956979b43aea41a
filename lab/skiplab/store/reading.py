"""Reads a run file in one pass that checks every line by the schema."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import msgspec

from skiplab.store.faults import fault
from skiplab.store.schema import FILED, SCHEMA, End, Header, Row, RunFileError, Timed, with_end

HEADER_START = b'{"record": "header", "schema": '
RECORD_START = b'{"record": "'
RESPELLED = b"dequantise", b"dequantize"
"""What runs named contenders until 2026-11-29, and what they are named now; of equal length, so that places stay."""
_LINE = msgspec.json.Decoder(Row | End)
_TIMED = msgspec.json.Decoder(Timed)
_PLAIN = msgspec.json.Decoder()


@dataclass(frozen=True)
class Rows(Sequence[Mapping[str, Any]]):
    """A run's rows, held as checked lines; each is decoded to a plain dictionary when it is accessed.

    100,000 rows take 130 MB as lines, as in the file, and a gigabyte as dictionaries.
    """

    lines: tuple[bytes, ...] = ()
    name: str = ""

    def __len__(self) -> int:
        return len(self.lines)

    @overload
    def __getitem__(self, index: int) -> Mapping[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Mapping[str, Any] | Rows:
        if isinstance(index, slice):
            return Rows(self.lines[index], self.name)
        return self._plain(self.lines[index])

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return map(self._plain, self.lines)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return NotImplemented if not isinstance(other, Sequence) else False
        return all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def timed(self) -> Iterator[Timed]:
        """The columns that a frame shows, of each row."""
        return map(_TIMED.decode, self.lines)

    def _plain(self, line: bytes) -> Mapping[str, Any]:
        try:
            return _PLAIN.decode(line)
        except msgspec.ValidationError:  # a number beyond a double, under a key that the schema does not know
            return json.loads(line, parse_int=_whole)
        except RecursionError as error:  # nested as deep as it was just read, from further down the stack
            raise RunFileError(f"{self.name}: {fault(error, line, 'row')}") from error


def _whole(digits: str) -> int | float:
    """Python refuses to read integers of more than some thousand digits."""
    return int(digits) if len(digits) < 4000 else float(digits)


@dataclass(frozen=True)
class Held:
    """The contents of a file. header: None if there is none yet. kept: bytes of whole lines; ended: whether the last of
    them has its newline. cut: whether an unfinished line follows them."""

    header: dict[str, Any] | None
    rows: list[bytes] = field(default_factory=list)
    kept: int = 0
    ended: bool = True
    cut: bool = False


def scan(name: str, lines: Iterable[bytes]) -> Held:
    """Check the lines of a file, each with its newline; RunFileError names the line and the field.

    A last line without newline that breaks off, as by an interrupted write, is not an error here but `cut`.
    """
    source = (line.replace(*RESPELLED) for line in lines)
    first = next(source, b"")
    if not first or (first.strip(b"\0") and _is_torn(first, HEADER_START)):
        return Held(None, cut=bool(first))
    header = checked_header(name, first)
    rows, kept, last = [], len(first), first
    operation, end = header.get("operation"), None
    for number, line in enumerate(source, start=2):
        if not line.endswith(b"\n") and _is_torn(line, RECORD_START):
            return Held(with_end(header, end), rows, kept, cut=True)
        record = _decoded(name, number, line)
        if isinstance(record, Row):
            operation = operation or record.axes.operation
            if wrong := inconsistency(record, header, operation):
                raise RunFileError(f"{name}, line {number}: {wrong}")
            rows.append(line)
            end = None
        else:
            end = record
        kept, last = kept + len(line), line
    return Held(with_end(header, end), rows, kept, ended=last.endswith(b"\n"))


def _is_torn(line: bytes, start: bytes) -> bool:
    """Whether a line without newline is the beginning of a valid one; some file systems leave zeros after it."""
    text = line.rstrip(b"\0")
    if line.endswith(b"\n") or text[: len(start)] != start[: len(text)]:
        return False
    try:
        _PLAIN.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return True
    return False


def checked_header(name: str, line: bytes) -> dict[str, Any]:
    """The first line as a plain dictionary."""
    try:
        header = _PLAIN.decode(line)
        kind = header.get("record") if isinstance(header, dict) else None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunFileError(f"{name}, line 1: {fault(error, line, 'header')}") from error
    if kind != "header":
        given = repr(kind) if isinstance(header, dict) else type(header).__name__
        raise RunFileError(f"{name}, line 1: a run starts with its header, got {given}")
    check_header(name, header)
    return header


def check_header(name: str, header: Mapping[str, Any]) -> None:
    """RunFileError for a header that is not one of this schema."""
    schema = header.get("schema")
    if not isinstance(schema, int) or isinstance(schema, bool) or not 1 <= schema <= SCHEMA:
        raise RunFileError(f"{name}, line 1: schema {schema!r}; this version of skiplab reads 1 to {SCHEMA}")
    try:
        msgspec.convert(header, Header)
    except msgspec.ValidationError as error:
        raise RunFileError(f"{name}, line 1: {fault(error, header, 'header')}") from error


def _decoded(name: str, number: int, line: bytes) -> Row | End:
    try:
        if not line.isascii():
            line.decode()
        return _LINE.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RunFileError(f"{name}, line {number}: {fault(error, line, 'row')}") from error


def inconsistency(row: Row, header: Mapping[str, Any], operation: str | None) -> str | None:
    """A problem that types do not express (several devices or operations, missing samples); None without any."""
    device = header["device"]["name"]
    if row.device != device:
        return f"mixed devices: a run holds one device, the header's {device!r}; the row's device is {row.device!r}"
    if missing := [name for name in FILED[type(row.axes)] if getattr(row.axes, name) is None]:
        return f"axes lacks {', '.join(missing)}"
    if row.axes.operation != (operation or row.axes.operation):
        return f"axes.operation {row.axes.operation!r}; allowed is {operation!r}, as of the run's header or first row"
    if (row.status == "ok") != bool(row.samples_ns):
        return f"samples_ns: {len(row.samples_ns)} of a row whose status is {row.status!r}; only ok has some"
    return None


def checked_row(row: Mapping[str, Any], header: Mapping[str, Any], operation: str | None) -> Row:
    """The row to be written, as a reader will decode it; RunFileError if a reader would refuse it."""
    try:
        checked = msgspec.convert(row, Row)
    except msgspec.ValidationError as error:
        raise RunFileError(f"row: {fault(error, row, 'row')}") from error
    if wrong := inconsistency(checked, header, operation):
        raise RunFileError(f"row: {wrong}")
    return checked
