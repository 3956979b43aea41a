"""A whole model at the roofs: its work part by part, kept drafts, memory, other windows, and the frames of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from typing import Any

import blockskip as bs
import numpy as np
import pandas as pd
import pytest
import torch
from model_runs import h200_run
from skiplab.figures import model as charts
from skiplab.figures import static
from skiplab.figures.charts import LineChart, PanelChart
from skiplab.figures.frames import predictions
from skiplab.machine import Machine
from skiplab.machine.roofline import predict, predicted_parts
from skiplab.measure.model import AWKWARD, NAMES, TINY
from skiplab.model import Decoder
from skiplab.store import frame
from skiplab.throughput import call_time, kept_tokens, memory
from skiplab.workload import DecodeWorkload, LinearWorkload, ModelWorkload, Workload
from skiplab.workload.model import POINTWISE

COPIED = Machine("H200", "cuda", bandwidth_gbps=4300, tflops=790)
GEMMA, LAPTOP = "gemma4-31b", "laptop"


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
        "int4 at the roofs, predicted", "bfloat16 at the roofs, predicted", "blockskip, recorded"
    ]  # fmt: skip
    assert [bars.hatch for bars in chart.bars] == [".", ".", ""]
    assert chart.sources == "predicted for H200; recorded on NVIDIA H200" and chart.groups[-1] == "gaps"
    assert not charts.fullest(both.iloc[:0]).bars


def rates(**columns: Any) -> pd.DataFrame:
    """A row of a recorded step of ours."""
    row = frame([]).reindex([0]).to_dict("records")[0]
    known = {
        "operation": "model", "status": "ok", "phase": "decode", "source": "recorded", "device": "NVIDIA H200",
        "contender": "blockskip", "label": "blockskip", "model": "gemma4-31b", "q_len": 1, "depth": 2048.0, "bits": 4.0,
        "group_size": 32.0, "dtype": "bfloat16", "by_kind": 0.0, "flags": "", "median_ms": 7.0, "low_ms": 7.0,
        "high_ms": 7.0, "bound_ms": 5.0, "tokens_per_s": 143.0,
    }  # fmt: skip
    return pd.DataFrame([{**row, **known, **columns}])


def test_steps_of_different_numbers_of_tokens_have_panels_with_a_line_of_one_look_for_each_who():
    rows = [rates(), rates(depth=0.0), rates(q_len=4, tokens_per_s=500.0)]
    llama = [rates(contender="llama.cpp", label="llama.cpp", tokens_per_s=90.0)]
    steps = [ModelWorkload("decode", n, length, model=GEMMA) for n in (1, 4) for length in (512, 2048)]
    chart = charts.decode(pd.concat([*rows, *llama, predictions(steps, COPIED)], ignore_index=True))
    assert isinstance(chart, PanelChart)
    assert [panel.title for panel in chart.panels] == ["1 token a step", "4 tokens a step"]
    names = [line.name for line in chart.lines]
    assert names[:2] == ["blockskip, recorded", "llama.cpp, recorded"]
    assert len(names) == 5 and not [name for name in names if "token" in name]
    looks = {line.name: (line.style.colour, line.style.marker, line.dash) for line in chart.lines}
    assert len({colour for colour, _, _ in looks.values()}) == 5  # the roofs, too, are no grey twin of a prediction
    for panel in chart.panels:
        assert all(looks[line.name] == (line.style.colour, line.style.marker, line.dash) for line in panel.lines)
    alone = charts.decode(pd.concat(rows[:2], ignore_index=True))
    assert isinstance(alone, LineChart) and alone.lines[0].x == (1.0, 2048.0)


def test_prompts_and_steps_of_one_token_stand_beside_each_other():
    prompt = rates(phase="prefill", q_len=512, depth=np.nan, tokens_per_s=9000.0)
    chart = charts.prompts_and_steps(pd.concat([prompt, rates(), rates(q_len=4)], ignore_index=True))
    shown = [[line.y for line in panel.lines if line.name == "blockskip"] for panel in chart.panels]
    assert shown == [[(9000.0,)], [(143.0,)]]
    assert [panel.y_title for panel in chart.panels] == ["prompt tokens/s", "tokens/s of steps"]
    drawn = static.draw(chart)
    assert [axes.get_ylabel() for axes in drawn.axes] == ["prompt tokens/s", "tokens/s of steps"]


def test_a_whole_models_rate_counts_before_one_by_kind():
    both = pd.concat([rates(by_kind=1.0, tokens_per_s=150.0), rates(), rates(by_kind=1.0, depth=512.0)])
    chart = charts.decode(both.reset_index(drop=True))
    shown = {line.name: (line.x, line.y) for line in chart.lines if "roofs" not in line.name}
    assert shown == {"blockskip, one layer of each kind": ((512.0,), (143.0,)), "blockskip": ((2048.0,), (143.0,))}
    assert [line.name for line in chart.lines if "roofs" in line.name] == ["rate at the roofs, packed weights"]
