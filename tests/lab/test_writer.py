"""Who may write a run file, what is repaired before, and what is left as it is."""

from __future__ import annotations

import errno
import importlib
import multiprocessing
import sys
import time

import pytest
from skiplab import cli
from skiplab.machine import Machine, describe
from skiplab.measure import Measurement, Point
from skiplab.store import END, RunFileError, RunWriter, read_run
from skiplab.sweep import Sweep, run_sweep
from skiplab.tuning.attention import Tuning
from skiplab.workload import DecodeWorkload, Workload

HEADER = {"run_id": "test", "device": {"name": "A"}, "torch": "2", "operation": "attention",
          "parameters": {"q_len": (64,), "mask": None}}  # fmt: skip
TINY = Sweep(("sdpa",), (16, 32), (8,), q_heads=1, kv_heads=1, head_dim=8, dtype="float32", budget_s=0.01)
TORN = '{"record": "point", "key'


def a_row(q_len=256, **fields):
    workload = fields.pop("workload", Workload(q_len))
    row = Measurement(Point(workload, "blockskip"), "ok", samples_ns=(5, 6, 7), device_name="A").row()
    return row | fields


@pytest.fixture
def roofs(monkeypatch):
    running, workers = (importlib.import_module(f"skiplab.sweep.{name}") for name in ("running", "workers"))
    high = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
    monkeypatch.setattr(running, "this_machine", lambda device, dtype: high)
    name = describe("cpu")["name"]
    timeouts = lambda points, *_, **__: [Measurement(one, "timeout", device_name=name) for one in points]  # noqa: E731
    monkeypatch.setattr(workers, "measure_together", timeouts)
    here = {"isolate": False, "progress": False}
    monkeypatch.setattr(cli.run, "run_sweep", lambda *args, **named: run_sweep(*args, **named, **here))


def by_the_function(path):
    return run_sweep(TINY, path, isolate=False, progress=False)


def by_the_command(path):
    return cli.run.swept(TINY, path)


TWO_WAYS = pytest.mark.parametrize("measure", [by_the_function, by_the_command])
FOREIGN = {
    "notes.txt": b"what I must not forget",
    "lines.txt": b"one line\nand another, not ended",
    "other.jsonl": b'{"a": 1}\n{"b": 2',
    "later.jsonl": b'{"record": "header", "schema": 2, "run_id": "x", "device": {"name": "A"}}\n{"record": "point"',
    "rows.jsonl": b'{"record": "point", "key": "x"}\n',
    "binary": bytes(range(256)),
    "zeros": bytes(64),
}


@TWO_WAYS
@pytest.mark.parametrize("name", FOREIGN)
def test_what_is_no_run_is_refused_and_stays_as_it_is(tmp_path, roofs, measure, name):
    path = tmp_path / name
    path.write_bytes(FOREIGN[name])
    with pytest.raises(RunFileError, match=f"^{name}, line 1: "):
        measure(path)
    assert path.read_bytes() == FOREIGN[name]
    assert [one.name for one in tmp_path.iterdir()] == [name]


@TWO_WAYS
def test_a_torn_run_goes_on_wherever_it_breaks_off(tmp_path, roofs, measure):
    whole = measure(tmp_path / "run.jsonl")
    content = (tmp_path / "run.jsonl").read_bytes()
    header, first = content.index(b"\n") + 1, content.index(b"\n", content.index(b"\n") + 1) + 1
    cuts = (0, 1, 5, header // 2, header - 1, header, header + 1, first - 2, first - 1, first, first + 40)
    for cut in cuts:
        for tail in (b"", b"\0" * 8) if cut not in (0, header, first, header - 1, first - 1) else (b"",):
            path = tmp_path / f"cut-{cut}.jsonl"
            path.write_bytes(content[:cut] + tail)
            done = measure(path)
            assert [row["point"] for row in done.rows] == [row["point"] for row in whole.rows], cut
            assert read_run(path) == done
            assert path.read_bytes().startswith(content[: cut if cut >= header else 0].rpartition(b"\n")[0])


def test_a_reader_does_not_repair_and_says_what_does(tmp_path):
    path = tmp_path / "run.jsonl"
    RunWriter(path, HEADER).append(a_row())
    content = path.read_bytes()
    for torn, where in ((content + TORN.encode(), "last line"), (content[:40], "line 1")):
        path.write_bytes(torn)
        with pytest.raises(RunFileError, match=f"^run.jsonl, {where}: .*breaks off, by a write that was interrupted"):
            read_run(path)
        assert path.read_bytes() == torn


def test_a_whole_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "run.jsonl"
    RunWriter(path, HEADER).append(a_row())
    path.write_bytes(path.read_bytes()[:-1])
    writer = RunWriter(path, HEADER)
    assert len(writer.run.rows) == 1
    writer.append(a_row(512))
    assert len(read_run(path).rows) == 2


@pytest.mark.parametrize("tail", [b"a note of mine", b"{}", b'{"record": "point", "key": 5}'])
def test_a_tail_that_no_write_of_ours_leaves_is_not_cut(tmp_path, tail):
    path = tmp_path / "run.jsonl"
    RunWriter(path, HEADER).append(a_row())
    content = path.read_bytes() + tail
    path.write_bytes(content)
    with pytest.raises(RunFileError, match=r"^run.jsonl, line 3: "):
        RunWriter(path, HEADER)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operation": "decode"}, "was made with the operation attention, this is decode"),
        ({"parameters": {"q_len": (64, 128)}}, r"was made with the parameter q_len \[64\], this is \[64, 128\]"),
        ({"parameters": {"q_len": (64,), "seed": 1}}, "was made with the parameter seed None, this is 1"),
        ({"torch": "3"}, "was made with torch 2, this is 3"),
        ({"device": {"name": "B"}}, "was made with the device A, this is B"),
    ],
)
def test_rows_of_another_sweep_are_not_appended(tmp_path, change, message):
    path = tmp_path / "run.jsonl"
    RunWriter(path, HEADER).append(a_row())
    content = path.read_bytes() + TORN.encode()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"^run\.jsonl: {message}; name a new file"):
        RunWriter(path, {**HEADER, **change})
    assert path.read_bytes() == content, "not even repaired"
    RunWriter(path, {**HEADER, "parameters": {"q_len": [64]}})  # as a file has it: lists, and what is None left out


def test_a_row_that_no_reader_takes_is_not_written(tmp_path):
    path = tmp_path / "run.jsonl"
    with RunWriter(path, HEADER) as writer:
        writer.append(a_row())
        content = path.read_bytes()
        for row, message in (
            (a_row(samples_ns=[]), "samples_ns: 0 of a row whose status is 'ok'"),
            (a_row(device="B"), "one device"), (a_row(flags="busy"), "flags 'busy'; expected `array`"),
            (a_row(workload=DecodeWorkload(64)), "axes.operation 'decode'; allowed is 'attention'"),
        ):  # fmt: skip
            with pytest.raises(ValueError, match=message):
                writer.append(row)
        with pytest.raises(ValueError, match="run_id"):
            RunWriter(tmp_path / "new.jsonl", {**HEADER, "run_id": 5})
    assert path.read_bytes() == content and not (tmp_path / "new.jsonl").exists()


def test_a_second_writer_is_refused_until_the_first_lets_go(tmp_path):
    path = tmp_path / "run.jsonl"
    first = RunWriter(path, HEADER)
    first.append(a_row())
    with pytest.raises(RunFileError, match=r"^run\.jsonl: is being written by another sweep"):
        RunWriter(path, HEADER)
    assert len(read_run(path).rows) == 1, "to be read it needs no lock"
    first.append(a_row(512))
    first.finish("later")
    with RunWriter(path, HEADER) as second:
        second.append(a_row(1024))
    assert len(read_run(path).rows) == 3
    assert [one.name for one in tmp_path.iterdir()] == ["run.jsonl"], "no file beside it"


def test_an_interrupted_end_counts_until_the_run_goes_on(tmp_path):
    path = tmp_path / "run.jsonl"
    with RunWriter(path, HEADER) as writer:
        writer.append(a_row())
        stopped = writer.finish("then", interrupted=True)
    assert stopped == read_run(path) and stopped.header["interrupted"] is True
    with path.open("a") as file:
        file.write(TORN)
    with RunWriter(path, HEADER) as writer:
        assert writer.run == stopped, "what was torn behind the end was repaired"
        writer.append(a_row(512))
        assert writer.run == read_run(path) and not set(END) & set(read_run(path).header)
        done = writer.finish("later")
    assert done == read_run(path) and done.header["end"] == "later" and "interrupted" not in done.header
    with path.open("a") as file:
        file.write('{"record": "end", "end": "at last", "interrupted": "maybe"}\n')
    with pytest.raises(RunFileError, match=r"^run\.jsonl, line 6: interrupted 'maybe'; expected `bool`"):
        read_run(path)


def test_a_sweep_says_what_the_file_held_before_it_measures(tmp_path, roofs, capsys):
    by_the_function(tmp_path / "run.jsonl")
    content = (tmp_path / "run.jsonl").read_bytes()
    (tmp_path / "run.jsonl").write_bytes(content[: content.rindex(b'{"record": "point"') + 20])
    held = []
    run_sweep(TINY, tmp_path / "run.jsonl", isolate=False, progress=False, on_start=held.append, cancelled=lambda: True)
    by_the_command(tmp_path / "run.jsonl")
    assert [len(run.rows) for run in held] == [
        1
    ] and "run.jsonl was interrupted with 1 points measured" in capsys.readouterr().out


def begin_and_append(path, start, count):
    """Wait for the start, then write rows if nobody else does."""
    start.wait()
    try:
        with RunWriter(path, HEADER) as writer:
            for number in range(count):
                writer.append(a_row(number + 1))
    except RunFileError:
        sys.exit(3)


def test_of_writers_that_start_at_once_one_writes(tmp_path):
    context = multiprocessing.get_context("fork")
    path, start = tmp_path / "run.jsonl", context.Event()
    writers = [context.Process(target=begin_and_append, args=(path, start, 20)) for _ in range(4)]
    for one in writers:
        one.start()
    start.set()
    for one in writers:
        one.join()
    codes = [one.exitcode for one in writers]
    assert set(codes) <= {0, 3} and 0 in codes
    assert path.read_text().count('"record": "header"') == 1
    assert len(read_run(path).rows) == 20 * codes.count(0)


def test_a_writer_that_is_killed_leaves_no_lock(tmp_path):
    path = tmp_path / "run.jsonl"
    context = multiprocessing.get_context("fork")
    begun = context.Event()
    child = context.Process(target=begin_and_stay, args=(path, begun))
    child.start()
    begun.wait()
    with pytest.raises(RunFileError, match="is being written"):
        RunWriter(path, HEADER)
    child.kill()
    child.join()
    RunWriter(path, HEADER).append(a_row())
    assert len(read_run(path).rows) == 1


def begin_and_stay(path, begun):
    writer = RunWriter(path, HEADER)
    begun.set()
    time.sleep(60)
    writer.close()


def test_a_disk_that_is_full_takes_a_line_whole_or_not_at_all(tmp_path):
    resource = pytest.importorskip("resource")
    path = tmp_path / "run.jsonl"
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with RunWriter(path, HEADER) as writer:
        writer.append(a_row())
        content = path.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(content) + 100, limits[1]))
            with pytest.raises(OSError) as full:
                writer.append(a_row(512))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert full.value.errno == errno.EFBIG
        assert path.read_bytes() == content and len(writer.run.rows) == 1
        writer.append(a_row(512))
    assert len(read_run(path).rows) == 2


def test_a_file_that_is_deleted_meanwhile_is_said(tmp_path):
    path = tmp_path / "run.jsonl"
    with RunWriter(path, HEADER) as writer:
        path.unlink()
        with pytest.raises(RunFileError, match="was deleted while it was written"):
            writer.append(a_row())


def test_what_is_no_plain_file_is_refused(tmp_path):
    with pytest.raises(RunFileError, match=f"^{tmp_path.name}: is no file"):
        RunWriter(tmp_path, HEADER)


def on(device: str, q_len: int = 256, **fields):
    """A row of the GPU `A` as today's code writes it, on one of a machine's devices."""
    point = Point(Workload(q_len), "blockskip", device=device)
    row = Measurement(point, "ok", samples_ns=(5, 6, 7), device_name="A").row()
    return row | {"key": f"{row['key']} | 0123456789ab"} | fields


def test_the_key_of_a_point_holds_no_index_of_a_gpu():
    keys = {Point(Workload(256), "blockskip", device=device).key for device in ("cuda", "cuda:0", "cuda:1")}
    assert keys == {f"blockskip | {Workload(256).key()} | cuda"} and on("cuda:1")["torch_device"] == "cuda:1"
    assert len({Sweep(device=device).key for device in ("cuda", "cuda:0", "cuda:1")}) == 1
    assert len({Tuning(device=device).key for device in ("cuda", "cuda:0", "cuda:1")}) == 1
    assert Sweep(device="cpu").key != Sweep(device="cuda").key


def test_another_gpu_of_the_same_kind_goes_on_with_what_one_measured(tmp_path):
    header = {**HEADER, "parameters": {**HEADER["parameters"], "device": "cuda:0"}}
    other = {**HEADER, "parameters": {**HEADER["parameters"], "device": "cuda:1"}}
    with RunWriter(tmp_path / "run.jsonl", header) as writer:
        writer.append(on("cuda:0"))
    with RunWriter(tmp_path / "run.jsonl", other) as writer:
        assert writer.settled() == {on("cuda:1")["key"]}
    with pytest.raises(ValueError, match="the parameter device cuda, this is cpu"):
        RunWriter(tmp_path / "run.jsonl", {**HEADER, "parameters": {**HEADER["parameters"], "device": "cpu"}})


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:3"])
def test_keys_of_older_files_match(tmp_path, device):
    """They hold the index that the sweep was given."""
    point = f"blockskip | {Workload(256).key()} | {device}"
    with RunWriter(tmp_path / "run.jsonl", HEADER) as writer:
        writer.append(on(device, key=f"{point} | 0123456789ab", point=point))
        assert writer.settled() == {on("cuda:1")["key"]}
        writer.append(on("cuda:1", samples_ns=[20, 20, 20]))
    table = read_run(tmp_path / "run.jsonl").frame()
    assert table["median_ms"].tolist() == [20e-6]  # one point, its later row
