"""What the tools of Triton's wheel say of compiled kernels, kept in Triton's own cache.

Taking a kernel apart costs more than finding it compiled there. Most of that is the start of nvdisasm, which learns a
GPU's instructions each time: the kernels of a GPU are given to it as one.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from skiplab.anatomy import elf

_SECTION = re.compile(r"\s*\.section\s+\.text\.(\d+)\b")
_LABEL = re.compile(r"(\.L_\w+):")
_INSTRUCTION = re.compile(r"\s*/\*([0-9a-f]{4,})\*/")
_TO_LABEL = re.compile(r"`\((\.L_\w+)\)")


def disassembled(cubins: Sequence[bytes]) -> list[str]:
    """The machine code of each kernel: an instruction a line, behind its address; branches go to addresses, too."""
    found = {cubin: _kept(cubin, "kernel.sass") for cubin in cubins}
    missing: dict[bytes, list[bytes]] = {}
    for cubin, text in found.items():
        if text is None:
            missing.setdefault(elf.target(cubin), []).append(cubin)
    for alike in missing.values():
        for cubin, text in zip(alike, _codes(run_tool("nvdisasm", "-ndf", "-raw", elf.joined(alike))), strict=True):
            found[cubin] = _keep(cubin, "kernel.sass", text)
    return [found[cubin] or "" for cubin in cubins]


def _codes(text: str) -> Iterator[str]:
    """Kernel by kernel what nvdisasm made of a joined file, without its labels."""
    codes: list[list[str]] = []
    places: dict[str, str] = {}
    labels: list[str] = []
    for line in text.splitlines():
        if section := _SECTION.match(line):
            codes.extend([] for _ in range(int(section[1]) + 1 - len(codes)))
        elif label := _LABEL.match(line):
            labels.append(label[1])
        elif instruction := _INSTRUCTION.match(line):
            places.update(dict.fromkeys(labels, f"0x{int(instruction[1], 16):x}"))
            labels.clear()
            codes[-1].append(line)
    for lines in codes:
        yield _TO_LABEL.sub(lambda found: places[found[1]], "\n".join(lines))


def with_lines(cubin: bytes) -> str:
    """The machine code between the lines of its source."""
    return _kept(cubin, "kernel.lines") or _keep(cubin, "kernel.lines", run_tool("nvdisasm", "-g", "-c", cubin))


def resources(cubin: bytes) -> str:
    """A kernel's registers and memory."""
    name = "kernel.resources"
    return _kept(cubin, name) or _keep(cubin, name, run_tool("cuobjdump", "-res-usage", cubin))


def run_tool(name: str, *options: Any) -> str:
    """The output of a tool; the last of the options is what the file that it reads shall hold."""
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / name
    *words, content = options
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(content)
        file.flush()
        return subprocess.run([tool, *words, file.name], capture_output=True, text=True, check=True).stdout


def _kept(cubin: bytes, name: str) -> str | None:
    path = _cache(cubin).get_file(name)
    return None if path is None else Path(path).read_text()


def _keep(cubin: bytes, name: str, text: str) -> str:
    _cache(cubin).put(text, name, binary=False)
    return text


def _cache(cubin: bytes) -> Any:
    import triton
    from triton.runtime.cache import get_cache_manager

    return get_cache_manager(hashlib.sha256(triton.__version__.encode() + cubin).hexdigest())
