"""A whole model as an operation: its work, who is measured, how a call is checked, its rows, sweeps and figures.

`test_model_timing.py` has how a call is timed and taken apart.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import pytest
import torch
from skiplab import figures
from skiplab.contenders import contender, contenders
from skiplab.contenders.model import floats
from skiplab.figures import model as charts
from skiplab.measure import Measurement, Point, measure
from skiplab.measure import model as measuring
from skiplab.measure.model import AWKWARD, NAMES, TINY
from skiplab.measure.verify import check, verify
from skiplab.model import attention
from skiplab.model.attention import by_blockskip, by_sdpa, must_repeat
from skiplab.report.model import peers_of
from skiplab.store import Run, frame, published, recorded_llama_bench
from skiplab.sweep import ModelSweep, sweep_of
from skiplab.workload import ModelWorkload
from skiplab.workload.model import parameters

CONFIG = json.dumps({**TINY, **AWKWARD["two kinds"]})
PROMPT = ModelWorkload("prefill", 40, model="tiny", config=CONFIG)
STEP = ModelWorkload("decode", 3, 20, model="tiny", config=CONFIG, steps=5)

pytestmark = pytest.mark.usefixtures("one_thread")


def kept_pairs(tokens, before, window):
    """By looking at every pair."""
    return sum((window is None or q - k < window) for q in range(before, before + tokens) for k in range(q + 1))


@pytest.mark.parametrize(
    "work", [PROMPT, STEP, replace(PROMPT, q_len=3), replace(STEP, depth=0), replace(STEP, depth=6)]
)
def test_work_is_that_of_all_products_and_of_pairs_that_are_seen(work):
    spec, flops, moved = work.whole_spec, 0, 0
    for layer in spec.layers:
        queries, keys = layer.q_heads * layer.head_dim, layer.kv_heads * layer.head_dim
        projected = queries + keys * (1 if layer.key_is_value else 2)
        weights = spec.hidden * (projected + queries + 3 * spec.intermediate)
        flops += 2 * work.q_len * weights + 4 * queries * kept_pairs(work.q_len, work.depth, layer.window)
        cached = work.q_len + min(work.depth, work.depth if layer.window is None else layer.window - 1)
        moved += weights * 5 / 8 + 2 * 2 * keys * cached
    rows = 1 if work.phase == "prefill" else work.q_len
    flops += 2 * rows * spec.vocabulary * spec.hidden
    moved += spec.vocabulary * spec.hidden * 5 / 8 + 4 * rows * spec.vocabulary + 2 * work.q_len * spec.hidden
    assert work.work().useful_flops == flops and work.work().bytes == moved
    assert work.work(quantised=False).bytes > work.work().bytes


def test_a_model_is_a_name_or_a_configuration():
    assert parameters(ModelWorkload("prefill", 1, model="gemma4-31b").spec) == pytest.approx(30_697_345_596, rel=1e-3)
    assert (
        ModelWorkload.from_axes(STEP.axes()) == STEP and STEP.key() != replace(STEP, config=None, model="laptop").key()
    )
    other = json.dumps({**TINY, **AWKWARD["one window"]})
    assert replace(STEP, config=other).key() != STEP.key()
    kinds = replace(PROMPT, by_kind=True)
    assert len(kinds.spec.layers) == 2 and kinds.work() == PROMPT.work() and kinds.key() != PROMPT.key()
    for wrong, message in (
        ({"model": "gpt", "config": None}, "model: got 'gpt'; allowed are gemma3-27b, gemma4-31b"),
        ({"config": "[1]"}, "config: holds a list"), ({"config": "{"}, "config: is no JSON"),
        ({"depth": 3}, "depth: got 3; a prompt has none"), ({"steps": 3}, "steps: got 3; a prompt has none"),
        ({"phase": "decode", "q_len": 17}, "q_len"), ({"bits": 5}, "bits: given 5"), ({"phase": "both"}, "phase"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            replace(PROMPT, **wrong)


@pytest.mark.parametrize("name", ["blockskip", "sdpa", "tinygemm", "transformers", "transformers-eager"])
def test_contenders_give_the_logits_of_their_weights(name):
    if "transformers" in name:
        pytest.importorskip("transformers")
    report = check(name, "cpu", ("bfloat16",) if name == "tinygemm" else ("bfloat16", "float32"), operation="model")
    assert report.passed and report.counts().keys() == {"ok"}, str(report)


@pytest.mark.parametrize("work", [PROMPT, STEP], ids=["prompt", "step"])
@pytest.mark.parametrize("wrong", ["a wider window", "other weights", "no norm of queries", "a key forgotten"])
def test_a_wrong_model_is_found_out(work, wrong):
    def build(workload, inputs):
        call = contender("sdpa", "model").build(workload, inputs)
        decoder, spec = call.runner.decoder, call.runner.decoder.spec
        if wrong == "a wider window":
            layers = tuple(replace(layer, window=layer.window and layer.window + 1) for layer in spec.layers)
            decoder = type(decoder)(replace(spec, layers=layers), decoder.weights, attend=by_sdpa)
        elif wrong == "no norm of queries":
            layers = tuple(replace(w, q_norm=None, k_norm=None) for w in decoder.weights.layers)
            decoder = type(decoder)(spec, replace(decoder.weights, layers=layers), attend=by_sdpa)
        elif wrong == "other weights":
            decoder = type(decoder).random(spec, bits=None, seed=1)
        else:
            attend = decoder.attend

            def forgetful(q, keys, layer, options, masks):
                keys.k[:, :, : keys.filled][:, :, 7] = 0
                return attend(q, keys, layer, options, masks)

            decoder = type(decoder)(spec, decoder.weights, attend=forgetful)
        return replace(call, runner=replace(call.runner, decoder=decoder))

    entry = contender("sdpa", "model")
    assert verify(work.checked, entry, "cpu", 0).passed
    assert not verify(work.checked, replace(entry, build=build), "cpu", 0).passed


@pytest.mark.parametrize("repeat", [False, True])
def test_sdpa_sees_in_rings_and_flat_caches_what_blockskip_sees(monkeypatch, repeat):
    """A prompt in chunks, then steps over the wrap of a ring, by both ways of attention; keys repeated, as on a GPU."""
    monkeypatch.setattr(attention, "must_repeat", lambda *facts: repeat)
    ids = torch.randint(160, (1, 60), generator=torch.Generator("cpu").manual_seed(0))
    second = floats(replace(PROMPT, dtype="float32"), "cpu")
    first = type(second)(second.spec, second.weights)
    assert (first.attend, second.attend) == (by_blockskip, by_sdpa)
    for chunk in (30, 9):
        a, b = (decoder.prefill(ids[:, :30], logits="all", chunk=chunk) for decoder in (first, second))
        assert (a - b).abs().max() < 2e-5 * a.abs().max()
    for start in range(30, 60, 5):
        a, b = (decoder.step(ids[:, start : start + 5]) for decoder in (first, second))
        assert (a - b).abs().max() < 2e-5 * a.abs().max()


def test_keys_are_repeated_where_torch_has_no_kernel_for_groups():
    assert not must_repeat(False, True, 512) and not must_repeat(True, False, 256)
    assert must_repeat(True, True, 128) and must_repeat(True, False, 512)


@pytest.mark.parametrize("work", [PROMPT, STEP], ids=["prompt", "step"])
def test_a_point_is_a_row_with_its_parts_and_its_memory(work):
    taken = measure(Point(work, "blockskip"), budget_s=1.0)
    assert taken.status == "ok" and 0 < taken.error < taken.tolerance < 1, taken.error_text
    assert taken.parts_ns.keys() == NAMES | {"pointwise", "gaps"} and all(took >= 0 for took in taken.parts_ns.values())
    assert taken.peak_bytes > 1 << 24 or sys.platform != "linux"
    assert work.phase == "prefill" or len(taken.samples_ns) == work.steps
    row = json.loads(json.dumps(taken.row()))
    assert type(taken).from_row(row).parts_ns == taken.parts_ns
    table = frame(Run({"run_id": "r", "device": {"name": taken.device_name}}, (row,)))
    assert table["tokens_per_s"].item() == pytest.approx(work.q_len / taken.median_ns * 1e9)
    assert table["parts"].item() == taken.parts_ns and table["peak_gb"].item() == taken.peak_bytes / 1e9


def test_a_kernel_that_is_no_model_call_is_told_what_to_build(own_registry):
    from skiplab.contenders import kernel

    @kernel("model", name="mine")
    def mine(workload, inputs):
        return lambda ids: contender("sdpa", "model").build(workload, inputs)(ids)

    taken = measure(Point(PROMPT, "mine"), budget_s=0.05)
    assert taken.status == "unsupported" and "builds a ModelCall" in taken.error_text


def test_a_model_of_one_layer_of_each_kind_is_checked_and_the_whole_counts():
    work = replace(STEP, by_kind=True)
    for name in ("blockskip", "sdpa"):
        assert verify(work.checked, contender(name, "model"), "cpu", 0).passed
    assert contender("transformers", "model").supports(work, "cpu") is not None
    facts, done = measuring.plan_and_work(contender("sdpa", "model"), work, (), ())
    assert facts == {"layers": "one of each kind, times its count"}
    assert done.minimal_bytes == STEP.work().bytes < done.bytes


def test_what_cannot_run_says_why(monkeypatch):
    monkeypatch.setattr("skiplab.contenders.model.free_bytes", lambda device: 60e9)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    large = ModelWorkload("prefill", 256, model="gemma4-31b")
    reasons = {name: entry.supports(large, "cpu") for name, entry in contenders("model").items()}
    assert reasons["blockskip"] is None
    assert reasons["sdpa"] == (
        "too large: its weights take 61.4 GB, and 60 GB are free on cpu; --by-kind times one layer of each kind"
    )
    assert contender("sdpa", "model").supports(replace(large, by_kind=True), "cpu") is None
    assert reasons["transformers"] == "transformers is not installed: pip install transformers"
    assert "float32" not in reasons["tinygemm"] if reasons["tinygemm"] else True
    assert contender("tinygemm", "model").supports(replace(PROMPT, bits=8), "cpu").startswith("tinygemm takes int4")
    assert "--llama-bench" in reasons["llama.cpp"]


def test_weights_that_groups_do_not_divide_are_unsupported():
    config = json.dumps({**TINY, **AWKWARD["one window"], "hidden_size": 96, "intermediate_size": 100})
    taken = measure(Point(replace(PROMPT, config=config), "blockskip"), budget_s=0.05)
    assert taken.status == "unsupported" and "down_proj" in taken.error_text


def test_a_sweep_goes_contender_by_contender_and_repeats_itself():
    sweep = ModelSweep(("blockskip", "sdpa"), "tiny", (16, 32), (0, 8), (1, 4), new=3, config=CONFIG)
    points = sweep.points()
    assert [point.contender for point in points] == ["blockskip"] * 6 + ["sdpa"] * 6
    assert [(p.workload.phase, p.workload.q_len, p.workload.depth, p.workload.steps) for p in points[:6]] == [
        ("prefill", 16, 0, None), ("prefill", 32, 0, None), ("decode", 1, 0, 3), ("decode", 4, 0, 3),
        ("decode", 1, 8, 3), ("decode", 4, 8, 3),
    ]  # fmt: skip
    assert sweep_of("model", json.loads(json.dumps({**vars(sweep)}))) == sweep
    assert sweep.command().startswith("skiplab model config.json --contender blockskip --contender sdpa --prompt 16")
    named = ModelSweep(by_kind=True)
    assert named.command().startswith("skiplab model laptop --contender") and named.command().count("--by-kind") == 1
    assert "laptop" not in named.command().removeprefix("skiplab model laptop")


def a_row(name, work):
    """Measured in a millisecond, six tenths of it in one product."""
    point, parts = Point(work, name), {"qkv": 600_000, "attention full": 300_000, "gaps": 100_000}
    _, done = measuring.plan_and_work(point.entry, work, (), ())
    samples = {"samples_ns": (1_000_000, 1_010_000), "parts_ns": parts, "work": done, "peak_bytes": 3 << 20}
    return Measurement(point, "ok", label=point.entry.label, device_name="CPU", method="cpu", **samples).row()


def a_table():
    """Prompts and steps of two contenders, one of them taken apart by kinds."""
    points = (
        ("blockskip", PROMPT), ("sdpa", PROMPT), ("blockskip", replace(PROMPT, q_len=80)), ("blockskip", STEP),
        ("blockskip", replace(STEP, q_len=1)), ("sdpa", replace(STEP, by_kind=True)),
    )  # fmt: skip
    roof = {"bandwidth_gbps": 50.0, "tflops": 1.0}
    return frame(Run({"run_id": "r", "device": {"name": "CPU"}, "roof": roof}, tuple(a_row(*one) for one in points)))


def test_figures_show_rates_parts_and_what_was_not_timed_whole():
    table = a_table()
    prompts, steps = charts.prefill(table), charts.decode(table)
    names = ["blockskip", "SDPA, float weights", "rate at the roofs, packed weights"]
    assert [line.name for line in prompts.lines] == names
    assert prompts.lines[0].x == (40.0, 80.0) and prompts.lines[0].y[0] == pytest.approx(40 / 1.005e-3)
    assert prompts.lines[2].y[0] > prompts.lines[0].y[0] and not prompts.note
    assert [panel.title for panel in steps.panels] == ["1 token a step", "3 tokens a step"]
    assert {line.name for line in steps.lines if "roofs" not in line.name} == {
        "blockskip", "SDPA, float weights, one layer of each kind"
    }  # fmt: skip
    assert steps.lines[0].x == (20.0,) and charts.BY_KIND in steps.note
    chosen = charts.settings(table)
    assert "tiny, a prompt of 40 tokens" in chosen and "tiny, a step of 3 tokens behind 20" in chosen
    bars = charts.parts(chosen["tiny, a prompt of 40 tokens"])
    assert bars.groups == ("attention full", "qkv", "gaps") and len(bars.bars) == 2
    assert (
        bars.bars[0].values == pytest.approx((3e-4, 6e-4, 1e-4)) and "60.0\u00a0% of" in bars.bars[0].hover[1].lines[0]
    )
    assert charts.BY_KIND in charts.parts(chosen["tiny, a step of 3 tokens behind 20"]).note
    assert "no call has been taken apart" in charts.parts(published("model")).note
    assert len(figures.model_parts(table).layout.updatemenus[0].buttons) == len(chosen)


def test_peers_stand_beside_a_run_of_their_model_alone():
    table = a_table()
    assert not len(peers_of(table))
    beside = peers_of(table.assign(model="gemma4-31b"))
    assert set(beside["source"]) == {"published", "recorded"} and set(beside["contender"]) > {"executorch", "llama.cpp"}
    lines = {line.name for line in charts.prefill(beside).lines}
    assert "llama.cpp, cuBLAS, recorded" in lines and "ExecuTorch, published" in lines


def test_recorded_llama_bench_has_the_numbers_that_the_program_gave():
    table = frame(recorded_llama_bench())
    prompt = table[(table["contender"] == "llama.cpp") & (table["q_len"] == 2048)]
    assert prompt["tokens_per_s"].item() == pytest.approx(2048 / 0.704127926, rel=1e-3)
    step = table[(table["contender"] == "llama.cpp") & (table["depth"] == 16384)]
    assert step["tokens_per_s"].item() == pytest.approx(128 / 1.484437298, rel=1e-6)
    assert set(table["flags"]) == {"unchecked"} and set(table["source"]) == {"recorded"} and len(table) == 24
    assert (table["bound_ms"] < table["median_ms"]).all()
