import json
import re
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from skiplab import store
from skiplab.contenders import contenders
from skiplab.measure import Measurement, Point, WorkDone
from skiplab.operations import OPERATIONS
from skiplab.operations.base import fields_of
from skiplab.store import (
    COLUMNS,
    Run,
    RunFileError,
    RunWriter,
    documented,
    frame,
    frames,
    published,
    query,
    read_run,
    schema,
)  # fmt: skip
from skiplab.workload import LinearWorkload, Workload

HEADER = {
    "run_id": "test", "device": {"name": "A"}, "torch": "2", "triton": None, "threads": 1, "parameters": {},
    "roof": {"tflops": 1.0, "bandwidth_gbps": 100.0},
}  # fmt: skip
WORK = WorkDone(10**9, 2 * 10**9, 4 * 10**9, 10**6, 10**6)


def a_row(q_len=256, contender="blockskip", device="A", samples=(1_000_000, 3_000_000, 2_000_000), status="ok"):
    point = Point(Workload(q_len), contender)
    return Measurement(
        point, status, samples_ns=tuple(samples), error=0.1, tolerance=0.2, method="cpu", work=WORK,
        flags=("busy",), device_name=device,
    ).row()  # fmt: skip


def test_a_run_comes_back_as_written(tmp_path):
    writer = RunWriter(tmp_path / "run.jsonl", HEADER)
    writer.append(a_row())
    writer.append(a_row(512, status="crashed", samples=()))
    written = writer.finish("2026-01-01T00:00:00+00:00")
    assert read_run(writer.path) == written
    assert written.header["end"].startswith("2026")
    assert Measurement.from_row(written.rows[0]).row().items() <= written.rows[0].items()


def test_runs_of_one_operation_are_read_and_no_others(tmp_path):
    RunWriter(tmp_path / "a.jsonl", {**HEADER, "operation": "attention"}).finish("2026-01-01T00:00:00+00:00")
    RunWriter(tmp_path / "b.jsonl", HEADER).append(a_row())  # its rows say it
    (tmp_path / "c.jsonl").write_text('{"operation": "decode", "schema": 99}\n')
    (tmp_path / "d.jsonl").write_text("no json\n")
    assert [run.path.name for run in store.read_runs(tmp_path, "attention")] == ["a.jsonl", "b.jsonl"]
    assert store.read_runs(tmp_path, "linear") == [] == store.read_runs(tmp_path / "nowhere", "linear")
    with pytest.raises(RunFileError, match=r"c\.jsonl"):
        store.read_runs(tmp_path)


def test_a_writer_goes_on_with_a_run(tmp_path):
    path = tmp_path / "run.jsonl"
    RunWriter(path, HEADER).append(a_row())
    again = RunWriter(path, HEADER)
    assert again.settled() == {a_row()["key"]}
    assert again.settled(["busy"]) == again.settled(["ok", "crashed"]) == frozenset()
    again.append(a_row(512))
    assert len(read_run(path).rows) == 2


def test_a_half_written_last_line_is_measured_again(tmp_path):
    path = tmp_path / "run.jsonl"
    RunWriter(path, HEADER).append(a_row())
    with path.open("a") as file:
        file.write('{"record": "point", "key')
    assert len(RunWriter(path, HEADER).settled()) == 1
    assert len(read_run(path).rows) == 1


@pytest.mark.parametrize("change", [{"torch": "3"}, {"threads": 2}, {"device": {"name": "B"}}])
def test_a_writer_does_not_mix_machines(tmp_path, change):
    path = tmp_path / "run.jsonl"
    RunWriter(path, HEADER)
    with pytest.raises(ValueError, match=r"run\.jsonl: was made"):
        RunWriter(path, {**HEADER, **change})
    with pytest.raises(ValueError, match="one device"):
        RunWriter(path, HEADER).append(a_row(device="B"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [], r"broken\.jsonl, line 1: the file is empty"),
        (lambda lines: lines[1:], r"broken\.jsonl, line 1: a run starts with its header"),
        (lambda lines: [lines[0].replace('"schema": 1', '"schema": 99'), *lines[1:]], r"line 1: schema 99"),
        (lambda lines: [*lines, "{"], r"broken\.jsonl, line 4: broken line"),
        (lambda lines: [*lines, "[]"], r"line 4: a JSON object is expected"),
        (lambda lines: [*lines, '{"record": "note"}'], r"line 4: record is 'note'"),
        (lambda lines: [*lines, '{"record": "point", "key": "x"}'], r"line 4: the row lacks point, axes"),
        (lambda lines: [lines[0], lines[1].replace('"device": "A"', '"device": "B"')], r"line 2: mixed devices"),
        (lambda lines: [lines[0], lines[1].replace('"status": "ok"', '"status": "fine"')], r"line 2: status 'fine'"),
    ],
)
def test_a_reader_names_file_and_line(tmp_path, change, message):
    path = tmp_path / "broken.jsonl"
    writer = RunWriter(path, HEADER)
    writer.append(a_row())
    writer.append(a_row(512))
    path.write_text("".join(line + "\n" for line in change(path.read_text().splitlines())))
    with pytest.raises(RunFileError, match=message):
        read_run(path)


def test_a_missing_file_is_said():
    with pytest.raises(RunFileError, match=r"gone\.jsonl: cannot be read"):
        read_run("gone.jsonl")


def test_frame_derives_times_and_rates():
    table = frame(Run(HEADER, (a_row(), a_row(512, status="crashed", samples=()))))
    assert tuple(table.columns) == COLUMNS
    row = table.iloc[0]
    assert (row["median_ms"], row["low_ms"], row["high_ms"]) == (2.0, 1.5, 2.5)
    assert row["useful_tflops"] == pytest.approx(0.5)
    assert row["executed_tflops"] == pytest.approx(1.0)
    assert row["tokens_per_s"] == pytest.approx(256 / 2e-3)
    assert row["bound_ms"] == pytest.approx(1.0)
    assert row["source"] == "recorded"
    assert row["flags"] == "busy"
    assert np.isnan(row["window"])
    assert np.isnan(table.iloc[1]["median_ms"])
    assert np.isnan(table.iloc[1]["tokens_per_s"])


def test_a_recorded_spelling_is_read_as_the_one_of_today(tmp_path):
    path = tmp_path / "old.jsonl"
    RunWriter(path, HEADER).append(a_row(contender="mine") | {"label": "my dequantize"})
    path.write_text(path.read_text().replace("dequantize", "dequantise"))
    run = read_run(path)
    assert run.frame()["label"].tolist() == [run.rows[0]["label"]] == ["my dequantize"]


def test_frame_takes_the_last_row_of_a_point_and_no_rows():
    later = a_row(samples=(5_000_000,))
    assert frame(Run(HEADER, (a_row(), later)))["median_ms"].tolist() == [5.0]
    assert frame([]).empty
    assert tuple(frame(Run(HEADER)).columns) == COLUMNS


@pytest.mark.parametrize("name", ["amd-epyc-2-threads-decode", "amd-epyc-2-threads-linear", "h100-80gb-hbm3-tune-d512"])
def test_frame_equals_the_obvious_one(monkeypatch, name):
    """Row by row, from the lines themselves; a tuning run holds some points twice."""
    monkeypatch.setattr(frames, "AT_ONCE", 7)  # of some hundred rows at once: what a point's last row is spans them
    (path,) = (store.data_path("runs")).glob(f"2026-11-25-*{name}.jsonl")
    # what runs named a contender until the spelling became one
    header, *lines = map(json.loads, path.read_text().replace("dequantise", "dequantize").splitlines())
    rows = list({row["point"]: row for row in lines if row["record"] == "point"}.values())
    table, roof = read_run(path).frame(), header["roof"]
    assert len(table) == len(rows) and list(table["contender"]) == [row["contender"] for row in rows]
    for (_, found), row in zip(table.iterrows(), rows, strict=True):
        axes, work = row["axes"], row["work"] or {}
        assert (found["label"], found["status"], found["samples"]) == (
            contenders(axes["operation"])[row["contender"]].label if "x" not in row["contender"] else row["label"],
            row["status"],
            len(row["samples_ns"]),
        )
        assert found["flags"] == ", ".join(row["flags"])
        for axis in ("q_len", "kv_len", "window", "buffer", "rows", "bits", "symmetric"):
            assert found[axis] == axes[axis] if axes.get(axis) is not None else pd.isna(found[axis])
        if row["samples_ns"]:
            low, median, high = np.percentile(row["samples_ns"], (25, 50, 75)) / 1e6
            assert (found["low_ms"], found["median_ms"], found["high_ms"]) == (low, median, high)
            assert found["gbps"] == work["minimal_bytes"] / (median / 1e3) / 1e9
            flops, moved = (
                work["useful_flops"] / (roof["tflops"] * 1e12),
                work["minimal_bytes"] / (roof["bandwidth_gbps"] * 1e9),
            )
            assert found["bound_ms"] == max(flops, moved) * 1e3
            tokens = axes.get("rows") or axes["q_len"] * axes["batch"]
            assert found["tokens_per_s"] == tokens / (median / 1e3)


def test_rows_of_a_file_are_plain_and_made_when_they_are_asked_for(tmp_path):
    path = tmp_path / "run.jsonl"
    written = [{"record": "point", **a_row(length)} for length in (64, 128, 256)]
    with RunWriter(path, HEADER) as writer:
        for row in written:
            writer.append(row)
    rows = read_run(path).rows
    assert len(rows) == 3 and list(rows) == written and rows == tuple(written) and rows[-1] == written[-1]
    assert list(rows[1:]) == written[1:] and rows[:1] != rows and rows != written[:2] and rows != 3
    assert type(rows[0]) is dict and rows[0] is not rows[0]
    assert frame(replace(read_run(path), rows=tuple(rows))).equals(read_run(path).frame())
    with pytest.raises(IndexError):
        rows[3]


def test_frame_names_a_row_of_this_session_that_it_cannot_take():
    with pytest.raises(ValueError, match=r"^test, row 1: samples_ns\[0\] 'x'; expected `int`, got `str`"):
        frame(Run(HEADER, (a_row(), a_row(512) | {"samples_ns": ["x"]})))


def test_frame_says_whether_a_weight_is_symmetric():
    rows = [
        Measurement(Point(LinearWorkload(64, 64, symmetric=symmetric), "blockskip"), "crashed", device_name="A").row()
        for symmetric in (False, True)
    ]
    table = frame(Run(HEADER, tuple(rows)))
    assert table["symmetric"].tolist() == [0, 1]
    assert len(query(table, symmetric=True)) == len(query(table, symmetric=False)) == 1
    assert frame(Run(HEADER, (a_row(),)))["symmetric"].isna().all()


def test_query_filters():
    table = frame(Run(HEADER, (a_row(), a_row(512), a_row(512, "flex"))))
    assert len(query(table, contender="blockskip")) == 2
    assert len(query(table, contender=["blockskip", "flex"], q_len=512)) == 2
    assert len(query(table, window=None)) == 3
    assert query(table, window=512).empty
    with pytest.raises(ValueError, match="no column 'speed'"):
        query(table, speed=1)


def test_files_are_asked_as_frames_are():
    """What DuckDB makes of all recorded files is the frame that is made of their rows one by one, bit for bit."""
    runs = store.read_runs()
    found = query([run.path for run in runs])
    pd.testing.assert_frame_equal(found, frame(runs), check_exact=True)
    assert query(str(store.data_path("runs", "*decode*.jsonl")), operation="decode", status="ok").equals(
        query(frame([run for run in runs if "decode" in run.path.name]), operation="decode", status="ok")
    )


def test_a_file_is_read_as_its_rows_are(tmp_path):
    """Points measured twice, failures without samples, defaults that a line lacks, older spellings."""
    linear = Measurement(
        Point(LinearWorkload(64, 64), "our dequantize"), "ok", samples_ns=(5, 7), device_name="A"
    ).row()
    del linear["axes"]["symmetric"], linear["label"]
    rows = [a_row(), a_row(512, status="crashed", samples=()), a_row(samples=(9,)), a_row(64, samples=range(1, 99))]
    for name, some in (("a", rows), ("b", [linear])):
        with RunWriter(tmp_path / f"{name}.jsonl", HEADER | {"run_id": name}) as writer:
            for row in some:
                writer.append(row)
    old = tmp_path / "b.jsonl"
    old.write_text(old.read_text().replace("dequantize", "dequantise"))
    table = query(str(tmp_path / "*.jsonl"))
    pd.testing.assert_frame_equal(table, frame(store.read_runs(tmp_path)), check_exact=True)
    assert table["median_ms"].tolist()[0] == 9e-6 and table["symmetric"].tolist()[-1] == 0


def test_sql_is_answered_and_its_faults_are_said(tmp_path):
    with RunWriter(tmp_path / "a.jsonl", HEADER | {"start": "2026-01-02"}) as writer:
        for row in (a_row(), a_row(512), a_row(512, "flex", samples=(9_000_000,))):
            writer.append(row)
    path = tmp_path / "a.jsonl"
    found = query(path, "SELECT contender, max(median_ms) AS ms FROM points GROUP BY contender ORDER BY contender")
    assert found.to_dict("list") == {"contender": ["blockskip", "flex"], "ms": [2.0, 9.0]}
    found = query(
        path, "SELECT file, start, count(*) AS n FROM points JOIN runs USING (run_id) GROUP BY ALL", q_len=512
    )
    assert found.to_dict("list") == {"file": ["a.jsonl"], "start": ["2026-01-02"], "n": [2]}
    assert query(read_run(path).frame(), "SELECT count(*) AS n FROM points")["n"].tolist() == [3]
    with pytest.raises(ValueError, match=r'^sql: Binder Error: Referenced column "speed" not found'):
        query(path, "SELECT speed FROM points")
    with pytest.raises(ValueError, match="query: there is no file 'gone"):
        query("gone/*.jsonl")
    path.write_text(path.read_text().replace('"status": "ok"', '"status": "fine"'))
    with pytest.raises(RunFileError, match=r"a\.jsonl, line 2: status 'fine'; allowed are ok"):
        query(path)


def test_duckdb_is_not_imported_before_it_is_asked(fresh_process):
    code = "import sys, skiplab; from skiplab.store import query; print('duckdb' in sys.modules)"
    assert fresh_process("-c", code).stdout == "False\n"


def test_the_documentations_tables_are_made_of_the_schema():
    text = store.data_path("README.md").read_text(encoding="utf-8")
    assert documented.fill(text) == text, "run: skiplab figures"
    assert {name for _, name, _ in documented.SECTION.findall(text)} == set(documented.TABLES)
    rows = documented.TABLES["row"]()
    assert "| `samples_ns` | list of: whole number ≥ 1 | nanoseconds a call" in rows
    assert "| `work.useful_flops` | number ≥ 0 | on pairs that the mask keeps |" in rows
    assert "| `symmetric` | true or false | linear |" in documented.TABLES["axes"]()
    with pytest.raises(ValueError, match="schema: got 'rows'; allowed are header, row, axes, end, flags"):
        documented.fill("<!-- schema: rows -->\n<!-- end -->")


@pytest.mark.parametrize("kind", [schema.Header, schema.End, schema.Row, schema.RowWork, schema.Roof, schema.Device,
                                  *(one.axes for one in OPERATIONS.values())])  # fmt: skip
def test_every_field_of_the_schema_says_what_it_means(kind):
    assert all(documented.said(field) for field in fields_of(kind))


def test_published_tables_have_the_columns_and_the_numbers():
    table = published()
    assert tuple(table.columns) == COLUMNS
    assert set(table["source"]) == {"published"}
    after = query(table, operation="prefill", contender="executorch after", q_len=2048)
    assert after["tokens_per_s"].tolist() == [2325.5]
    split = query(published("decode"), contender="executorch split-K", kv_len=2048)
    assert split["median_ms"].tolist() == pytest.approx([0.0246])
    product = published("linear")
    assert product["median_ms"].tolist() == pytest.approx([0.0384, 0.03475])
    assert product["out_features"].isna().all(), "the source does not tell the layer"
    step = query(published("model"), phase="decode", depth=2048, contender="executorch")
    assert step["tokens_per_s"].tolist() == [47.93] and step["peak_gb"].tolist() == [31.85]
    assert set(published("model")["device"]) == {"ExecuTorch pull request 20571 (Gemma 4 31B, Q4_K_M, A100)"}
    with pytest.raises(ValueError, match="published are decode, generate, linear, model, prefill"):
        published("sorting")


def test_stored_runs_can_be_read():
    for run in store.read_runs():
        assert run.rows, run.run_id
        assert not re.search(r'"/\w+/', run.path.read_text()), "an absolute path"


def test_rows_are_plain_json():
    json.dumps(a_row(), allow_nan=False)
