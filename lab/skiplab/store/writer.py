"""Writes runs: one writer a file, each row on the disk before the next; files that are not runs are left alone."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Collection, Mapping
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from skiplab.machine import device_kind
from skiplab.operations import DEFAULT_OPERATION
from skiplab.store.keys import without_index
from skiplab.store.lock import flush_folder, open_locked
from skiplab.store.reading import Held, Rows, check_header, checked_row, scan
from skiplab.store.runs import Run
from skiplab.store.schema import SCHEMA, End, RunFileError, with_end


class RunWriter:
    """Appends rows to a run file; every row is on the disk (fsync) when `append` returns.

    The file is locked until `finish` or `close`, or until the process ends: a second writer gets RunFileError. An
    existing file is continued if it is a run of the same operation and parameters, on the same device with the same
    versions, else ValueError, and the file stays as it is. Only then is it repaired: a last line or a header that
    breaks off is a write that was interrupted, and is cut off; its point is measured again. An empty file is begun.
    """

    def __init__(self, path: Path | str, header: Mapping[str, Any]):
        self.path = Path(path)
        wanted = json.loads(_text({"record": "header", "schema": SCHEMA, **header}))
        check_header(self.path.name, wanted)
        self._file = open_locked(self.path)
        try:
            held = self._held()
            if held.header is not None:
                _check_same_run(self.path.name, held.header, wanted)
            self._repair(held)
            self._rows, self._header = held.rows, held.header or wanted
            self._operation = self.run.operation if self._rows else self._header.get("operation")
            if held.header is None:
                self._write(wanted)
                flush_folder(self.path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> RunWriter:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def run(self) -> Run:
        """The run as the file holds it now."""
        return Run(self._header, Rows(tuple(self._rows), self.path.name), "measured", self.path)

    def settled(self, again: Collection[str] = ()) -> frozenset[str]:
        """The keys whose latest row has none of the statuses and flags in `again`: points not to be measured again."""
        latest = {without_index(row["key"]): {row["status"], *row.get("flags", ())} for row in self.run.rows}
        return frozenset(key for key, words in latest.items() if not words & set(again))

    def append(self, row: Mapping[str, Any]) -> None:
        """Write one row; ValueError when it is of another device than the header, or not of the schema."""
        row = {"record": "point", **row}
        self._operation = checked_row(row, self._header, self._operation).axes.operation
        self._rows.append(self._write(row))
        self._header = with_end(self._header, None)

    def finish(self, end: str, interrupted: bool = False) -> Run:
        """Note the time at which the run ended (ISO 8601), let the file go and return the run.

        interrupted: whether points are left to measure.
        """
        last = End(end, interrupted)
        self._write(msgspec.to_builtins(last))
        self._header = with_end(self._header, last)
        self.close()
        return self.run

    def close(self) -> None:
        """Close the file without an end line; what has been written stays."""
        self._file.close()

    def _held(self) -> Held:
        with open(os.dup(self._file.fileno()), "rb") as lines:
            return scan(self.path.name, lines)

    def _repair(self, held: Held) -> None:
        """Cut off an unfinished line, and end the last one."""
        if held.cut:
            self._file.truncate(held.kept)
        if not held.ended:
            self._file.seek(0, io.SEEK_END)
            self._file.write(b"\n")

    def _write(self, record: Mapping[str, Any]) -> bytes:
        """Append a line completely or not at all: if the disk is full, the part written is cut off."""
        if not os.fstat(self._file.fileno()).st_nlink:
            raise RunFileError(f"{self.path.name}: was deleted while it was written; nothing more can be kept in it")
        line = _text(record).encode() + b"\n"
        size = self._file.seek(0, io.SEEK_END)
        try:
            written = 0
            while written < len(line):
                written += self._file.write(line[written:])
            os.fsync(self._file.fileno())
        except BaseException:
            with suppress(OSError):
                self._file.truncate(size)
            raise
        return line


def file_to_begin(path: Path, header: Mapping[str, Any]) -> tuple[Path, str]:
    """Where a run that begins now is written, and that in words: no finished run is touched.

    A file that is not there yet, or holds a run that was interrupted, is taken; beside a finished run of the same
    operation and parameters it is `<name>-2`, `-3` and so on. Other files are left for `RunWriter` to refuse.
    """
    finished = ""
    for number in count(1):
        file = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        if not file.exists():
            return file, finished and f"{finished} is finished: measured again, into {file.name}"
        with file.open("rb") as lines:
            held = scan(file.name, lines)
        if held.header is None or _wish(held.header) != _wish(header):
            if number == 1:
                return file, ""
            continue
        if "end" not in held.header or "interrupted" in held.header:
            return file, f"{file.name} was interrupted with {len(held.rows)} points measured: it goes on"
        finished = file.name
    raise AssertionError("there is always a further number")


def _wish(header: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """Operation and parameters, as they are compared."""
    text = json.loads(_text(header))
    return text.get("operation") or DEFAULT_OPERATION, _parameters(text)


def _check_same_run(name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
    """ValueError unless rows measured under the new header may stand under the old one."""
    for what, before, after in _identity(old, new):
        if before != after:
            raise ValueError(f"{name}: was made with {what} {before}, this is {after}; name a new file")


def _identity(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """What rows under one header have in common: (name, old header's value, new header's value)."""
    before, after = (_parameters(header) for header in (old, new))
    return [
        *((name, old.get(name), new.get(name)) for name in ("torch", "triton", "threads")),
        ("the device", old["device"]["name"], new["device"]["name"]),
        ("the operation", old.get("operation") or DEFAULT_OPERATION, new.get("operation") or DEFAULT_OPERATION),
        *((f"the parameter {name}", before.get(name), after.get(name)) for name in dict.fromkeys([*before, *after])),
    ]


def _parameters(header: Mapping[str, Any]) -> dict[str, Any]:
    """The header's parameters without those that are None, which older files lack; of the device its kind alone."""
    given = {name: value for name, value in (header.get("parameters") or {}).items() if value is not None}
    return {**given, "device": device_kind(str(given["device"]))} if "device" in given else given


def _text(record: Mapping[str, Any]) -> str:
    """A line of a file; ValueError for numbers that JSON does not have."""
    return json.dumps(record, allow_nan=False, separators=(", ", ": "))
