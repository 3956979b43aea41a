"""A whole model at the roofs, part by part, and its explorer without a browser: arithmetic, bars, words, fallbacks."""

from __future__ import annotations

import html
import itertools
import json
import re
import time
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import blockskip as bs
import pandas as pd
import pytest
import torch
from model_runs import h200_run
from skiplab.figures import model as charts
from skiplab.figures import nibbles, parts
from skiplab.figures.frames import predictions
from skiplab.machine import Machine
from skiplab.machine.roofline import predict, predicted_parts
from skiplab.measure.model import AWKWARD, NAMES, TINY
from skiplab.model import Decoder
from skiplab.store import RunWriter
from skiplab.throughput import call_time, kept_tokens, machines, memory
from skiplab.widgets.model import captions
from skiplab.widgets.model.beside import Beside
from skiplab.widgets.model.explorer import ModelExplorer
from skiplab.widgets.model.settings import ModelSettings
from skiplab.workload import DecodeWorkload, LinearWorkload, ModelWorkload, Workload
from skiplab.workload.model import POINTWISE

COPIED = Machine("H200", "cuda", bandwidth_gbps=4300, tflops=790)
GEMMA, LAPTOP = "gemma4-31b", "laptop"
STATES = [
    ModelSettings(),
    ModelSettings(drafts=3, acceptance=0.5, window=4096, prompt=16_384),
    ModelSettings(model="llama3-8b", prompt=1, weights="bfloat16"),
    ModelSettings(model=LAPTOP, prompt=131_072, weights="int8", drafts=15, acceptance=1.0),
    ModelSettings(model="mistral-7b", window=1, machine="NVIDIA L40S (data sheet)"),
]


# the arithmetic


@pytest.mark.parametrize(
    ("length", "sliding_ms", "full_ms", "products_ms"),
    [(256, 0.146, 0.044, 19.0), (1024, 1.09, 0.44, 75.9), (2048, 3.26, 1.74, 151.9), (8192, 16.3, 27.8, 607.4)],
)
def test_a_prompts_parts_are_the_floors_that_were_computed_by_hand(length, sliding_ms, full_ms, products_ms):
    found = predicted_parts(ModelWorkload("prefill", length, model=GEMMA), COPIED)
    took = {name: least.seconds * 1e3 for name, least in found.items()}
    assert took["attention sliding"] == pytest.approx(sliding_ms, rel=0.01)
    assert took["attention full"] == pytest.approx(full_ms, rel=0.02)
    assert sum(took[name] for name in ("qkv", "o", "gate+up", "down")) == pytest.approx(products_ms, rel=0.002)


@pytest.mark.parametrize(("depth", "rate"), [(2048, 213), (32_768, 188), (131_072, 139)])
def test_a_steps_rate_is_the_floor_that_was_computed_by_hand(depth, rate):
    step = ModelWorkload("decode", 1, depth, model=GEMMA)
    assert call_time(step, COPIED).tokens_per_s == pytest.approx(rate, rel=0.007)
    assert predict(step, COPIED).seconds == pytest.approx(call_time(step, COPIED).seconds)


def test_parts_are_the_works_of_the_operations_they_name():
    """Attention's as of its own workloads, products' as of linear layers; together the FLOPs of the whole."""
    prompt, step = ModelWorkload("prefill", 700, model=LAPTOP), ModelWorkload("decode", 3, 900, model=LAPTOP)
    heads = {"attention sliding": (512, 4, 128, 5), "attention full": (None, 2, 256, 1)}
    for name, (window, kv_heads, head_dim, count) in heads.items():
        shape = {"q_heads": 8, "kv_heads": kv_heads, "head_dim": head_dim}
        mask = bs.causal() if window is None else bs.sliding_window(window)
        whole = Workload(700, mask=mask, **shape).work("bounds")
        assert prompt.parts()[name].useful_flops == count * whole.useful_flops
        assert prompt.parts()[name].bytes == count * whole.bytes
        one = DecodeWorkload(903, window, q_len=3, **shape).work()
        assert step.parts()[name].useful_flops == count * one.useful_flops
        assert step.parts()[name].bytes == count * one.bytes
    for call in (prompt, step):
        down = LinearWorkload(768, 3072, rows=call.q_len).work()
        assert call.parts()["down"].bytes == 6 * down.bytes
        assert call.parts()["down"].useful_flops == 6 * down.useful_flops
        assert sum(part.useful_flops for part in call.parts().values()) == call.work().useful_flops
        assert sum(part.bytes for part in call.parts().values()) > call.work().bytes
        assert call.parts().keys() == NAMES | {POINTWISE}
        assert call.parts(quantised=False)["down"].bytes - call.parts()["down"].bytes == 6 * 768 * 3072 * (16 - 5) / 8


def test_what_lies_between_is_each_tensor_once():
    """Counted tensor by tensor for one sliding layer: hidden 768, MLP 3,072, 8/4 heads of 128."""
    call = ModelWorkload("prefill", 1, model="one", config=json.dumps({
        "model_type": "mistral", "vocab_size": 64, "hidden_size": 768, "intermediate_size": 3072, "sliding_window": 8,
        "num_hidden_layers": 1, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 128,
    }))  # fmt: skip
    queries, keys, hidden, mlp = 1024, 512, 768, 3072
    first = hidden + hidden  # the embedding's row, its norm
    heads = (queries + 2 * keys) + (queries + 2 * keys)
    after_attention = after_mlp = (hidden + hidden) + (hidden + hidden)  # branch, sum -> sum, norm
    gelu = 2 * mlp + mlp
    assert call.parts()[POINTWISE].bytes == 2 * (first + heads + after_attention + gelu + after_mlp)
    assert call.parts()[POINTWISE].useful_flops == 0


@pytest.mark.parametrize("drafts", [0, 1, 4])
@pytest.mark.parametrize("acceptance", [0.0, 0.6, 1.0])
def test_kept_tokens_are_the_mean_over_every_pattern_of_right_and_wrong_drafts(drafts, acceptance):
    mean = 0.0
    for pattern in itertools.product((True, False), repeat=drafts):
        chance = 1.0
        for right in pattern:
            chance *= acceptance if right else 1 - acceptance
        mean += chance * (1 + next((i for i, right in enumerate(pattern) if not right), drafts))
    assert kept_tokens(drafts, acceptance) == pytest.approx(mean)
    step = ModelWorkload("decode", 1 + drafts, 64, model=LAPTOP)
    assert call_time(step, COPIED, acceptance=acceptance).tokens == pytest.approx(mean)


@pytest.mark.parametrize("config", [*AWKWARD.values(), {"model_type": "gemma3_text", "sliding_window": 8}], ids=str)
@pytest.mark.parametrize("bits", [4, 8, None])
def test_memory_is_what_a_decoder_holds(config, bits):
    text = json.dumps({**TINY, **config})
    call = ModelWorkload("prefill", 20, model="tiny", bits=bits or 4, config=text)
    decoder = Decoder.random(call.whole_spec, bits=bits)
    decoder.prefill(torch.zeros(1, 20, dtype=torch.int64))
    assert decoder.cache is not None
    found = memory(call, 20, quantised=bits is not None)
    assert (found.weights, found.cache) == (decoder.weights.nbytes, decoder.cache.nbytes)


def test_another_window_is_another_model():
    step = ModelWorkload("decode", 1, 4096, model=GEMMA)
    wide = step.with_window(2048)
    assert {layer.window for layer in wide.whole_spec.layers} == {2048, None}
    assert replace(wide.whole_spec, name="", layers=()) == replace(step.whole_spec, name="", layers=())
    assert wide.key() != step.key() and wide.model == "gemma4-31b, window 2,048"
    assert wide.with_window(1024).whole_spec.layers == step.whole_spec.layers
    sliding = [call.parts()["attention sliding"].bytes for call in (step, wide)]
    assert sliding[1] / sliding[0] == pytest.approx(2, rel=0.01)
    with pytest.raises(ValueError, match="window: got 64; llama3-8b has no layer with a window"):
        ModelWorkload("prefill", 8, model="llama3-8b").with_window(64)
    with pytest.raises(ValueError, match="window: given 0"):
        step.with_window(0)


def test_predicted_frames_have_parts_of_int4_and_of_floats():
    calls = [ModelWorkload("prefill", 512, model=GEMMA), ModelWorkload("decode", 4, 512, model=GEMMA)]
    table = predictions(calls, COPIED)
    assert list(table["label"]) == ["int4 at the roofs", "bfloat16 at the roofs"] * 2
    for row, call in zip(table.to_dict("records")[::2], calls, strict=True):
        assert row["parts"] == {
            name: round(least.seconds * 1e9) for name, least in predicted_parts(call, COPIED).items()
        }
        assert row["tokens_per_s"] == pytest.approx(call.q_len / predict(call, COPIED).seconds)
    steps: Any = table[table["phase"] == "decode"]
    assert steps["median_ms"].iloc[1] / steps["median_ms"].iloc[0] == pytest.approx(16 / 5, rel=0.05)
    beside = charts.parts(steps)
    assert [bars.hatch for bars in beside.bars] == [".", "."] and len({bars.colour for bars in beside.bars}) == 2
    assert not [one for one in predictions([DecodeWorkload(64)], COPIED)["parts"] if one]


def test_parts_of_several_sources_stand_in_one_chart():
    recorded = h200_run().frame()
    table = predictions([ModelWorkload("prefill", 2048, model=GEMMA)], COPIED)
    both = pd.concat([table, recorded], ignore_index=True)
    chosen = charts.settings(both)
    assert next(iter(chosen)) == "gemma4-31b, a prompt of 2k tokens" and len(chosen) == 3
    chart = charts.fullest(both)
    assert [bars.name for bars in chart.bars] == [
        "int4 at the roofs, predicted", "bfloat16 at the roofs, predicted", "ours, recorded"
    ]  # fmt: skip
    assert [bars.hatch for bars in chart.bars] == [".", ".", ""]
    assert chart.sources == "predicted for H200; recorded on NVIDIA H200" and chart.groups[-1] == "gaps"
    assert not charts.fullest(both.iloc[:0]).bars


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
    assert "gaps: 2 ms, recorded on NVIDIA H200" in grey and len(grey) == 10
    labels = [label.text for label in picture.labels]
    assert "recorded on NVIDIA H200, ours: 100 ms, 20,480 tokens/s, flags: throttled" in labels
    assert "recorded on NVIDIA H200, ours: 100 ms, 40 tokens/s if every draft is right" in labels
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
    assert text.endswith("Weights 22 GB, cache 1.19 GB; predicted for NVIDIA H200")
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
    assert "ours 20,480 at 2,048* 18.8 at 2,048 recorded on NVIDIA H200" in said  # 1.875 of 4 tokens in 100 ms
    assert "executorch 2,438 at 2,048 47.9 at 2,048, no drafts published by ExecuTorch pull request 20571" in said
    assert "llama.cpp" in said and "steps of drafts at 50% accepted" in said
    assert "No run of qwen3-32b with int4 weights is stored" in captions.others(
        ModelSettings(model="qwen3-32b"), Beside.of([])
    )


# the explorer


def test_every_control_has_a_label():
    for name, control in ModelExplorer([])._controls.items():
        assert getattr(control, "_slider", control).description, name


def test_controls_move_picture_words_and_code_at_once():
    explorer = ModelExplorer([])
    explorer.set(prompt=4096)
    changes = [
        ("prompt", 16_384), ("own", False), ("window", 4096), ("drafts", 4), ("acceptance", 0.4),
        ("weights", "bfloat16"), ("machine", "NVIDIA A100 80GB SXM (data sheet)"), ("model", "qwen3-32b"),
    ]  # fmt: skip
    for name, value in changes:
        before = explorer._counts.value, explorer.code()
        start = time.thread_time()  # of this thread, so that a busy machine does not count
        explorer._controls[name].value = value
        assert time.thread_time() - start < 0.2, (name, value)
        if name != "own":
            assert getattr(explorer.settings, name) == value
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
    assert "recorded on NVIDIA H200" in [label.text for label in explorer.view.picture.labels]
    assert "broken.jsonl" in explorer._problem.value and "other.jsonl" not in explorer._problem.value
