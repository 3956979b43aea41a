"""Widgets without a browser: state, speed, messages, errors and fallbacks."""

from __future__ import annotations

import threading
import time

import blockskip as bs
import numpy as np
import pytest
import torch
from skiplab.figures import attention
from skiplab.measure.timing import Cancelled
from skiplab.widgets import LiveChart, MaskExplorer, TileCanvas, worker
from skiplab.widgets.controls import CountControl, steps
from skiplab.widgets.mask import bench as bench_module
from skiplab.widgets.mask import measuring, record, view
from skiplab.widgets.mask.settings import KINDS, THIS_MACHINE, MaskSettings
from skiplab.widgets.worker import BackgroundWorker
from skiplab.workload import Workload


@pytest.fixture
def tilemap() -> bs.TileMap:
    return bs.TileMap.build(bs.sliding_window(100), 512, 512, 64, 32)


# the canvas


def test_canvas_is_sent_runs_in_binary(tilemap):
    sent = view.payload(tilemap)
    assert np.array_equal(np.frombuffer(sent["runs"], "<i4").reshape(-1, 3), tilemap.runs)
    assert np.array_equal(np.frombuffer(sent["run_start"], "<i4"), tilemap.run_start)
    assert (sent["rows"], sent["cols"], sent["block_m"], sent["block_n"]) == (8, 16, 64, 32)


def test_very_many_runs_are_sent_as_shares_of_pixels():
    tilemap = bs.TileMap.build(bs.dilated(1000), 1 << 17, 1 << 17, 64, 64)
    assert len(tilemap.runs) > view.MOST_RUNS
    sent = view.payload(tilemap)
    shares = np.frombuffer(sent["shares"], np.uint8).reshape(2, sent["share_height"], sent["share_width"])
    assert "runs" not in sent and shares.any() and shares.nbytes < 400_000


def test_opened_tile_holds_its_elements(tilemap):
    content, bits = view.opened(tilemap, 3, 4)
    kept = np.unpackbits(np.frombuffer(bits, np.uint8))[: content["height"] * content["width"]]
    assert np.array_equal(kept.reshape(content["height"], content["width"]).astype(bool), tilemap.tile(3, 4))
    assert (content["first_query"], content["first_key"]) == (192, 128)


def test_canvas_answers_what_the_browser_asks(tilemap):
    shown = TileCanvas(tilemap)
    sent = []
    shown.send = lambda content, buffers=None: sent.append((content, buffers))
    place = {"row": 3, "col": 4, "end_row": 4, "end_col": 5}
    shown._answer(shown, {"kind": "about", "id": 7, **place}, [])
    shown._answer(shown, {"kind": "open", **place}, [])
    assert sent[0][0]["id"] == 7 and "queries 192–255, keys 128–159" in sent[0][0]["text"]
    assert sent[1][0]["kind"] == "tile" and len(sent[1][1][0]) == 64 * 32 // 8
    assert shown.focused == [3, 4]
    shown._answer(shown, {"kind": "open", "row": 90, "col": 0, "end_row": 91, "end_col": 1}, [])  # of an older map
    assert len(sent) == 2


def test_canvas_falls_back_to_a_picture_and_words(tilemap):
    data = TileCanvas(tilemap)._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert data["image/png"].startswith(b"\x89PNG")
    assert "tiles visited" in data["text/plain"]
    assert "application/vnd.jupyter.widget-view+json" in data


def test_differences_from_the_plan_are_found(tilemap):
    visits = np.asarray(tilemap.state).copy()
    assert not len(view.differences(tilemap, visits))
    visits[visits == 2] = 1  # a full tile run with the mask changes no result
    assert not len(view.differences(tilemap, visits))
    visits[0, 15], visits[3, 5] = 1, 0  # one visited that is empty, one left out that is not
    shown = TileCanvas(tilemap)
    assert shown.lay_over(visits) == 2
    assert np.frombuffer(shown.differences, np.int32).reshape(-1, 2).tolist() == [[0, 15], [3, 5]]
    shown.show(tilemap)
    assert shown.visits == shown.differences == b""
    with pytest.raises(ValueError, match=r"visits: given shape \(2, 2\); the map has 8 x 16 tiles"):
        view.differences(tilemap, np.zeros((2, 2)))


# controls and settings


def test_steps_hold_the_powers_of_two_and_both_ends():
    values = steps(1, 5000)
    assert {1, 2, 512, 640, 768, 896, 1024, 4096, 5000} <= set(values)
    assert values == sorted(set(values))


def test_count_takes_any_number_in_range_and_refuses_the_rest_in_words():
    count = CountControl("Window", "keys", 512, 1, 4096, "window")
    assert count.steps[0] == 1 and count.steps[-1] == 4096 and (count.label, count.unit) == ("Window", "keys")
    count.type("1,000")
    assert count.value == 1000 and not count.refused and not count.problem
    for text in ("abc", "0", "5000", "1.5", "", "-3"):
        count.type(text)
        assert count.value == 1000 and count.refused
        assert count.problem == f"{text or 'nothing'}: a whole number from 1 to 4,096 is needed; still 1,000"
    count.type("1000")
    assert not count.refused and not count.problem
    count.type("abc")
    count.value = 640  # slid, or set by code
    assert not count.refused and not count.problem


def test_count_says_of_a_refused_text_what_is_allowed_now():
    count = CountControl("Window", "keys", 512, 1, 4096, "window")
    count.type("5000")
    count.limit(2048)
    assert count.problem == "5000: a whole number from 1 to 2,048 is needed; still 512"
    count.limit(8192)  # the text would do now: the field is of the value again
    assert not count.problem and not count.refused and count.value == 512
    count.type("abc")
    count.limit(4096)
    assert count.refused and "from 1 to 4,096" in count.problem


def test_count_ends_where_it_is_told_to_and_says_so_of_a_value_beyond():
    count = CountControl("Window", "keys", 512, 1, 4096, "window")
    count.limit(256)
    assert count.steps[-1] == 256 and count.value == 512
    assert count.problem == "512 is more than the 256 keys there are"
    count.limit(1000)
    assert count.steps[-1] == 1000 and not count.problem
    assert CountControl("Lane", "", 5, 0, 31, "lane", even=True).steps == list(range(32))


def test_sliders_end_where_the_prompt_does():
    explorer = MaskExplorer(q_len=4096, window=2048)
    controls = explorer._controls
    assert controls["window"].high == 4096
    controls["q_len"].value = 1000
    assert controls["window"].high == controls["stride"].high == 1000
    assert "2,048 is more than the 1,000 keys" in controls["window"].problem
    assert explorer.settings.window == 2048  # nothing is changed behind one's back
    controls["window"].value = 700
    assert not controls["window"].problem and explorer.settings.window == 700


def test_a_mask_is_typed_as_text_and_what_is_no_mask_is_told():
    explorer = MaskExplorer(q_len=1024, kind="text")
    explorer._controls["text"].value = "chunked(256) & causal() | sink(16)"
    assert explorer.settings.mask == bs.Mask.from_spec("chunked(256) & causal() | sink(16)")
    shown = explorer.tilemap
    assert "chunked(256)" in explorer.code()
    explorer._controls["text"].value = "chunky(256)"
    assert "cannot read" in explorer._problem.value and explorer.tilemap is shown
    explorer._controls["text"].value = "causal()"
    assert not explorer._problem.value and explorer.tilemap is not shown
    with pytest.raises(ValueError, match="mask: got 'foo'"):
        MaskExplorer(kind="text", text="foo")


def test_figures_follow_an_explorer():
    explorer, seen = MaskExplorer(q_len=1024), []
    explorer.observe(lambda change: seen.append(change["new"].window), "settings")
    explorer._controls["window"].value = 100
    explorer.set(window=50)
    assert seen == [100, 50]
    beside = LiveChart().follow(explorer, lambda s: attention.waste([s.tilemap]))
    before = beside.chart
    explorer.set(window=200)
    assert before.lines[0].name == "sliding_window(50)" and beside.chart.lines[0].name == "sliding_window(200)"


def test_a_part_of_the_map_holds_its_runs():
    tilemap = bs.TileMap.build(bs.sliding_window(100) | bs.sink(8), 512, 1024, 64, 32)
    start, runs = view.part(tilemap, 2, 3, 6, 20)
    state = np.zeros((4, 17), np.uint8)
    for row in range(4):
        for first, end, kind in runs[start[row] : start[row + 1]]:
            state[row, first:end] = kind
    assert np.array_equal(state, np.asarray(tilemap.state)[2:6, 3:20])
    shown, sent = TileCanvas(tilemap), []
    shown.send = lambda content, buffers=None: sent.append((content, buffers))
    place = {"row": 2, "col": 3, "rows": 4, "cols": 17, "end_row": 6, "end_col": 20}
    shown._answer(shown, {"kind": "part", **place}, [])
    assert sent[0][0] == {"kind": "part", "row": 2, "col": 3, "rows": 4, "cols": 17}
    assert sent[0][1][1] == runs.astype("<i4").tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_builds_its_mask_and_its_code_makes_the_same(kind):
    settings = MaskSettings(
        kind=kind, q_len=700, kv_len=900, window=64, chunk=100, block_m=64, block_n=32, model="llama3-8b"
    )
    scope: dict = {}
    exec(settings.code(), scope)
    assert scope["workload"] == settings.workload
    assert scope["tilemap"] is settings.tilemap
    assert scope["explorer"].settings == MaskSettings(**settings.given())
    assert scope["explorer"].workload == settings.workload


def test_documents_fill_the_keys():
    lengths = MaskSettings(kind="document", documents=7, q_len=1000).document_lengths
    assert sum(lengths) == 1000 and len(lengths) == 7
    assert MaskSettings(kind="document", documents=50, q_len=3).mask  # more documents than tokens


@pytest.mark.parametrize(
    ("given", "message"),
    [({"kind": "diagonal"}, "kind: given 'diagonal'; allowed are causal"), ({"window": 0}, "window: given 0"),
     ({"model": "x"}, "model: given 'x'"), ({"dtype": "int8"}, "dtype: given 'int8'")],
)  # fmt: skip
def test_wrong_settings_name_what_is_allowed(given, message):
    with pytest.raises(ValueError, match=message):
        MaskExplorer(**given)
    with pytest.raises(TypeError, match="windw: MaskExplorer has no such setting; there are kind, window"):
        MaskExplorer(windw=3)


# the explorer


def test_explorer_follows_its_controls():
    explorer = MaskExplorer(q_len=2048, window=256)
    explorer._controls["window"].value = 640
    assert explorer.settings.window == 640 and explorer.tilemap is explorer.settings.tilemap
    assert f"{explorer.tilemap.visited:,} of" in explorer._counts.value
    assert "Predicted for NVIDIA H200" in explorer._prediction.value and "data sheet" in explorer._prediction.value
    explorer._controls["kind"].value = "prefix-LM"
    assert explorer._controls["window"].layout.display == "none"
    assert explorer._controls["prefix"].layout.display is None
    explorer._controls["square"].value = False
    explorer._controls["kv_len"].value = 3000
    assert explorer.workload.kv_len == 3000
    assert explorer._copy.code == explorer.code()


def test_explorer_reacts_in_a_fifth_of_a_second_at_131072_tokens():
    explorer = MaskExplorer(q_len=131072, window=1024, block_m=64, block_n=64)
    changes = [("window", 999), ("block_n", 128), ("kind", "window + sink"), ("kind", "document"), ("kind", "dilated"),
               ("kind", "sliding window"), ("window", 5000), ("predict_for", "NVIDIA B200")]  # fmt: skip
    for name, value in changes:
        start = time.perf_counter()
        explorer._controls[name].value = value
        assert time.perf_counter() - start < 0.2, (name, value)


def test_explorer_falls_back_to_a_picture_and_words():
    data = MaskExplorer(q_len=1024)._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"].startswith("MaskExplorer: sliding_window(512), 1,024 queries")


def test_explorer_measures_this_machine_and_shows_the_point():
    explorer = MaskExplorer(q_len=256, window=64, isolate=False, budget_s=0.2)
    explorer.measure()
    assert explorer.wait(120)
    table = explorer.frame()
    assert table["contender"].tolist() == ["sdpa", "blockskip"] and set(table["status"]) == {"ok"}
    assert set(table["source"]) == {"measured"}
    assert "blockskip" in explorer.bench.table.value and "×" in explorer.bench.table.value
    assert explorer.bench.figure.chart.sources.startswith("measured on ")
    assert explorer.bench.cancel_button.disabled and not explorer.bench.problem.value


def test_explorer_predicts_for_this_machine_from_its_measured_roofs():
    explorer = MaskExplorer(q_len=1024)
    explorer._controls["predict_for"].value = THIS_MACHINE
    assert explorer.wait(60)
    assert "from its measured roofs" in explorer._prediction.value


def test_measuring_says_what_takes_the_time_and_how_long_it_has_been(monkeypatch):
    clock, said = iter([0.0, 0.0, 0.4, 1.2, 1.3, 7.0, 7.5, 7.5, 8.6]), []
    monkeypatch.setattr(worker.time, "monotonic", lambda: next(clock))
    asked = worker.Stages(lambda: False, said.append)
    asked.begin("dense + mask")
    assert [asked() for _ in range(4)] == [False] * 4
    assert said == [f"dense + mask; {seconds} s so far" for seconds in (0, 1, 7)]
    asked.begin("blockskip")
    assert not asked() and said[3:] == ["blockskip; 0 s so far", "blockskip; 1 s so far"]


def test_too_large_a_problem_is_refused_with_advice():
    machine = measuring.this_machine(measuring.default_device(), "bfloat16")
    reason = measuring.refusal(Workload(1 << 20, mask=bs.sliding_window(64)), "sdpa", machine, "cpu")
    assert reason is not None and "GB" in reason.what and reason.advice.startswith("Shorten the prompt to about")
    assert measuring.refusal(Workload(512), "sdpa", machine, "cpu") is None


def test_errors_of_the_thread_reach_the_panel():
    explorer = MaskExplorer(q_len=256)
    explorer.bench.worker.submit(lambda cancelled: (_ for _ in ()).throw(RuntimeError("no such thing", "Do <this>.")))
    assert explorer.wait(10)
    told = explorer.bench.problem.value
    assert 'role="alert"' in told and "Do &lt;this&gt;." in told


def test_recording_says_plainly_why_it_cannot(monkeypatch):
    monkeypatch.setattr(record.importlib.util, "find_spec", lambda name: None)
    explorer = MaskExplorer(q_len=256)
    assert explorer.bench.record_button.disabled and "needs Triton" in explorer.bench.recorded.value
    explorer._controls["window"].value = 100
    assert "needs Triton" in explorer.bench.recorded.value


def test_while_it_measures_or_records_only_cancel_can_be_pressed(monkeypatch):
    explorer, began, go_on = MaskExplorer(q_len=256), threading.Event(), threading.Event()
    bench = explorer.bench

    def slow(settings, cancelled):
        began.set()
        go_on.wait(10)
        raise Cancelled

    monkeypatch.setattr(bench_module, "record", slow)
    explorer.record()
    assert began.wait(10)
    assert (bench.measure_button.disabled, bench.record_button.disabled, bench.cancel_button.disabled) == (1, 1, 0)
    go_on.set()
    assert explorer.wait(10)
    assert (bench.measure_button.disabled, bench.record_button.disabled, bench.cancel_button.disabled) == (0, 0, 1)
    assert not bench.problem.value


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU runs the kernel itself")
@pytest.mark.usefixtures("warm_python")
def test_without_a_gpu_a_child_process_records_the_kernel(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    explorer = MaskExplorer(q_len=192, window=40, block_m=32, block_n=16)
    planned = np.asarray(explorer.tilemap.state)
    explorer.record()
    assert explorer.wait(120) and not explorer.bench.problem.value
    told = explorer.bench.recorded.value
    assert "no tile differs from the plan" in told and "not how fast" in told
    visits = np.frombuffer(explorer.canvas.visits, np.uint8).reshape(planned.shape)
    assert np.array_equal(visits != 0, planned != 0)
    explorer._controls["kind"].value = "none"
    explorer._controls["q_len"].value = 4096
    explorer.record()
    assert explorer.wait(60)
    assert (
        "too many for Triton" in explorer.bench.problem.value and "Shorten the prompt" in explorer.bench.problem.value
    )


# the worker


def test_a_new_request_replaces_the_old_one():
    seen, started, errors = [], threading.Event(), []
    worker = BackgroundWorker(errors.append, lambda: seen.append("ended"))

    def first(cancelled):
        started.set()
        while not cancelled():
            time.sleep(0.005)
        seen.append("first stopped")

    worker.submit(first)
    assert started.wait(5) and worker.busy
    worker.submit(lambda cancelled: seen.append("second"))
    assert worker.wait(5)
    assert seen == ["first stopped", "second", "ended"] and not errors


def test_cancel_reaches_a_job_that_waits_for_its_turn():
    ran = []
    release = threading.Event()
    holder, waiter = (BackgroundWorker(pytest.fail, lambda: None) for _ in range(2))
    holder.submit(lambda cancelled: release.wait(5))
    time.sleep(0.05)
    waiter.submit(lambda cancelled: ran.append(1))
    waiter.cancel()
    release.set()
    assert holder.wait(5) and waiter.wait(5)
    assert not ran
