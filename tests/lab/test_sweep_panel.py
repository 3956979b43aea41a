"""The sweep panel without a browser: all operations, what it reads, measures, keeps and lays over."""

from __future__ import annotations

import html
import re
import time
from dataclasses import replace
from pathlib import Path

import ipywidgets as w
import pandas as pd
import pytest
import skiplab
from skiplab.contenders import contenders
from skiplab.figures import attention, static, theme
from skiplab.model import ModelSpec
from skiplab.paths import data_path
from skiplab.store import operation_in, read_run
from skiplab.sweep import DecodeSweep, LinearSweep, ModelSweep, Sweep, run_sweep
from skiplab.widgets import SweepPanel
from skiplab.widgets.sweep import explorer
from skiplab.widgets.sweep.forms import FORMS
from skiplab.widgets.sweep.linear import layers
from skiplab.widgets.sweep.settings import numbers, one, slots, windows
from skiplab.widgets.sweep.stored import stored
from skiplab.workload import LINEARS, model

QUICK = {
    "attention": {"contenders": ["sdpa", "blockskip"], "q_len": [64, 128], "window": [32]},
    "decode": {"contenders": ["sdpa", "blockskip"], "kv_len": [64, 128], "window": [32]},
    "linear": {"contenders": ["blockskip", "bf16"], "shape": [(64, 256), (128, 256)], "rows": [1]},
    "model": {"contenders": ["blockskip", "sdpa"], "prompt": [16], "depth": [8], "rows": [1]},
}
"""Four points of each operation."""
VIEWS = {
    "attention": ("tokens/s, by prompt length", "tokens/s, by prompt length"),
    "decode": ("time, by cache length", "bandwidth, by cache length"),
    "linear": ("published tokens/s of a whole model", "time, by layer"),
    "model": ("prompt tokens/s, by prompt length", "tokens/s of steps, by depth"),
}
"""Figures that show the first published table, and what is predicted."""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """A model of a thousandth of the laptop's weights."""
    whole = ModelSpec.named("laptop").cut(1)
    tiny = replace(whole, hidden=128, intermediate=128, vocabulary=256)
    monkeypatch.setattr(model, "spec_of", lambda name, config: tiny)


def test_fields_are_read_and_what_is_wrong_is_named(tmp_path):
    shown = SweepPanel(["sdpa", "blockskip"], q_len=[64], window=[16, None], directory=tmp_path)
    sweep = shown.sweep()
    assert isinstance(sweep, Sweep)
    assert (sweep.contenders, sweep.q_len, sweep.window) == (("blockskip", "sdpa"), (64,), (16, None))
    shown.controls.fields["q_len"].value = "64, many"
    shown.start()
    assert "prompt lengths: got 'many'" in html.unescape(shown._problem.value)


def test_words_of_the_fields():
    assert windows("windows", "256 causal,512 all") == (256, None, 512)
    assert slots("buffer", " ") is None and slots("buffer", "4096") == 4096
    assert layers("layers", "query; 64x256;128 × 256; query") == (LINEARS["query"], (64, 256), (128, 256))
    for read, text, message in (
        (numbers, " ", "got nothing"), (one, "4, 8", "got '4, 8'; allowed is one whole number$"),
        (windows, "", "or causal"), (slots, "1, 2", "one whole number"),
        (layers, "64", "got '64'; allowed are outputs x inputs, or laptop"), (layers, "64x0", "got '64x0'"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            read("field", text)


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.operation)
def test_first_values_of_a_form_come_back_from_its_fields(form):
    for field in form.fields:
        read = field.read(field.label, field.show(field.start))
        assert field.show(read) == field.show(field.start)
        assert not field.options or field.start in field.options


def test_what_is_not_known_is_refused(tmp_path):
    with pytest.raises(ValueError, match="contenders: no 'mine'"):
        SweepPanel(["mine"], directory=tmp_path)
    with pytest.raises(ValueError, match="operation: got 'conv'; allowed are attention, decode, linear"):
        SweepPanel(operation="conv", directory=tmp_path)
    with pytest.raises(TypeError, match="q_len: the panel has no such setting for decode; there are kv_len, window"):
        SweepPanel(operation="decode", q_len=[64], directory=tmp_path)


def test_operation_changes_fields_contenders_figures_and_what_is_stored(tmp_path):
    shown = SweepPanel(directory=tmp_path)
    shown._stored.value = [next(iter(shown.form.published))]
    for operation, made in (
        ("decode", DecodeSweep), ("linear", LinearSweep), ("model", ModelSweep), ("attention", Sweep),
    ):  # fmt: skip
        shown._operation.value = operation
        assert isinstance(shown.sweep(), made)
        assert set(shown.controls.boxes) == set(contenders(operation)) - set(shown.form.without)
        assert shown.controls.boxes["blockskip"].description == "blockskip"
        assert tuple(shown._view.options) == tuple(shown.form.views)
        assert shown._stored.value == () and not shown._problem.value
        assert shown.figure.chart.note
    assert shown.controls.fields["q_len"].value == "512, 1024, 2048, 4096"


@pytest.mark.parametrize("operation", FORMS)
def test_panel_sweeps_resumes_and_saves(tmp_path, operation):
    shown = SweepPanel(
        operation=operation, budget_s=0.1, directory=tmp_path / "runs", isolate=False, **QUICK[operation]
    )
    shown.start()
    assert shown.wait(120)
    assert not shown._problem.value
    assert set(shown.frame()["status"]) == {"ok"} and set(shown.frame()["source"]) == {"measured"}
    assert len(shown.frame()) == 4 and shown._bar.value == 4
    (path,) = (tmp_path / "runs").glob("*.jsonl")
    assert len(read_run(path).rows) == 4 and operation_in(path) == operation
    kept = path.read_bytes()
    shown.start()  # a finished run is measured anew, beside it
    assert shown._run_button.disabled and shown.wait(60) and not shown._run_button.disabled
    again = path.with_stem(f"{path.stem}-2")
    assert f"{path.name} is finished: measured again, into {again.name}" in shown._status.value
    assert path.read_bytes() == kept and len(read_run(again).rows) == 4 == len(shown.frame())
    for view, draw in shown.form.views.items():
        shown._view.value = view
        assert shown.figure.chart.title == draw(shown.frame()).title
    shown._folder.value = str(tmp_path / "saved")
    assert all(written.stat().st_size for written in shown.save())
    (name,) = (name for name, choice in shown._choices() if choice == str(path))
    assert name.startswith(f"measured {path.stem[:10]}: panel-")
    shown._operation.value = next(name for name in FORMS if name != operation)
    assert str(path) not in dict(shown._choices()).values()  # a run of another operation


def test_a_model_has_steps_bits_and_its_time_by_part(tmp_path):
    shown = SweepPanel(
        ["blockskip"], operation="model", prompt=[16], depth=[8], rows=[2], new=3, bits=8, budget_s=0.1,
        directory=tmp_path, isolate=False,
    )  # fmt: skip
    sweep = shown.sweep()
    assert isinstance(sweep, ModelSweep) and (sweep.new, sweep.bits, sweep.rows) == (3, 8, (2,))
    shown.start()
    assert shown.wait(120) and not shown._problem.value
    shown._stored.value = [f"{explorer.PREDICTED}NVIDIA H200"]
    shown._view.value = "where the time of a call goes"
    chart = shown.figure.chart
    assert [bars.name for bars in chart.bars] == [
        "blockskip, measured", "int8 at the roofs, predicted", "bfloat16 at the roofs, predicted"
    ]  # fmt: skip
    assert {"qkv", "gate+up", "pointwise"} <= set(chart.groups) and "predicted for NVIDIA H200" in chart.sources
    shown.controls.fields["bits"].value = "5"
    shown.start()
    assert "bits: given 5" in html.unescape(shown._problem.value)


@pytest.mark.parametrize("operation", FORMS)
def test_published_and_predicted_lie_over_each_other_and_follow_the_fields(tmp_path, operation):
    shown = SweepPanel(operation=operation, directory=tmp_path)
    named = next(iter(shown.form.published))
    shown._stored.value = [named, f"{explorer.PREDICTED}NVIDIA H200", f"{explorer.PREDICTED}NVIDIA A100 80GB SXM"]
    table = shown.frame()
    assert set(table["source"]) == {"published", "predicted"}
    assert {"NVIDIA H200", "NVIDIA A100 80GB SXM"} <= set(table["device"])
    published, predicted = VIEWS[operation]
    shown._view.value = published
    assert "published by ExecuTorch" in shown.figure.chart.sources
    shown._view.value = predicted
    assert "predicted for NVIDIA H200" in shown.figure.chart.sources
    field = shown.controls.fields[
        {"attention": "q_len", "decode": "kv_len", "linear": "rows", "model": "prompt"}[operation]
    ]
    field.value = "2"
    assert len(shown.frame()) < len(table) or operation == "linear"
    assert static.text(shown.figure.chart) == static.text(shown.form.views[shown._view.value](shown.frame()))
    field.value = "many"
    assert "got 'many'" in html.unescape(shown._problem.value)
    field.value = "4"
    assert not shown._problem.value


def test_runs_of_no_known_operation_are_offered_and_told_of(tmp_path):
    broken = tmp_path / "broken.jsonl"
    broken.write_text("no json\n")
    shown = SweepPanel(directory=tmp_path)
    assert "measured: broken" in dict(shown._choices())
    shown._stored.value = [str(broken)]
    assert "broken.jsonl, line 1" in shown._problem.value


def test_an_empty_figure_says_what_to_do_and_a_stored_run_without_a_point_in_it_why(tmp_path):
    shown = SweepPanel(
        directory=tmp_path, **{**QUICK["attention"], "contenders": ["sdpa"]}, budget_s=0.05, isolate=False
    )
    assert "press Run to measure" in shown.figure.chart.note and not shown._left_out.value
    shown.start()
    assert shown.wait(60)
    assert "no checked point has a partner" in shown.figure.chart.note
    other = SweepPanel(directory=tmp_path)
    (path,) = tmp_path.glob("*.jsonl")
    other._stored.value = [str(path), next(iter(other.form.published))]
    assert html.unescape(other._left_out.value).count("nothing to show") == 1
    assert f"{path.stem}: nothing to show: no checked point has a partner" in html.unescape(other._left_out.value)
    other._view.value = "tokens/s, by prompt length"
    assert not other._left_out.value


def test_runs_that_were_cancelled_before_a_point_are_not_listed(tmp_path):
    sweep = Sweep(("sdpa",), (64,), (32,), budget_s=0.05)
    run_sweep(sweep, tmp_path / "empty.jsonl", isolate=False, progress=False, cancelled=lambda: True)
    assert (tmp_path / "empty.jsonl").exists()
    assert not [name for name, _ in SweepPanel(directory=tmp_path)._choices() if "empty" in name]


def test_lines_of_each_source_look_different_and_none_like_ours(tmp_path):
    shown = SweepPanel(directory=tmp_path, **QUICK["attention"], budget_s=0.05, isolate=False)
    shown.start()
    assert shown.wait(60)
    table = shown.frame()
    parts = [table, table.assign(source="recorded", device="B"), table.assign(source="published", device="C")]
    for draw in (attention.throughput, attention.attention_time):
        lines = [line for line in draw(pd.concat(parts, ignore_index=True)).lines if "roofs" not in line.name]
        looks = {(line.style.colour, line.style.marker, line.dash) for line in lines}
        assert len(looks) == len(lines) == 6
        ours = [line for line in lines if line.name.startswith("blockskip")]
        dashes = {line.name.rpartition(", ")[2].partition(":")[0]: line.dash for line in ours}
        assert len(set(dashes.values())) == 3
        assert [line.style.colour == theme.BLUE for line in ours] == ["published" not in line.name for line in ours]


def test_stored_runs_have_names_of_their_own_that_begin_with_what_tells_them_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs", "elsewhere"):
        for name in ("2026-11-27-amd-epyc-2-threads-mine", "mine"):
            run_sweep(Sweep(("sdpa",), (64,), (32,), budget_s=0.05), f"{folder}/{name}.jsonl", isolate=False)
    runs, elsewhere = tmp_path / "runs", tmp_path / "elsewhere"
    assert len(stored([Path("runs"), runs], "attention")) == 2  # one folder under two names
    assert not stored([runs], "decode")
    both = dict(stored([runs, elsewhere], "attention"))
    assert len(both) == 4 and all(str(Path(path).parent) in name for name, path in both.items())
    shipped = dict(stored([data_path("runs")], "decode"))
    assert all(re.match(r"recorded 2026-1[12]-\d\d: decode", name) for name in shipped)  # a narrow list cuts no date
    assert len({name[:45] for name in shipped}) == len(shipped)


def test_what_is_measured_is_said_from_the_first_point_on(tmp_path):
    shown = SweepPanel(directory=tmp_path, **QUICK["attention"], budget_s=0.05, isolate=False)
    notes, told = [], []
    draw = shown.figure.draw
    shown.figure.draw = lambda chart: (notes.append(chart.note), draw(chart))
    shown._status.observe(lambda change: told.append(html.unescape(change["new"])), "value")
    assert shown.figure.chart.note == explorer.NOTHING
    shown.start()
    assert shown.wait(60)
    assert "4 points on" in notes[0] and "measuring this machine's roofs first" in notes[0]
    assert "1 of 4: blockskip" in notes[1] and "checking against float64, then timing for 0.1 s" in notes[1]
    assert explorer.NOTHING not in notes
    assert any("4 of 4" in text and "s so far" in text for text in told)
    shown._operation.value = "decode"
    assert shown.figure.chart.note == explorer.NOTHING


def test_an_empty_figure_has_no_reference_line(tmp_path):
    shown = SweepPanel(directory=tmp_path)
    assert shown.figure.chart.level == 1.0 and not shown.figure._view.layout.shapes
    (axes,) = static.draw(shown.figure.chart).axes
    assert not axes.lines
    shown._stored.value = [next(iter(shown.form.published))]
    assert len(shown.figure._view.layout.shapes) == 1 and static.draw(shown.figure.chart).axes[0].lines


def test_panel_cancels_between_points(tmp_path):
    shown = SweepPanel(
        ["sdpa", "blockskip"], q_len=[64, 128, 256, 512], window=[32], budget_s=0.3, directory=tmp_path, isolate=False
    )
    shown.start()
    time.sleep(0.3)
    shown.cancel()
    assert shown.wait(60)
    assert "goes on where it stopped" in shown._status.value
    assert len(shown.frame()) < 8


def test_panel_falls_back_to_a_picture_and_words(tmp_path):
    data = SweepPanel(operation="decode", directory=tmp_path)._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert data["image/png"].startswith(b"\x89PNG") and "One decode step" in data["text/plain"]


@pytest.fixture
def asked(monkeypatch):
    """What the panel asks of `run_sweep`; nothing is measured."""
    seen = []

    def instead(sweep, **how):
        seen.append((sweep.device, how["devices"], how["cluster"], how["gpu"]))
        raise ConnectionError("cluster: nobody answers")

    monkeypatch.setattr(explorer, "run_sweep", instead)
    return seen


def test_the_panel_measures_on_a_cluster_that_its_controls_name(tmp_path, asked):
    shown = SweepPanel(directory=tmp_path, **QUICK["attention"])
    lacking = next(box for box in shown.controls.boxes.values() if box.disabled)
    assert shown._where._more.layout.display == "none"
    shown._where.choice.value = "cluster cuda"
    assert shown._where._more.layout.display == "" and not lacking.disabled
    assert shown._run_button.tooltip == "Measure on the GPUs of a Ray cluster, auto"
    shown._where.address.value, shown._where.gpu.value = " ray://host:10001 ", "H200"
    shown.start()
    assert shown.wait(30) and "nobody answers" in shown._problem.value
    shown._where.choice.value = "cluster cpu"
    lacking.value = True
    shown.start()
    assert shown.wait(30)
    shown._where.choice.value = "here"
    assert lacking.disabled and not lacking.value
    shown.start()
    assert shown.wait(30)
    assert asked == [
        ("cuda", (), "ray://host:10001", "H200"), ("cpu", (), "ray://host:10001", "H200"), ("cpu", (), None, None)
    ]  # fmt: skip


def test_the_panel_begins_where_it_is_told_to(tmp_path, asked):
    for named, found in (
        ({"devices": ("cpu", "cpu")}, ("cpu", ("cpu", "cpu"), None, None)),
        ({"cluster": "auto", "gpu": "H200"}, ("cuda", (), "auto", "H200")),
    ):
        shown = SweepPanel(directory=tmp_path, **named, **QUICK["attention"])
        shown.start()
        assert shown.wait(30) and asked.pop() == found


@pytest.mark.usefixtures("warm_children")
def test_several_devices_show_what_each_does(tmp_path):
    shown = SweepPanel(devices=("cpu", "cpu"), budget_s=0.05, directory=tmp_path, **QUICK["attention"])
    shown.start()
    assert shown.wait(200) and not shown._problem.value
    assert len(shown.frame()) == 4 and set(shown.frame()["status"]) == {"ok"}
    assert re.search(r"cpu: \d; cpu #2: \d", shown._by_device.value)


def test_a_kernel_whose_name_has_blanks_has_a_box(own_registry, tmp_path):
    """A class of HTML holds none: the browser would refuse the whole panel."""
    skiplab.kernel("attention", name="mine on CPU")(lambda workload, inputs: None)
    boxes = [one for one in walk(SweepPanel(directory=tmp_path)) if isinstance(one, w.Checkbox)]
    classes = [name for box in boxes for name in box._dom_classes]
    assert "skiplab-contender-mine-on-cpu" in classes and not any(" " in name for name in classes)


def walk(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from walk(child)
