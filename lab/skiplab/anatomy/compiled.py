"""Anatomy: what the compiler made of a kernel, read from its machine code when that is first asked for."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from skiplab.anatomy import sass, tools
from skiplab.anatomy.occupancy import Occupancy, occupancy_of
from skiplab.anatomy.sass import OTHER, Instruction, Loop
from skiplab.machine.capability import capability_of, sm_name

RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")
SOURCE = 46
"""Letters of a source line beside its opcodes, so that a notebook 1,280 pixels wide shows both in one line."""
_THREADS = re.compile(r"\.(?:reqntid|maxntid)\s+(\d+)")


@dataclass(frozen=True)
class Anatomy:
    """One compiled kernel. `spill_bytes` is the stack that a thread's spilled registers take; 0 is what one wants.

    threads: of one block. cubin: the compiled kernel, from which its machine code is read.
    """

    capability: tuple[int, int]
    registers: int
    spill_bytes: int
    shared_bytes: int
    ttgir: str = field(repr=False)
    ptx: str = field(repr=False)
    name: str = ""
    threads: int = 128
    cubin: bytes = field(default=b"", repr=False)

    @cached_property
    def sass(self) -> str:
        """The machine code, an instruction a line; `disassemble` reads that of many at once."""
        return tools.disassembled([self.cubin])[0]

    @cached_property
    def instructions(self) -> Counter[str]:
        """How often each stands in the code, by the first part of its opcode."""
        return Counter(one.opcode.split(".")[0] for one in self.code)

    @property
    def wgmma(self) -> bool:
        """Whether matrix products run on Hopper's warp-group instructions."""
        return self.instructions["HGMMA"] > 0

    @property
    def row_layouts(self) -> tuple[str, ...]:
        """The layouts of the scores whose rows are reduced: equal layouts reduce in the same order and round alike."""
        named = dict(re.findall(r"^(#\w+) = (#ttg?\S*<.*>)", self.ttgir, re.MULTILINE))
        reduced = re.findall(r"\}\) : \(tensor<\d+x\d+xf32, (#\w+)>\)", self.ttgir)
        return tuple(named[name] for name in reduced)

    @cached_property
    def code(self) -> tuple[Instruction, ...]:
        """All instructions, without the lines that they came from, which take longer to find."""
        return sass.instructions_of(self.sass)

    @cached_property
    def listing(self) -> tuple[Instruction, ...]:
        """All instructions, each with the line that it came from."""
        return sass.instructions_of(self.sass, tools.with_lines(self.cubin))

    @cached_property
    def mix(self) -> Counter[str]:
        """Instructions by kind (`sass.KINDS`)."""
        return Counter(one.kind for one in self.code)

    @cached_property
    def loops(self) -> tuple[Loop, ...]:
        """The loops that hold no other."""
        return sass.loops_of(self.listing)

    @property
    def inner_loop(self) -> Loop | None:
        """The loop that does the work: the most products, else the most loads. None in straight code."""
        return sass.inner_loop(self.loops)

    @property
    def occupancy(self) -> Occupancy:
        return occupancy_of(self.capability, self.threads, self.registers, self.shared_bytes)

    def row(self) -> dict[str, Any]:
        """What a table of many has of it."""
        loop = sass.inner_loop(sass.loops_of(self.code))
        return {
            "kernel": self.name, "arch": sm_name(self.capability), "registers": self.registers,
            "spill_bytes": self.spill_bytes, "shared_bytes": self.shared_bytes, "threads": self.threads,
            "blocks_per_sm": self.occupancy.blocks, "occupancy": self.occupancy.share,
            "limited_by": ", ".join(self.occupancy.limits),
            **{kind: self.mix[kind] for kind in sass.KINDS}, "instructions": sum(self.mix.values()),
            "loop_instructions": len(loop.instructions) if loop else 0,
        }  # fmt: skip

    def told(self, lines: bool = True) -> str:
        """The whole anatomy as text: resources, occupancy, mix, and line by line what the inner loop is made of."""
        kinds = ", ".join(f"{self.mix[kind]} {kind}" for kind in (*sass.KINDS, OTHER) if self.mix[kind])
        head = f"{self.name} for {self}".removeprefix(" for ")
        text = [head.split(";")[0], f"  {self.occupancy}", f"  {sum(self.mix.values())} instructions: {kinds}"]
        loop = self.inner_loop
        if loop is None:
            return "\n".join([*text, "  no loop"])
        kinds = ", ".join(f"{loop.mix[kind]} {kind}" for kind in (*sass.KINDS, OTHER) if loop.mix[kind])
        text.append(f"  inner loop, {len(loop.instructions)} instructions: {kinds}")
        return "\n".join([*text, *(line_table(loop) if lines else ())])

    def __str__(self):
        common = ", ".join(f"{n} {name}" for name, n in self.instructions.most_common(6))
        return (
            f"{sm_name(self.capability)}: {self.registers} registers, "
            f"{self.spill_bytes} bytes spilled, {self.shared_bytes} bytes of shared memory; {common}"
        )


def line_table(loop: Loop) -> list[str]:
    """A loop line by line: how many instructions a line became, its text, and their opcodes, in a notebook's width."""
    lines = [(one, Counter(i.opcode.split(".")[0] for i in one.instructions)) for one in loop.lines]
    where = max((len(one.where) for one, _ in lines), default=0)
    texts = [one.source if len(one.source) <= SOURCE else f"{one.source[: SOURCE - 1]}…" for one, _ in lines]
    width = max(map(len, texts), default=0)
    return [
        f"  {len(one.instructions):4d}  {one.where:{where}s}  {text:{width}s}  "
        + ", ".join(f"{count} {opcode}" for opcode, count in opcodes.most_common(3))
        for text, (one, opcodes) in zip(texts, lines, strict=True)
    ]


def read(kernel: Any, arch: Any) -> Anatomy:
    """The anatomy of a compiled Triton kernel."""
    cubin, ptx = kernel.asm["cubin"], kernel.asm["ptx"]
    found = RESOURCES.search(tools.resources(cubin))
    if found is None:
        raise ValueError("kernel: cuobjdump reported no resources for it")
    registers, stack, _, local = map(int, found.groups())
    threads = _THREADS.search(ptx)
    return Anatomy(
        capability_of(arch), registers, max(stack, local), kernel.metadata.shared, kernel.asm["ttgir"], ptx,
        kernel.metadata.name, int(threads[1]) if threads else 32 * kernel.metadata.num_warps, cubin,
    )  # fmt: skip


def disassemble(anatomies: Iterable[Anatomy]) -> None:
    """Read the machine code of all at once, in less than a tenth of the time that it takes one by one."""
    tools.disassembled([one.cubin for one in anatomies if "sass" not in vars(one)])
