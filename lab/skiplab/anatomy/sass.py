"""A kernel's machine code: its instructions, each with the line it came from, and its loops."""

from __future__ import annotations

import linecache
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

INSTRUCTION = re.compile(r"/\*([0-9a-f]{4,})\*/\s+((?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*(?:\.\w+)*)[^;]*);")
_PROCESS = re.compile(r"(?<=^ipykernel_)\d+$")
SOURCE_LINE = re.compile(r'//## File "([^"]*)", line (\d+)')
_TARGET = re.compile(r"\bBRA\b.*?0x([0-9a-f]+)")

KINDS = {
    "wgmma": r"[HIQB]GMMA",
    "tcgen05": r"UTC\w*MMA",
    "mma": r"[HIQDB]MMA",
    "dp4a": r"IDP\.4A",
    "TMA": r"UTMA\w+|UBLKCP",
    "128-bit loads": r"LDG?\.(?:\w+\.)*128|LDGSTS\.(?:\w+\.)*128",
    "narrower loads": r"LDG|LD|LDGSTS",
    "stores": r"STG|ST|RED|REDG|ATOMG?",
    "local memory": r"LDL|STL",
    "shared memory": r"LDS|STS|LDSM|STSM|ATOMS",
    "special functions": r"MUFU",
    "barriers": r"BAR|SYNCS|DEPBAR|LDGDEPBAR|WARPSYNC|WARPGROUP|BSYNC|UTMACMDFLUSH|MEMBAR|FENCE",
}
"""Kinds of instructions, by the beginning of their opcode; the first that fits counts. All others are `OTHER`."""
OTHER = "other"
_KINDS = {name: re.compile(rf"(?:{pattern})(?=\.|$)") for name, pattern in KINDS.items()}
_WEIGHT = (("wgmma", "tcgen05", "mma"), ("dp4a",), ("TMA", "128-bit loads", "narrower loads"))
"""By what the inner loop is told from others: products first, then loads."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its address, opcode (`HGMMA.64x64x16.F32.BF16`), text, source line; file is '' if not known."""

    address: int
    opcode: str
    text: str
    file: str = ""
    line: int = 0

    @property
    def kind(self) -> str:
        """One of `KINDS`, or `OTHER`."""
        return next((name for name, pattern in _KINDS.items() if pattern.match(self.opcode)), OTHER)

    @property
    def target(self) -> int | None:
        """Where a branch goes; None for what is no branch to an address."""
        match = _TARGET.search(self.text)
        return int(match[1], 16) if match else None


@dataclass(frozen=True)
class Loop:
    """The instructions of a loop, from the one that its last branch goes back to."""

    instructions: tuple[Instruction, ...]

    @property
    def mix(self) -> Counter[str]:
        """Instructions by kind."""
        return Counter(one.kind for one in self.instructions)

    @property
    def lines(self) -> tuple[SourceLine, ...]:
        """The source lines that it came from, by file and line, with their instructions; Triton's own come last."""
        found: dict[tuple[str, int], list[Instruction]] = {}
        for one in self.instructions:
            found.setdefault((one.file, one.line), []).append(one)
        lines = (SourceLine(*where, tuple(found[where])) for where in sorted(found))
        return tuple(sorted(lines, key=lambda one: one.is_library))


@dataclass(frozen=True)
class SourceLine:
    """A line of a kernel, and what the loop has of it; line 0 is what the compiler put in by itself."""

    file: str
    line: int
    instructions: tuple[Instruction, ...]

    @property
    def is_library(self) -> bool:
        """Whether it is a line of Triton itself, such as those of tl.sum, or of none."""
        return not self.line or "triton" in Path(self.file).parts

    @property
    def where(self) -> str:
        """File and line; a notebook's cell, whose file has a number for a name, is `cell`."""
        file = Path(self.file)
        name = "cell" if file.parent.name.startswith("ipykernel_") else file.name
        return f"{name}:{self.line}" if self.line else "no line"

    @property
    def source(self) -> str:
        """The line's text, '' where the file cannot be read."""
        return linecache.getline(_present(self.file), self.line).strip() if self.line else ""

    @property
    def mix(self) -> Counter[str]:
        return Counter(one.kind for one in self.instructions)


@lru_cache(maxsize=256)
def _present(file: str) -> str:
    """The file, or the loaded one of its name and folder where it has moved.

    Triton's cache knows a kernel by its text and first line, and its code names the file that it was compiled from:
    perhaps of another checkout, or a notebook's cell in a process that has ended.
    """
    if file in linecache.cache or Path(file).is_file():
        return file
    modules = {getattr(module, "__file__", None) or "" for module in list(sys.modules.values())}
    moved = [one for one in {*modules, *linecache.cache} if _place(one) == _place(file)]
    return moved[0] if len(moved) == 1 else file


def _place(file: str) -> tuple[str, ...]:
    """What stays of a file's place where it moves: its folder and name; a cell's folder has its process's number."""
    return tuple(_PROCESS.sub("", part) for part in Path(file).parts[-2:])


def instructions_of(sass: str, lines: str = "") -> tuple[Instruction, ...]:
    """The instructions of disassembled machine code, with the source lines of `nvdisasm -g` where that is given."""
    where = _lines_of(lines)
    return tuple(
        Instruction(int(at, 16), opcode, " ".join(text.split()), *where.get(int(at, 16), ("", 0)))
        for at, text, opcode in INSTRUCTION.findall(sass)
    )


def _lines_of(text: str) -> dict[int, tuple[str, int]]:
    """The file and line of each address."""
    found, now = {}, ("", 0)
    for line in text.splitlines():
        if source := SOURCE_LINE.search(line):
            now = source[1], int(source[2])
        elif instruction := INSTRUCTION.search(line):
            found[int(instruction[1], 16)] = now
    return found


def loops_of(instructions: Sequence[Instruction]) -> tuple[Loop, ...]:
    """The loops that hold no other, in order. What the compiler moved behind a kernel's end is in none of them."""
    index = {one.address: number for number, one in enumerate(instructions)}
    spans = set()
    for end, one in enumerate(instructions):
        begin = index.get(one.target) if one.target is not None else None
        if begin is not None and begin < end:
            spans.add((begin, end))
    inner = [a for a in spans if not any(b != a and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
    return tuple(Loop(tuple(instructions[begin : end + 1])) for begin, end in sorted(inner))


def inner_loop(loops: Sequence[Loop]) -> Loop | None:
    """The loop with the most products, of those the one with the most loads, then the longest; None without any."""

    def weight(loop: Loop) -> tuple[int, ...]:
        mix = loop.mix
        return (*(sum(mix[name] for name in names) for names in _WEIGHT), len(loop.instructions))

    return max(loops, key=weight, default=None)
