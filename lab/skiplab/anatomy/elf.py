"""Compiled kernels as files: many joined to one of their machine code alone, which a disassembler reads at once."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

HEADER = 64
_SECTION = struct.Struct("<IIQQQQIIQQ")
"""name, kind, flags, address, offset, size, link, info, alignment, size of an entry"""
_CODE_KIND, _CODE_FLAGS, _NAMES_KIND, _ALIGNMENT = 1, 6, 3, 128


def target(cubin: bytes) -> bytes:
    """What the machine code is for: kernels of one target may be joined."""
    return cubin[:24] + cubin[48:52]


def code_of(cubin: bytes) -> Iterator[bytes]:
    """The machine code of each of its functions."""
    (table,) = struct.unpack_from("<Q", cubin, 40)
    _, count, names = struct.unpack_from("<HHH", cubin, 58)
    sections = [_SECTION.unpack_from(cubin, table + number * _SECTION.size) for number in range(count)]
    for name, _, _, _, offset, size, *_ in sections:
        if cubin.startswith(b".text.", sections[names][4] + name):
            yield cubin[offset : offset + size]


def joined(cubins: Sequence[bytes]) -> bytes:
    """A file with the functions of all, which have one target; a section is named by its kernel's number, `.text.0`."""
    names, body, sections = b"\0.names\0", b"", [(0,) * 10]
    for number, cubin in enumerate(cubins):
        for code in code_of(cubin):
            body += bytes(-(HEADER + len(body)) % _ALIGNMENT)
            place = len(names), _CODE_KIND, _CODE_FLAGS, 0, HEADER + len(body), len(code)
            sections.append((*place, 0, 0, _ALIGNMENT, 0))
            names, body = names + b".text.%d\0" % number, body + code
    sections.append((1, _NAMES_KIND, 0, 0, HEADER + len(body), len(names), 0, 0, 1, 0))
    body += names
    body += bytes(-len(body) % 8)
    header = bytearray(cubins[0][:HEADER])
    struct.pack_into("<QQ", header, 32, 0, HEADER + len(body))  # no program headers; where the sections' are
    struct.pack_into("<5H", header, 54, 0, 0, _SECTION.size, len(sections), len(sections) - 1)
    return bytes(header) + body + b"".join(_SECTION.pack(*section) for section in sections)
