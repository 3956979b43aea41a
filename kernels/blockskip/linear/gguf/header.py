"""What a GGUF file says of itself: metadata and where its tensors lie, with every length checked before it is read.

A header is: magic, version, counts; metadata as key, type, value; of each tensor name, dimensions, kind and offset. All
numbers are little-endian. Tensors begin after it, at a multiple of the alignment.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from operator import attrgetter
from typing import Any

import numpy as np

from .kinds import NUMBERED, GGMLType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
"""Both lie alike; 1 had lengths of 32 bits."""
MOST_DIMENSIONS = 4
ALIGNMENT = 32
"""Where the metadata names no other."""
LEAST_ENTRY, LEAST_TENSOR = 13, 24
"""Bytes of the shortest metadata entry and of the shortest description of a tensor: counts are held against them."""
NUMBERS = {0: "<u1", 1: "<i1", 2: "<u2", 3: "<i2", 4: "<u4", 5: "<i4", 6: "<f4", 10: "<u8", 11: "<i8", 12: "<f8"}
"""Types of metadata that are numbers, as NumPy calls them; besides them there are:"""
BOOL, STRING, ARRAY = 7, 8, 9


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor of a GGUF file: `kind` such as Q4_K or F32, shape as torch has it, `nbytes` from byte `start` on."""

    name: str
    shape: tuple[int, ...]
    kind: str
    start: int
    nbytes: int


@dataclass(frozen=True)
class GGUFHeader:
    """A file's version, its metadata by key, and its tensors by name, in the file's order."""

    version: int
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def read_header(data: memoryview) -> GGUFHeader:
    """The header of a whole file's bytes. ValueError says what was found, where, and what is allowed."""
    cursor = Cursor(data)
    if (magic := bytes(cursor.take(4, "magic"))) != MAGIC:
        raise ValueError(f"magic: found {magic!r}; {MAGIC!r} is needed")
    version = _version(cursor)
    tensor_count = cursor.number("<u8", "tensor count")
    entry_count = cursor.number("<u8", "metadata count")
    cursor.check_count(entry_count, LEAST_ENTRY, "metadata count")
    metadata: dict[str, Any] = {}
    for index in range(entry_count):
        key = cursor.text(f"key of metadata entry {index}")
        if key in metadata:
            raise ValueError(f"metadata {key!r}: stands twice; keys must differ")
        metadata[key] = _value(cursor, f"metadata {key!r}")
    cursor.check_count(tensor_count, LEAST_TENSOR, "tensor count")
    descriptions = [_description(cursor, index) for index in range(tensor_count)]
    alignment = _alignment(metadata)
    return GGUFHeader(version, metadata, _located(descriptions, alignment, cursor.at, len(data)))


class Cursor:
    """A place in the bytes that moves on with what is read, and never beyond their end."""

    def __init__(self, data: memoryview):
        self.data, self.at = data, 0

    def take(self, count: int, what: str) -> memoryview:
        self.check_count(count, 1, what)
        self.at += count
        return self.data[self.at - count : self.at]

    def check_count(self, count: int, least: int, what: str) -> None:
        """ValueError where so many things of at least so many bytes cannot be in what is left."""
        left = len(self.data) - self.at
        if count * least > left:
            raise ValueError(
                f"{what}: needs at least {count * least} bytes at byte {self.at}; the file has {left} more"
            )

    def number(self, dtype: str, what: str) -> Any:
        return self.numbers(dtype, 1, what).item()

    def numbers(self, dtype: str, count: int, what: str) -> np.ndarray:
        """[count], a copy."""
        kind = np.dtype(dtype)
        return np.frombuffer(self.take(count * kind.itemsize, what), kind).copy()

    def text(self, what: str, errors: str = "strict") -> str:
        """A length and as many bytes of UTF-8. errors: what becomes of other bytes, as `bytes.decode` has it."""
        (length,) = struct.unpack("<Q", self.take(8, f"length of {what}"))
        try:
            return str(self.take(length, what), "utf-8", errors)
        except UnicodeDecodeError as error:
            raise ValueError(f"{what}: is no UTF-8: {error}") from error


def _version(cursor: Cursor) -> int:
    raw = cursor.take(4, "version")
    version = int.from_bytes(raw, "little")
    if version not in VERSIONS:
        turned = ", the file is big-endian" if int.from_bytes(raw, "big") in VERSIONS else ""
        raise ValueError(
            f"version: found {version}{turned}; allowed are {', '.join(map(str, VERSIONS))}, little-endian"
        )
    return version


def _value(cursor: Cursor, what: str) -> Any:
    """A metadata value: int, float, bool, str; a list of str; or an array of numbers or bools."""
    kind = cursor.number("<u4", f"type of {what}")
    if kind != ARRAY:
        return _single(cursor, kind, what)
    kind, count = cursor.number("<u4", f"type of {what}"), cursor.number("<u8", f"length of {what}")
    if kind == STRING:
        cursor.check_count(count, 8, what)
        return [_single(cursor, STRING, what) for _ in range(count)]
    if kind == BOOL:
        return _bools(cursor, count, what)
    return cursor.numbers(_number_type(kind, what), count, what)


def _single(cursor: Cursor, kind: int, what: str) -> Any:
    if kind == STRING:  # a tokenizer's pieces may be parts of characters: no byte of them is lost
        return cursor.text(what, "surrogateescape")
    if kind == BOOL:
        return _bools(cursor, 1, what).item()
    return cursor.number(_number_type(kind, what), what)


def _bools(cursor: Cursor, count: int, what: str) -> np.ndarray:
    bytes_ = cursor.numbers("<u1", count, what)
    if count and bytes_.max() > 1:
        raise ValueError(f"{what}: found {bytes_.max()} for a bool; 0 or 1 is needed")
    return bytes_.astype(np.bool_)


def _number_type(kind: int, what: str) -> str:
    if kind not in NUMBERS:
        raise ValueError(f"{what}: found type {kind}; allowed are 0 to 12, and arrays of any but arrays")
    return NUMBERS[kind]


def _alignment(metadata: dict[str, Any]) -> int:
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise ValueError(f"metadata 'general.alignment': found {alignment!r}; a power of two is needed")
    return alignment


@dataclass(frozen=True)
class _Description:
    name: str
    shape: tuple[int, ...]
    kind: GGMLType
    offset: int


def _description(cursor: Cursor, index: int) -> _Description:
    name = cursor.text(f"name of tensor {index}")
    what = f"tensor {name!r}"
    count = cursor.number("<u4", f"{what}: number of dimensions")
    if count > MOST_DIMENSIONS:
        raise ValueError(f"{what}: found {count} dimensions; at most {MOST_DIMENSIONS} are allowed")
    sizes = cursor.numbers("<u8", count, f"{what}: dimensions").tolist()
    number, offset = cursor.number("<u4", f"{what}: kind"), cursor.number("<u8", f"{what}: offset")
    if number not in NUMBERED:
        known = ", ".join(f"{kind.number} ({kind.name})" for kind in NUMBERED.values())
        raise ValueError(f"{what}: found kind {number}; known are {known}")
    kind = NUMBERED[number]
    if 0 in sizes:
        raise ValueError(f"{what}: found dimensions {sizes}; each must be at least 1")
    if (sizes[0] if sizes else 1) % kind.weights:
        raise ValueError(f"{what}: found dimensions {sizes}; {kind.name} needs a multiple of {kind.weights} first")
    return _Description(name, tuple(reversed(sizes)), kind, offset)


def _located(descriptions: list[_Description], alignment: int, end: int, size: int) -> dict[str, GGUFTensor]:
    """The tensors of a file of `size` bytes whose header ends at byte `end`: inside it, aligned, apart."""
    first = -(-end // alignment) * alignment
    found: dict[str, GGUFTensor] = {}
    for one in descriptions:
        what, nbytes = f"tensor {one.name!r}", one.kind.bytes_of(prod(one.shape))
        if one.name in found:
            raise ValueError(f"{what}: stands twice; names must differ")
        if one.offset % alignment:
            raise ValueError(f"{what}: found offset {one.offset}; a multiple of the alignment {alignment} is needed")
        if first + one.offset + nbytes > size:
            raise ValueError(
                f"{what}: {one.kind.name} {list(one.shape)} needs bytes {first + one.offset} to "
                f"{first + one.offset + nbytes}; the file has {size}"
            )
        found[one.name] = GGUFTensor(one.name, one.shape, one.kind.name, first + one.offset, nbytes)
    for before, after in pairwise(sorted(found.values(), key=attrgetter("start"))):
        if before.start + before.nbytes > after.start:
            raise ValueError(
                f"tensor {after.name!r}: begins at byte {after.start}, inside tensor {before.name!r}, which ends at "
                f"{before.start + before.nbytes}; tensors must not overlap"
            )
    return found
