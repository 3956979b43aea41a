"""Run files that somebody else made, or broke: each is a good run or one error, never a traceback."""

from __future__ import annotations

import json
import math
import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from copy import deepcopy
from io import StringIO
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from skiplab import cli
from skiplab.store import COLUMNS, RunFileError, data_path, query, read_run

RUNS = ("2026-11-25-amd-epyc-2-threads-attention", "2026-11-25-amd-epyc-2-threads-decode",
        "2026-11-25-amd-epyc-2-threads-linear", "2026-11-25-nvidia-h100-80gb-hbm3-tune-d512")  # fmt: skip
NAMED = re.compile(r"hostile\.jsonl(, (line \d+|last line))?: \S")
"""How an error begins: the file, and the line where there is one."""


def some_lines(name: str) -> list[dict]:
    """Header, three rows that are ok and one that may not be, the end of a stored run."""
    lines = [json.loads(line) for line in data_path("runs", f"{name}.jsonl").read_text().splitlines()]
    return [lines[0], *[row for row in lines[1:-1] if row["status"] == "ok"][:3], lines[3], lines[-1]]


STORED = {name: some_lines(name) for name in RUNS}

odd_numbers = st.sampled_from(
    [0, -1, 1, 7, 2**31, 2**63 - 1, 2**63, 2**64, 10**30, 10**400, -(10**400), 0.5, 1e308, -0.0]
)
odd_texts = st.sampled_from(
    ["", "x", "ok", "wrong", "attention", "linear", "causal()", "~" * 3000, "<script>", "\u2028", "\0", "a\nb"]
)
odd = st.one_of(
    st.none(), st.booleans(), odd_numbers, odd_texts, st.just([]), st.just({}), st.just([None]), st.just([[]]),
    st.just([1, "x"]), st.just({"a": {"b": [1]}}), st.just([10**400]), st.just([0] * 3), st.just([2**63 - 1] * 5),
    st.lists(st.integers(-5, 2**40), max_size=4), st.text(max_size=5), st.floats(allow_nan=False, allow_infinity=False),
).map(deepcopy)  # fmt: skip
"""Values that a place gets, each its own: the next change may be inside it."""
raw = st.sampled_from([b"NaN", b"-Infinity", b"1e999", b"1" + b"0" * 5000, b"\xff", b'"\xff"', b'"\\ud800"',
                       b"[" * 3000, b'{"a":1,"a":2}', b"", b"[[[1]]]", b"01", b"tru", b'"open'])  # fmt: skip
RAW = "raw bytes stand here"


def places(value: Any, path: tuple = ()) -> list[tuple]:
    """The ways to everything in a record."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in places(one, (*path, key)))]


@st.composite
def hostile_files(draw: st.DrawFn) -> bytes:
    """The bytes of a stored run with a few things changed."""
    records = deepcopy(STORED[draw(st.sampled_from(RUNS))])
    bytes_in: list[bytes] = []
    for _ in range(draw(st.integers(1, 3))):
        number = draw(st.integers(0, len(records) - 1))
        path = draw(st.sampled_from(places(records[number])))
        kind = draw(st.sampled_from(["value", "remove", "add", "raw", "twice"]))
        if not path:
            records[number] = draw(odd) if kind == "value" and draw(st.booleans()) else records[number]
            continue
        holder = records[number]
        if not isinstance(holder, dict):
            continue
        for key in path[:-1]:
            holder = holder[key]
        if kind == "remove":
            del holder[path[-1]]
        elif kind == "add" and isinstance(holder, dict):
            holder[draw(st.sampled_from(["later", "window", "buffer", "config", "roof", "end"]))] = draw(odd)
        elif kind == "raw":
            holder[path[-1]] = RAW
            bytes_in.append(draw(raw))
        elif kind == "twice":
            records.insert(number, deepcopy(records[number]))
        else:
            holder[path[-1]] = draw(odd)
    text = b"\n".join(json.dumps(record).encode() for record in records) + b"\n" * draw(st.integers(0, 2))
    for one in bytes_in:
        text = text.replace(json.dumps(RAW).encode(), one, 1)
    return text[: draw(st.integers(0, len(text)))] if draw(st.integers(0, 9)) == 0 else text


often = settings(deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("hostile")


@settings(often, max_examples=300)
@given(content=hostile_files())
def test_a_hostile_file_is_a_run_with_a_frame_or_one_error(folder, content):
    path = folder / "hostile.jsonl"
    path.write_bytes(content)
    try:
        run = read_run(path)
    except RunFileError as error:
        assert NAMED.match(str(error)) and "\n" not in str(error), error
        return
    table = run.frame()
    assert tuple(table.columns) == COLUMNS and len(table) <= len(run.rows)
    for column in ("contender", "q_len", "window", "status", "median_ms"):
        query(table, **{column: list(table[column])})
    assert all(row["axes"]["operation"] == run.operation for row in run.rows)


def called(*words: str) -> tuple[int, str, str]:
    """The console script: exit status, stdout, stderr; any other exception than its own is the test's failure."""
    out, err = StringIO(), StringIO()
    with patch.object(sys, "argv", ["skiplab", *words]), redirect_stdout(out), redirect_stderr(err):
        try:
            cli.main()
            code: Any = 0
        except SystemExit as ended:
            code = ended.code or 0
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def good(folder):
    for name in RUNS:
        (folder / f"{name}.jsonl").write_bytes(b"".join(json.dumps(one).encode() + b"\n" for one in STORED[name]))


@settings(often, max_examples=12)
@given(content=hostile_files())
def test_commands_say_what_is_wrong_in_one_line(folder, good, content):
    path = folder / "hostile.jsonl"
    path.write_bytes(content)
    page = str(folder / "page.html")
    swept, plotly = (
        patch.object(cli, "swept", side_effect=ValueError("stop")),
        patch("plotly.offline.get_plotlyjs", str),
    )
    with swept, plotly:
        for words in (
            ("report", str(path), "--out", page),
            *(("compare", *pair) for name in RUNS[:3] for pair in ((str(path), str(folder / f"{name}.jsonl")),)),
            ("compare", str(folder / f"{RUNS[0]}.jsonl"), str(path), "--json"),
            ("rerun", str(path), "--out", str(folder / "new.jsonl")),
            ("tune", "--from-run", str(path), "--out", str(folder / "configs")),
        ):
            code, _, err = called(*words)
            assert code in (0, 1, 2) and err.count("\n") == (code == 2), (words, err)


PLACED = [
    (1, ("axes", "q_len"), "x", "line 2: axes.q_len 'x'; expected `int`, got `str`"),
    (1, ("axes", "q_len"), 0, "line 2: axes.q_len 0; expected `int` >= 1"),
    (1, ("axes", "q_len"), 10**400, "line 2: axes.q_len 1000"),
    (2, ("axes", "operation"), "conv", "line 3: axes.operation 'conv'; allowed are attention, decode, linear"),
    (2, ("axes", "operation"), "decode", "line 3: axes.operation 'decode'; allowed is 'attention'"),
    (2, ("axes",), [], "line 3: axes []; expected `object`, got `array`"),
    (3, ("samples_ns",), [5, 0], "line 4: samples_ns[1] 0; expected `int` >= 1"),
    (3, ("samples_ns",), [], "line 4: samples_ns: 0 of a row whose status is 'ok'; only ok has some"),
    (3, ("work", "useful_flops"), None, "line 4: work.useful_flops None; expected `float`, got `null`"),
    (3, ("work", "useful_flops"), 1e308, "line 4: work.useful_flops 1e+308; expected `float` <= 1e+30"),
    (3, ("flags",), "busy", "line 4: flags 'busy'; expected `array`, got `str`"),
    (3, ("plan", "config"), [128], "line 4: plan.config [128]; expected `array` of length >= 2"),
    (3, ("status",), "fine", "line 4: status 'fine'; allowed are ok, wrong"),
    (3, ("device",), "B", "line 4: mixed devices"),
    (0, ("device",), "A", "line 1: device 'A'; expected `object`, got `str`"),
    (0, ("roof", "tflops"), 0, "line 1: roof.tflops 0; expected `float` > 0"),
    (0, ("schema",), 2, "line 1: schema 2; this version of skiplab reads 1 to 1"),
    (0, ("run_id",), 5, "line 1: run_id 5; expected `str`, got `int`"),
    (0, ("operation",), "conv", "line 1: operation 'conv'; allowed are attention, decode, linear"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "place", "value", "message"), PLACED, ids=[message for *_, message in PLACED])
def test_an_error_names_file_line_and_field(tmp_path, number, place, value, message):
    records = deepcopy(STORED[RUNS[0]])
    holder = records[number]
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    path = tmp_path / "hostile.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    with pytest.raises(RunFileError, match="^hostile.jsonl, " + re.escape(message)):
        read_run(path)


def test_what_is_missing_is_named(tmp_path):
    path = tmp_path / "hostile.jsonl"
    for number, place, message in (
        (0, ("run_id",), "line 1: the header lacks run_id"), (0, ("device", "name"), "line 1: device lacks name"),
        (1, ("point",), "line 2: the row lacks point"), (1, ("axes", "batch"), "line 2: axes lacks batch"),
        (1, ("axes", "dtype"), "line 2: axes lacks dtype"),
    ):  # fmt: skip
        records = deepcopy(STORED[RUNS[0]])
        holder = records[number]
        for key in place[:-1]:
            holder = holder[key]
        del holder[place[-1]]
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        with pytest.raises(RunFileError, match="^hostile.jsonl, " + message):
            read_run(path)


def test_keys_of_a_later_version_are_kept(tmp_path):
    records = deepcopy(STORED[RUNS[0]])
    records[0]["later"], records[1]["later"], records[2]["axes"]["later"] = {"a": [1]}, None, 3
    path = tmp_path / "later.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    run = read_run(path)
    records[3]["later"] = RAW
    text = "".join(json.dumps(one) + "\n" for one in records)
    for huge in ("1e999", "1" * 5000):  # what no double holds: nobody looks at it
        path.write_text(text.replace(json.dumps(RAW), huge))
        assert read_run(path).rows[2]["later"] == math.inf and len(read_run(path).frame()) == 4
    assert run.header["later"] == {"a": [1]} and run.rows[1]["axes"]["later"] == 3 and "later" in run.rows[0]


def test_a_rerun_needs_the_parameters_of_a_sweep(tmp_path, capsys):
    path = tmp_path / "hostile.jsonl"
    for change, message in (
        ({"q_len": [64.5]}, "q_len[0] 64.5; expected `int`, got `float`"),
        ({"device": 5}, "device 5; expected `str`, got `int`"), ({"batch": 0}, "batch: given 0; must be at least 1"),
        ({"speed": 5}, "speed: got 5; the parameters of `skiplab sweep` are contenders"),
        ({"budget_s": -1}, "budget_s: got -1"), ({"mask": ["~" * 3000], "window": None}, ""),
    ):  # fmt: skip
        records = deepcopy(STORED[RUNS[0]])
        records[0]["parameters"] |= change
        path.write_text("".join(json.dumps(one) + "\n" for one in records))
        code, _, err = called("rerun", str(path))
        assert code == 2 and f"hostile.jsonl, line 1: the header holds no sweep that can be run: {message}" in err
    records[0]["parameters"] = {"seed": 1}
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    code, _, err = called("rerun", str(path))
    assert code == 2 and "the parameters of `skiplab sweep` lack contenders, q_len" in err
