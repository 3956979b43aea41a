"""A module of ours run in a fresh process: with Triton's interpreter, which has to be chosen before Triton is imported,
or with kernels that are compiled otherwise than they are here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from skiplab.measure.timing import Cancelled

POLL_S = 0.02


def interpreting_here() -> bool:
    """Whether Triton runs in its interpreter in this process: slow, and of use only to see what a kernel does."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def run_fresh(
    module: str,
    request: Mapping[str, Any],
    cancelled: Callable[[], bool] = lambda: False,
    interpret: bool = True,
) -> Any:
    """The JSON that `python -m module` prints as its last line, the request in JSON on its standard input.

    interpret: whether Triton runs in its interpreter there. RuntimeError(what, advice) where it fails;
    Cancelled when cancelled.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    environment = {**os.environ, "TRITON_INTERPRET": "1" if interpret else "0", "PYTHONPATH": paths}
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as complained:
        asked.write(json.dumps(request).encode())
        asked.seek(0)
        child = subprocess.Popen(
            [sys.executable, "-m", module], stdin=asked, stdout=said, stderr=complained, env=environment
        )
        try:
            while child.poll() is None:
                if cancelled():
                    raise Cancelled
                time.sleep(POLL_S)
        finally:
            child.kill()
            child.wait()
        for file in (said, complained):
            file.seek(0)
        if child.returncode:
            lines = complained.read().decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise RuntimeError(
                f"The process that ran the kernel ended with {child.returncode}: {lines[-1]}",
                "Where the kernel is yours, `skiplab check` says more; where it is ours, report it, please.",
            )
        return json.loads(said.read().splitlines()[-1])
