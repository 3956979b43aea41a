"""`skiplab timeline`: of a trace that Proton wrote; without a GPU it says that there is nothing to record."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

RECORD = Path(__file__).parents[1] / "records" / "proton.chrome_trace"


def test_a_saved_record_becomes_a_perfetto_file_and_a_picture(skiplab):
    code, out, err = skiplab("timeline", RECORD, "--out", "t.json", "--picture", "t.png")
    assert code == 0, err
    assert "3 blocks on 2 multiprocessors" in out and "trace: t.json" in out and "picture: t.png" in out
    events = json.loads(Path("t.json").read_text())["traceEvents"]
    names = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert names == {"SM 0", "SM 4"}
    assert Path("t.png").read_bytes().startswith(b"\x89PNG")
    again = skiplab("timeline", "t.json", "--out", "again.json")
    assert again[0] == 0 and out.splitlines()[0] == again[1].splitlines()[0]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(skiplab):
    code, _, err = skiplab("timeline", "--at", "q_len=128")
    assert code == 2 and "runs on a CUDA GPU, and torch sees none here" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["gone.json"], "TRACE: there is no file gone.json"),
        ([str(RECORD), "--at", "q_len=64"], "was recorded before; leave them out"),
        (["--at", "depth=1"], "at: got depth"),
        (["--at", "q_len=64,128"], "--at: got q_len=64,128; a timeline is of one workload: name one value"),
        (["nobody"], "NAME|TRACE: no 'nobody'; there are blockskip"),
        (["--operation", "conv"], "operation: got 'conv'"),
        (["sdpa", "--config", "64x64x4x2"], "config: sdpa takes none"),
    ],
)
def test_what_it_refuses(skiplab, words, message):
    code, _, err = skiplab("timeline", *words)
    assert code == 2 and message in err
