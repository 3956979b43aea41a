"""Any file in the place of a run: it is read, or refused by name; and it is continued, or left as it was."""

from __future__ import annotations

import copy
import importlib
import itertools
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from draws import examples
from hypothesis import given
from hypothesis import strategies as st
from skiplab import cli
from skiplab.cli import run as cli_run
from skiplab.machine import Machine
from skiplab.measure import Measurement, WorkDone
from skiplab.store import RunFileError, data_path, frame, read_run
from skiplab.sweep import ModelSweep, Sweep, run_sweep

SCRIPT = "<script>alert(document.domain)</script>"
JUNK = (None, True, -1, 0, 1.5, 2**70, float("nan"), float("-inf"), "", "x", SCRIPT, "/etc/passwd", "../../up", [], {},
        [None], ["x", -1], {"name": 3}, {"x": {"y": []}}, "x" * 10_000)  # fmt: skip
KEPT_ROWS = 4
numbers = itertools.count()


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Measurements that take no time, in this process."""
    running, workers = (importlib.import_module(f"skiplab.sweep.{name}") for name in ("running", "workers"))
    high = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
    monkeypatch.setattr(running, "this_machine", lambda device, dtype: high)
    name = running.describe("cpu")["name"]
    monkeypatch.setattr(workers, "measure_together", lambda points, *_, **__: [taken(one, name) for one in points])
    here = {"isolate": False, "progress": False}
    monkeypatch.setattr(cli_run, "run_sweep", lambda *args, **named: run_sweep(*args, **named, **here))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.chdir(tmp_path)


def taken(point, device):
    return Measurement(point, "ok", samples_ns=(1000, 1001, 1002), method="cpu", device_name=device)


def recorded(operation: str) -> list[dict]:
    """The header and first rows of a recorded run, each row with a few samples."""
    path = data_path("runs", f"2026-11-25-amd-epyc-2-threads-{operation}.jsonl")
    lines = [json.loads(line) for line in path.read_text().splitlines()[: KEPT_ROWS + 1]]
    for row in lines[1:]:
        row["samples_ns"] = row["samples_ns"][:12]
    lines[0]["torch"] = "1.0"  # of other software than any that continues it
    return [*lines, {"record": "end", "end": "2026-11-25T11:30:00+00:00"}]


def of_a_model() -> list[dict]:
    """The lines of a run of whole models, with what only they have."""
    header, *_, end = recorded("linear")
    sweep = ModelSweep(("blockskip", "sdpa"), prompt=(16,), depth=(8,), new=3)
    parts = {"parts_ns": {"qkv": 600, "gaps": 400}, "peak_bytes": 1 << 20, "work": WorkDone(64, None, 64, 64, 64)}
    rows = [replace(taken(point, header["device"]["name"]), **parts).row() for point in sweep.points()]
    more = {"operation": "model", "command": sweep.command(), "parameters": json.loads(json.dumps(asdict(sweep)))}
    return [{**header, **more}, *({"record": "point", **row, "source_hash": "x"} for row in rows), end]


GOOD = {operation: recorded(operation) for operation in ("attention", "decode", "linear")} | {"model": of_a_model()}


def places(value, path=()):
    """The paths of all values inside a JSON value, its own first."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@st.composite
def with_other_values(draw):
    """A run's lines where one to three values are others, or are gone; and which operation it was."""
    operation = draw(st.sampled_from(list(GOOD)))
    lines = copy.deepcopy(GOOD[operation])
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([place for place in places(lines) if place]))
        holder = lines
        for key in way:
            holder = holder[key]
        if draw(st.booleans()):
            holder[last] = copy.deepcopy(draw(st.sampled_from(JUNK)))  # the next change may be inside it
        else:
            del holder[last]
    return operation, "".join(json.dumps(line) + "\n" for line in lines).encode()


@st.composite
def with_other_bytes(draw, good: bytes):
    """A file with lines left out, doubled or exchanged, or bytes cut off, put in, or changed."""
    lines, at = good.splitlines(keepends=True), draw(st.integers(0, len(good) - 1))
    i, j = (draw(st.integers(0, len(lines) - 1)) for _ in "ij")
    match draw(st.sampled_from(["cut", "put in", "changed", "without", "twice", "exchanged"])):
        case "cut":
            return good[:at]
        case "put in":
            return good[:at] + draw(st.sampled_from([b"\n", b"\0", b"\xff", b"{}\n", b"\r\n", b"x"])) + good[at:]
        case "changed":
            return good[:at] + bytes([draw(st.integers(0, 255))]) + good[at + 1 :]
        case "without":
            del lines[i]
        case "twice":
            lines.insert(i, lines[j])
        case "exchanged":
            lines[i], lines[j] = lines[j], lines[i]
    return b"".join(lines)


BYTES = "".join(json.dumps(line) + "\n" for line in GOOD["attention"]).encode()
files = with_other_values() | with_other_bytes(BYTES).map(lambda content: ("attention", content))


def file_of(content: bytes) -> Path:
    path = Path(f"run-{next(numbers)}.jsonl")
    path.write_bytes(content)
    return path


@examples(120)
@given(files)
def test_it_is_read_or_refused_by_name(file):
    """What is read can be shown: its table, and HTML in which nothing of the file is markup."""
    path = file_of(file[1])
    try:
        run = read_run(path)
    except RunFileError as error:
        assert path.name in str(error) and "\n" not in str(error)
        return
    assert len(frame(run)) <= len(run.rows)
    assert "<script" not in run._repr_html_()


@examples(10)
@given(files, st.sampled_from(["report", "compare", "rerun"]))
def test_the_commands_take_it_or_refuse_it_in_a_line(file, command):
    """Never a traceback; and a report holds no script of the file's."""
    operation, content = file
    path, good = file_of(content), file_of("".join(json.dumps(line) + "\n" for line in GOOD[operation]).encode())
    words = {"report": ["--out", "page.html"], "compare": [str(good)], "rerun": ["--out", f"again-{path.name}"]}[
        command
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["skiplab", command, str(path), *words])
        code, err = called(patch)
    assert code in (0, 1, 2), err
    assert (code == 2) == bool(err) and err.count("\n") <= 1, err
    if command == "report" and code == 0:
        assert SCRIPT not in Path("page.html").read_text()


def called(patch) -> tuple[int, str]:
    """The console script's exit code and what it wrote to stderr."""
    said: list[str] = []
    patch.setattr("typer.echo", lambda text="", err=False, **_: said.append(f"{text}\n") if err else None)
    try:
        cli.main()
    except SystemExit as ended:
        return int(ended.code or 0), "".join(said)
    return 0, "".join(said)


WANTED = Sweep(("blockskip", "sdpa"), (16, 32), (4, None), 1, 2, 1, 16, device="cpu")
WAYS = {
    "API": lambda path: run_sweep(WANTED, path, isolate=False, progress=False),
    "CLI": lambda path: cli_run.swept(WANTED, path),
}


def made() -> bytes:
    """The file of a whole sweep."""
    path = Path(f"run-{next(numbers)}.jsonl")
    WAYS["API"](path)
    return path.read_bytes()


@pytest.mark.parametrize("way", WAYS)
@examples(25)
@given(st.floats(0, 1))
def test_a_write_that_was_torn_anywhere_goes_on(way, share):
    """An empty file and a cut header, too: every point is there once, and what was whole is kept."""
    good = made()
    torn = good[: int(share * len(good))]
    path = file_of(torn)
    run = WAYS[way](path)
    assert sorted(row["point"] for row in run.rows) == sorted(point.key for point in WANTED.points())
    assert path.read_bytes().startswith(torn[: torn.rfind(b"\n") + 1])
    assert len(read_run(path).rows) == len(run.rows)


notes = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80).map(str.encode) | st.binary(
    min_size=1, max_size=80
)


@pytest.mark.parametrize("way", WAYS)
@examples(40)
@given(notes | st.just(b"to do\n- milk") | with_other_bytes(BYTES) | with_other_values().map(lambda file: file[1]))
def test_what_is_no_run_of_this_sweep_is_refused_untouched(way, content):
    """The recorded run was made elsewhere; so nothing here may be continued, nor changed."""
    path = file_of(content)
    try:
        WAYS[way](path)
    except ValueError as error:
        assert path.name in str(error)
        assert path.read_bytes() == content
    else:  # an empty file, or the beginning of a header, is a run that was torn before its first row
        assert b"\n" not in content and json.dumps(GOOD["attention"][0]).encode().startswith(content)
