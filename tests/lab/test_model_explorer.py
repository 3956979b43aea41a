"""The explorer of whole models without a browser: bars, words, what stands beside, controls, fallbacks."""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace

import pytest
from model_runs import h200_run
from skiplab.contenders.ladder import LADDER
from skiplab.figures import nibbles, parts
from skiplab.store import Run, RunWriter
from skiplab.throughput import machines
from skiplab.widgets.model import captions
from skiplab.widgets.model.beside import Beside
from skiplab.widgets.model.explorer import ModelExplorer
from skiplab.widgets.model.settings import ModelSettings

LAPTOP = "laptop"
STATES = [
    ModelSettings(),
    ModelSettings(drafts=3, acceptance=0.5, window=4096, prompt=16_384),
    ModelSettings(model="llama3-8b", prompt=1, weights="bfloat16"),
    ModelSettings(model=LAPTOP, prompt=131_072, weights="int8", drafts=15, acceptance=1.0),
    ModelSettings(model="mistral-7b", window=1, machine="NVIDIA L40S (data sheet)"),
]


# bars and words


def picture_of(s: ModelSettings, runs=()) -> nibbles.Picture:
    return parts.bars(captions.calls(s, Beside.of(runs)))


@pytest.mark.parametrize("s", STATES, ids=captions.plain)
def test_bars_stay_inside_and_are_as_long_as_their_times(s):
    picture = picture_of(s)
    bars = [cell for cell in picture.cells if cell.lanes]
    expected = [least for call in (s.prefill, s.step) for least in call.parts.values()]
    assert len(bars) == len(expected)
    for cell in picture.cells:
        assert cell.x >= 0 and cell.x + cell.width <= parts.LEFT + parts.ACROSS + 1
        assert cell.y >= 0 and cell.y + cell.height <= picture.height
    longest = max(least.seconds for least in s.prefill.parts.values())
    qkv = next(cell for cell in bars if cell.hint.startswith("qkv"))
    assert qkv.width == pytest.approx(parts.ACROSS * s.prefill.parts["qkv"].seconds / longest)
    root = ElementTree.fromstring(nibbles.svg(picture, captions.plain(s)))
    assert root.attrib["aria-label"] == captions.plain(s)


def test_a_recorded_call_stands_beside_its_prediction_on_that_machine_alone():
    run = h200_run()
    picture = picture_of(ModelSettings(drafts=3), [run])
    grey = [cell.hint for cell in picture.cells if cell.fill == parts.BESIDE and cell.lanes]
    assert "gaps: 2.00 ms, recorded on NVIDIA H200" in grey and len(grey) == 10
    labels = [label.text for label in picture.labels]
    assert "recorded on NVIDIA H200, blockskip: 100 ms, 20,480 tokens/s, flags: throttled" in labels
    assert "recorded on NVIDIA H200, blockskip: 100 ms, 25 tokens/s" in labels  # 2.53 of 4 are kept, as above it
    for other in (
        ModelSettings(prompt=2047), ModelSettings(window=2048), ModelSettings(weights="int8"),
        ModelSettings(model=LAPTOP), ModelSettings(machine="NVIDIA H100 80GB HBM3 (recorded)"),
        ModelSettings(weights="bfloat16"),
    ):  # fmt: skip
        assert not [cell for cell in picture_of(other, [run]).cells if cell.fill == parts.BESIDE], other
    assert not [cell for cell in picture_of(ModelSettings(drafts=1)).cells if cell.fill == parts.BESIDE]


def words_of(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", markup)).split())


def test_words_say_rates_memory_and_machine():
    text = captions.plain(ModelSettings(drafts=3))
    assert text.startswith("gemma4-31b, int4, groups of 32, window 1,024. A prompt of 2,048 tokens: 165 ms, 12,4")
    assert "A step of 4 tokens behind it, 3 of them drafts, 2.53 kept: 4.7" in text
    assert text.endswith("Weights 22.0 GB, cache 1.19 GB; predicted for NVIDIA H200")
    said = words_of(captions.prediction(ModelSettings(), Beside.of([h200_run()])))
    assert "Runs on it took this model apart at 2,048 tokens" in said and "a floor, not a measurement" in said
    assert "No run of this model on it is stored" in words_of(captions.prediction(ModelSettings(), Beside.of([])))


def test_table_of_windows_has_the_models_own_the_chosen_one_and_all_keys():
    s = ModelSettings(prompt=8192, window=3000)
    assert [one.window for one in s.windows()] == [256, 512, 1024, 2048, 3000, 4096, 8193]
    text = captions.windows(s)
    assert text.count('aria-current="true"') == 1 and "▸ 3,000" in text
    said = words_of(text)
    assert "1,024 (the model's)" in said and "8,193 (all keys)" in said
    assert [one.window for one in ModelSettings(prompt=1).windows()] == [1024]
    rates = [one.prefill.tokens_per_s for one in s.windows()]
    assert rates == sorted(rates, reverse=True)
    assert [one.memory.cache for one in s.windows()] == sorted(one.memory.cache for one in s.windows())
    assert "llama3-8b has no sliding layers" in captions.windows(ModelSettings(model="llama3-8b"))


def test_table_of_others_names_where_each_rate_is_from():
    said = words_of(captions.others(ModelSettings(drafts=3, acceptance=0.5), Beside.of([h200_run()])))
    assert "blockskip 20,480 at 2,048* 18.8 at 2,048 recorded on NVIDIA H200" in said  # 1.875 of 4 tokens in 100 ms
    assert "ExecuTorch 2,438 at 2,048 47.9 at 2,048, no drafts published by ExecuTorch pull request 20571" in said
    assert "llama.cpp" in said and "steps of drafts at 50 % accepted" in said
    assert "No run of qwen3-32b with int4 weights is stored" in captions.others(
        ModelSettings(model="qwen3-32b"), Beside.of([])
    )


def test_rungs_of_the_ladder_do_not_stand_beside():
    run = h200_run()
    for contender, stands in (("blockskip", True), (LADDER[0], False)):
        rows = tuple({**row, "contender": contender, "label": "blockskip, marked"} for row in run.rows)
        said = captions.others(ModelSettings(), Beside.of([replace(run, rows=rows)]))
        assert ("blockskip, marked" in said) == stands


# the explorer


def test_every_control_has_a_label():
    for name, control in ModelExplorer([])._controls.items():
        assert getattr(control, "label", "") or control.description, name


def test_controls_move_picture_words_and_code():
    explorer = ModelExplorer([])
    explorer.set(prompt=4096)
    changes = [
        ("prompt", 16_384), ("own", False), ("window", 4096), ("drafts", 4), ("acceptance", 40),
        ("weights", "bfloat16"), ("machine", "NVIDIA A100 80GB SXM (data sheet)"), ("model", "qwen3-32b"),
    ]  # fmt: skip
    for name, value in changes:
        before = explorer._counts.value, explorer.code()
        explorer._controls[name].value = value
        if name != "own":
            assert getattr(explorer.settings, "percent" if name == "acceptance" else name) == value
            assert (explorer._counts.value, explorer.code()) != before, name
            assert explorer.view.label == captions.plain(explorer.settings)
    assert explorer.settings.window is None  # qwen3-32b has none, and its controls say so
    assert explorer._controls["window"].disabled and explorer._controls["own"].disabled


def test_another_model_comes_with_its_own_window():
    explorer = ModelExplorer([], window=3000)
    assert not explorer._controls["own"].value and not explorer._controls["window"].disabled
    explorer._controls["model"].value = "gemma3-27b"
    assert explorer.settings.window is None and explorer._controls["own"].value
    assert explorer._controls["window"].value == 1024 == explorer.settings.own_window
    assert explorer._controls["acceptance"].disabled
    explorer._controls["drafts"].value = 2
    assert not explorer._controls["acceptance"].disabled


def test_code_makes_the_same_state():
    explorer = ModelExplorer([], model=LAPTOP, prompt=777, window=100, drafts=2, weights="int8", acceptance=0.25)
    names: dict = {}
    exec(explorer.code(), names)
    assert names["explorer"].settings == explorer.settings
    assert names["prompt"] == explorer.settings.reads and names["step"] == explorer.settings.writes
    exec(ModelExplorer([], weights="bfloat16").code(), names)
    assert names["explorer"].settings.weights == "bfloat16" and names["on"] == machines()["NVIDIA H200 (recorded)"]


def test_a_saved_notebook_has_a_picture_and_words():
    data = ModelExplorer([h200_run()])._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"].startswith("ModelExplorer: gemma4-31b, int4, groups of 32, window 1,024. A prompt of")
    assert "application/vnd.jupyter.widget-view+json" in data


def test_errors_name_the_setting():
    with pytest.raises(TypeError, match="promt: ModelExplorer has no such setting; there are model, prompt"):
        ModelExplorer([], promt=4)
    for wrong, words in (
        ({"model": "gpt"}, "model: given 'gpt'; allowed are gemma3-27b"),
        ({"prompt": 0}, "prompt: given 0; must be from 1 to 131072"),
        ({"drafts": 16}, "drafts: given 16; must be from 0 to 15"),
        ({"acceptance": 1.5}, "acceptance: got 1.5; allowed is from 0 to 1"),
        ({"weights": "int2"}, "weights: given 'int2'; allowed are int4"),
        ({"machine": "mine"}, "machine: given 'mine'; allowed are"),
        ({"model": "llama3-8b", "window": 64}, "window: got 64; llama3-8b has no layer with a window"),
        ({"window": 0}, "window: given 0; must be from 1 to 131072"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            ModelExplorer([], **wrong)


def test_runs_of_the_working_folder_stand_beside_and_a_broken_one_is_told_of(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs"
    folder.mkdir()
    run = h200_run()
    with RunWriter(folder / "mine.jsonl", dict(run.header)) as writer:
        for row in run.rows:
            writer.append(row)
    (folder / "broken.jsonl").write_text('{"operation": "model", "schema": 99}\n')
    (folder / "other.jsonl").write_text('{"operation": "decode", "schema": 99}\n')  # not looked at
    explorer = ModelExplorer()
    assert "Grey: measured on NVIDIA H200." in explorer.view.legend
    assert "broken.jsonl" in explorer._problem.value and "other.jsonl" not in explorer._problem.value


def test_text_of_a_strangers_run_is_shown_as_text():
    tag, run = "<b class='hostile'>bold</b><script>1</script>", h200_run()
    device = {"name": tag, "kind": "cuda"}
    marked = [{**row, "label": tag, "flags": [tag]} for row in run.rows]
    elsewhere = Run({**run.header, "device": device}, tuple({**row, "device": tag} for row in marked))
    explorer = ModelExplorer([replace(run, rows=tuple(marked)), elsewhere])
    for shown in (explorer.view.svg, explorer._others.value):
        assert "hostile" in shown and "<b class" not in shown and "<script" not in shown
