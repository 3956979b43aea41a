"""`skiplab anatomy`: of a contender, of a function in a file, several as a table, and what it refuses."""

from __future__ import annotations

import json
import sys

import pytest
from blockskip.launching import primitives

KERNEL = """
import triton, triton.language as tl

@triton.jit
def total(x, y, n, BLOCK: tl.constexpr):
    acc = tl.zeros((BLOCK,), tl.float32)
    for i in tl.range(0, n, BLOCK):
        acc += tl.load(x + i + tl.arange(0, BLOCK))
    tl.store(y + tl.arange(0, BLOCK), acc)
"""


COMMANDS = """
import json, sys
from skiplab import cli

for words in json.loads(sys.argv[1]):
    sys.argv = ["skiplab", "anatomy", *words]
    try:
        cli.main()
    except SystemExit as end:
        assert not end.code
    print("END OF A COMMAND")
"""


@pytest.fixture
def said_by(fresh_process):
    """What commands print, in a process of their own: kernels that were imported to be interpreted are not compiled."""

    def said(*commands, folder):
        done = fresh_process("-c", COMMANDS, json.dumps(commands), cwd=folder)
        assert done.returncode == 0, done.stderr
        return done.stdout.split("END OF A COMMAND\n")[:-1]

    return said


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")
def test_a_function_of_a_file_over_constants_and_archs(said_by, tmp_path):
    (tmp_path / "mine.py").write_text(KERNEL)
    of = ["total", "--from", "mine.py", "--argument", "*fp32,*fp32,i32:16"]
    shown = [*of, "--arch", "9.0", "--constant", "BLOCK=512", "--sass"]
    more = ["--arch", "sm_80,sm_90", "--constant", "BLOCK=128,512", "--constant", "num_warps=4", "--table", "t.csv"]
    one, several = said_by(shown, [*of, *more], folder=tmp_path)
    assert "total for sm_90:" in one and "mine.py:8" in one and "LDG.E.128" in one
    assert "BLOCK=128 num_warps=4 sm_80" in several and "compiled, not run" in several
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nobody"], "no 'nobody'; there are blockskip"),
        (["sdpa"], "got sdpa, which launches no kernel of ours with a name of its own; allowed are blockskip, "),
        (["blockskip", "--arch", "hopper"], "arch: got 'hopper'"),
        (["blockskip", "--arch", "sm_90,hopper"], "arch: got 'hopper'"),
        (["blockskip", "--config", "wide"], "--config: got 'wide'"),
        (["blockskip", "--at", "q_len"], "--at: got 'q_len'"),
        (["blockskip", "--at", "depth=3"], "at: got depth; the axes of attention are q_len"),
        (["blockskip", "--operation", "sorting"], "operation: got 'sorting'"),
        (["blockskip", "--from", "gone.py"], "no file gone.py"),
    ],
)
@pytest.mark.parametrize("interpreted", [False, True])
def test_what_it_refuses(skiplab, monkeypatch, words, message, interpreted):
    """Before it asks whether kernels can be compiled here: a slip is named whatever the environment."""
    monkeypatch.setattr(primitives, "interpreting", lambda: interpreted)
    code, _, err = skiplab("anatomy", *words)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_interpreted_kernels_are_not_compiled(skiplab, monkeypatch):
    monkeypatch.setattr(primitives, "interpreting", lambda: True)
    code, _, err = skiplab("anatomy", "blockskip")
    assert code == 2
    assert "TRITON_INTERPRET: is set, so kernels are not compiled" in err
