"""GGUF files for tests, written here from the format's description, with any field set wrong at will."""

import struct
from dataclasses import dataclass, field
from math import prod

KINDS = {
    "F32": (0, 1, 4), "F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q5_0": (6, 32, 22), "Q8_0": (8, 32, 34),
    "Q3_K": (11, 256, 110), "Q4_K": (12, 256, 144), "Q6_K": (14, 256, 210), "I8": (24, 1, 1), "I64": (27, 1, 8),
    "BF16": (30, 1, 2),
}  # fmt: skip
"""GGML's number, elements of a block, bytes of a block."""


def string(text):
    raw = text if isinstance(text, bytes) else text.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key, kind, value):
    """A metadata entry; value: packed already, or a text."""
    return string(key) + struct.pack("<I", kind) + (string(value) if isinstance(value, str) else value)


def array(kind, count, values):
    return struct.pack("<IQ", kind, count) + values


ENTRIES = (
    entry("general.architecture", 8, "gemma3"),
    entry("block_count", 4, struct.pack("<I", 62)),
    entry("eps", 6, struct.pack("<f", 0.5)),
    entry("large", 10, struct.pack("<Q", 2**63)),
    entry("negative", 1, struct.pack("<b", -3)),
    entry("double", 12, struct.pack("<d", 0.1)),
    entry("yes", 7, b"\1"),
    entry("tokens", 9, array(8, 3, string("<s>") + string("") + string(b"\xe2\x96"))),
    entry("scores", 9, array(6, 2, struct.pack("<ff", 1.5, -2.0))),
    entry("flags", 9, array(7, 3, b"\1\0\1")),
)


@dataclass
class Tensor:
    """name, torch's shape, kind; number, dims and offset say something else than they should."""

    name: str
    shape: tuple
    kind: str
    data: bytes
    number: int | None = None
    dims: tuple | None = None
    offset: int | None = None


@dataclass
class File:
    """A file's parts; its counts are those of its lists, unless given."""

    tensors: list
    entries: tuple = ENTRIES
    magic: bytes = b"GGUF"
    version: int = 3
    tensor_count: int | None = None
    entry_count: int | None = None
    alignment: int = 32
    header_bytes: int = field(default=0, init=False)

    def bytes(self):
        counts = len(self.tensors), len(self.entries)
        given = self.tensor_count, self.entry_count
        counts = [found if g is None else g for found, g in zip(counts, given, strict=True)]
        header = self.magic + struct.pack("<IQQ", self.version, *counts) + b"".join(self.entries)
        data = b""
        for t in self.tensors:
            number, weights, nbytes = KINDS[t.kind]
            assert len(t.data) == prod(t.shape) // weights * nbytes
            dims = t.shape[::-1] if t.dims is None else t.dims
            offset = len(data) if t.offset is None else t.offset
            header += string(t.name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims)
            header += struct.pack("<IQ", number if t.number is None else t.number, offset)
            data = self.padded(data + t.data)
        self.header_bytes = len(header)
        return self.padded(header) + data

    def padded(self, raw):
        return raw + b"\xee" * (-len(raw) % self.alignment)
