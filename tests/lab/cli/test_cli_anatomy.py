"""`skiplab anatomy`: of a contender, of a function in a file, several as a table, and what it refuses."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

KERNEL = """
import triton, triton.language as tl

@triton.jit
def total(x, y, n, BLOCK: tl.constexpr):
    acc = tl.zeros((BLOCK,), tl.float32)
    for i in tl.range(0, n, BLOCK):
        acc += tl.load(x + i + tl.arange(0, BLOCK))
    tl.store(y + tl.arange(0, BLOCK), acc)
"""


def compiled_by(*words, folder):
    """The command in a process of its own: kernels that were imported to be interpreted cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    command = [sys.executable, "-m", "skiplab.cli", "anatomy", *words]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=200)


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")
def test_a_function_of_a_file_over_constants_and_archs(tmp_path):
    (tmp_path / "mine.py").write_text(KERNEL)
    of = ["total", "--from", "mine.py", "--argument", "*fp32,*fp32,i32:16"]
    one = compiled_by(*of, "--arch", "9.0", "--constant", "BLOCK=512", "--sass", folder=tmp_path)
    assert one.returncode == 0, one.stderr
    assert "total for sm_90:" in one.stdout and "mine.py:8" in one.stdout and "LDG.E.128" in one.stdout
    more = ["--arch", "sm_80,sm_90", "--constant", "BLOCK=128,512", "--constant", "num_warps=4", "--table", "t.csv"]
    several = compiled_by(*of, *more, folder=tmp_path)
    assert several.returncode == 0, several.stderr
    assert "BLOCK=128 num_warps=4 sm_80" in several.stdout and "compiled, not run" in several.stdout
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "no 'nobody'; there are blockskip"),
        (["sdpa"], "got sdpa, which launches no kernel of ours with a name of its own; allowed are blockskip, "),
        (["blockskip", "--arch", "hopper"], "arch: got 'hopper'"),
        (["blockskip", "--config", "wide"], "--config: got 'wide'"),
        (["blockskip", "--at", "q_len"], "--at: got 'q_len'"),
        (["blockskip", "--at", "depth=3"], "at: got depth; the axes of attention are q_len"),
        (["blockskip", "--operation", "sorting"], "operation: got 'sorting'"),
        (["blockskip", "--from", "gone.py"], "no file gone.py"),
    ],
)
def test_what_it_refuses(skiplab, words, message):
    code, _, err = skiplab("anatomy", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err
