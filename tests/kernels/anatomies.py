"""Kernels compiled for GPUs that are not there, in processes of their own: those imported to be interpreted cannot be.

One process for a script imports what there is to import, and forks one for each GPU, two at a time. A GPU's kernels are
disassembled together.
"""

import gc
import json
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

Row = dict[str, Any]
Compiled = Iterable[tuple[Callable[[Any], Row], Any]]
"""Anatomies, each behind what makes its row."""


def compiled_by(fresh_process: Callable[..., Any], script: str, capabilities: Iterable[str]) -> dict[str, list[Row]]:
    """The rows that a script of this folder makes of the kernels it compiles, by capability, such as 9.0."""
    done = fresh_process(str(Path(__file__).with_name(script)), *capabilities, timeout=None)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def by_case(rows: Iterable[Row]) -> dict[tuple, Row]:
    return {tuple(row["case"]): row for row in rows}


def print_rows(compile_all: Callable[[tuple[int, int]], Compiled]) -> None:
    """What such a script does with the capabilities in its command line."""
    names = sys.argv[1:]
    os.environ["TRITON_DISABLE_LINE_INFO"] = "1"  # no row names a line: a twentieth of the time
    gc.disable()  # what compiling makes is kept until the end
    with ProcessPoolExecutor(2, mp_context=get_context("fork")) as pool:
        found = pool.map(_rows, [compile_all] * len(names), names)
        print(json.dumps(dict(zip(names, found, strict=True))))


def _rows(compile_all: Callable[[tuple[int, int]], Compiled], capability: str) -> list[Row]:
    from skiplab.anatomy import disassemble

    major, minor = map(int, capability.split("."))
    made = list(compile_all((major, minor)))
    disassemble(one for _, one in made)
    return [row_of(one) for row_of, one in made]
