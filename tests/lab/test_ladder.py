"""The ladder: what each rung switches, that its logits are right, what is predicted, published and shown of it."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from blockskip.linear import cpu
from skiplab import figures, ladder, results
from skiplab.cli.model import _contenders
from skiplab.contenders import contender
from skiplab.contenders import ladder as rungs
from skiplab.contenders.ladder import LADDER, RUNGS, adds, rung_of, same_as
from skiplab.figures import ladder as charts
from skiplab.machine import Machine
from skiplab.measure import Measurement, Point
from skiplab.measure.model import AWKWARD, TINY
from skiplab.measure.verify import verify
from skiplab.model.attention import Keys
from skiplab.results.ladder import LADDERS
from skiplab.store import COLUMNS, Run, frame
from skiplab.sweep import ModelSweep
from skiplab.widgets.sweep.form import MISSING
from skiplab.workload import ModelWorkload

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[2]
CONFIG = json.dumps({**TINY, **AWKWARD["two kinds"]})
PROMPT = ModelWorkload("prefill", 40, model="tiny", config=CONFIG)
STEP = ModelWorkload("decode", 3, 20, model="tiny", config=CONFIG, steps=5)
GEMMA_PROMPT, GEMMA_STEP = ladder.CALLS
NOTHING = pd.DataFrame(columns=list(COLUMNS))


def test_each_rung_switches_one_choice_more_than_the_one_below():
    for below, above in pairwise(RUNGS):
        assert sum(getattr(below, name) != getattr(above, name) for name in rungs.CHANGES) == 1, above.name
    assert RUNGS[-1].name == "blockskip" and all(
        getattr(RUNGS[-1], name) for name in ("split", "joined", "fused", "tiles")
    )
    assert list(adds("prefill").values()) == [
        "dense + mask", "skip by mask", "skip by bounds", "joined products", "fused pointwise", "aligned products",
    ]  # fmt: skip
    assert list(adds("decode"))[1:4] == ["ladder-4-coalesced", "ladder-5-splits", "ladder-6-vector"]
    assert same_as("ladder-6-vector", "prefill") == "ladder-3-bounds"
    assert same_as("ladder-3-bounds", "decode") == "ladder-1-dense" and same_as("sdpa", "decode") == "sdpa"


@pytest.mark.parametrize("name", ["ladder-1-dense", "ladder-3-bounds", "ladder-7-joined"])
@pytest.mark.parametrize("work", [PROMPT, STEP], ids=["prompt", "step"])
def test_a_rung_that_a_cpu_has_gives_the_logits_of_its_weights(name, work):
    entry = contender(name, "model")
    assert verify(work.checked, entry, "cpu", 0).passed
    call = entry.build(work.checked, work.checked.inputs("cpu", 0))
    parts = {
        len(linear.weights) for linear_name, linear in call.runner.decoder.weights.linears() if "qkv" in linear_name
    }
    assert parts == ({1} if name == "ladder-7-joined" else {2, 3})


def test_the_first_rung_on_a_cpu_computes_all_pairs_with_a_mask(monkeypatch):
    given = []

    def sdpa(q, k, v, mask, **options):
        given.append(mask.shape[-2:])
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, **options)

    monkeypatch.setattr(rungs, "scaled_dot_product_attention", sdpa)
    entry = contender("ladder-1-dense", "model")
    (ids,) = PROMPT.inputs("cpu", 0)
    entry.build(PROMPT, (ids,))(ids)
    assert given == [(40, 40)] * 4


def test_attention_of_a_rung_is_asked_for_by_its_switches(monkeypatch):
    asked, masks = [], []
    monkeypatch.setattr(rungs, "bs", SimpleNamespace(
        attention=lambda *given, **how: asked.append(("attention", how["skip"], how["impl"])) or masks.append(given[3]),
        decode=lambda *given, **how: asked.append(("decode", how["splits"], how["impl"])),
    ))  # fmt: skip
    layer, q = PROMPT.spec.layers[0], torch.zeros(1, 4, 2, 32)
    prompt, step = Keys(q, q, filled=2), Keys(q, q, ends=torch.ones(1, dtype=torch.int32), ring=True)
    for name in ("ladder-1-dense", "ladder-2-mask", "ladder-3-bounds", "ladder-5-splits"):
        attend = rungs.attend_of(rung_of(name), kernels=True)
        attend(q, prompt, layer, {}, {})
        attend(q, step, layer, {}, {})
        attend(q, prompt, replace(layer), {}, {})  # an equal one, of another layer
        assert masks[-1] is masks[-2]  # its packed bits are made once
    assert [skip for kind, skip, _ in asked if kind == "attention"] == [
        skip for skip in ("none", "mask", "bounds", "bounds") for _ in range(2)
    ]
    assert [splits for kind, splits, _ in asked if kind == "decode"] == [1, 1, 1, "auto"]
    assert {impl for *_, impl in asked} == {"triton"}


def test_rungs_differ_in_products_and_in_what_stands_between(monkeypatch):
    forms = []
    monkeypatch.setattr(rungs.MatvecWeight, "of", lambda w, form: forms.append(form) or w)
    base = rungs.in_rows(PROMPT, "cpu")
    made = {rung.name: rungs.climbed(base, rung, kernels=True) for rung in RUNGS[:-1]}
    assert set(forms) == {"both", "scalar"} and "none" not in forms
    assert [made[name].fused for name in LADDER[:-1]] == [False] * 7 + [True]
    kinds = rungs.pieces_of(replace(PROMPT, by_kind=True).whole_spec, made["ladder-7-joined"])
    assert not any(runner.decoder.fused for _, runner in kinds)


def test_products_apart_are_the_same_numbers(monkeypatch):
    monkeypatch.setattr(cpu, "LEAST_CODES", 1)  # parts and whole by one implementation, however small they are
    base = rungs.in_rows(replace(PROMPT, dtype="float32"), "cpu")
    layer, w = base.spec.layers[0], base.weights.layers[0]
    x = torch.randn((1, 5, 128), generator=torch.Generator("cpu").manual_seed(0), dtype=torch.float32)
    split = rungs._all_apart(layer, w)
    assert torch.equal(split.qkv(x), w.qkv(x)) and torch.equal(split.gate_up(x), w.gate_up(x))
    pieces = [part.data.data_ptr() for part in split.gate_up.weights]
    assert pieces[0] == w.gate_up.weights[0].data.data_ptr() and pieces[1] > pieces[0]  # views


KERNELS = """
import quick_interpreter
import json, torch
from skiplab.contenders.ladder import RUNGS, build_of, in_rows
from skiplab.measure.model import TINY
from skiplab.workload import ModelWorkload

torch.set_num_threads(1)
small = {"vocab_size": 16, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2,
         "num_key_value_heads": 1, "head_dim": 16, "num_hidden_layers": 1, "model_type": "mistral", "sliding_window": 8}
work = ModelWorkload("decode", 1, 12, model="tiny", dtype="float32", config=json.dumps({**TINY, **small}), steps=1)
(ids,) = work.inputs("cpu", 0)
plain = in_rows(work, "cpu").plain()
prompt = plain.prefill(ids[:, :-1])
step = plain.step(ids[:, -1:])
for rung in (RUNGS[0], RUNGS[1], RUNGS[4]):
    runner = build_of(rung, kernels=True)(work, (ids,)).runner
    torch.testing.assert_close(runner.prefill(ids[:, :-1]), prompt, rtol=1e-4, atol=1e-4)
    if rung is not RUNGS[1]:  # of prompts
        torch.testing.assert_close(runner.step(ids[:, -1:]), step, rtol=1e-4, atol=1e-4)
    print(rung.name, "is right")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is Linux' own")
def test_rungs_of_kernels_give_the_same_logits(fresh_process):
    """In a fresh process, in Triton's interpreter: here kernels may be compiled."""
    done = fresh_process("-c", KERNELS, interpret=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("is right") == 3


def test_what_a_cpu_cannot_climb_says_so():
    reasons = {name: contender(name, "model").supports(PROMPT, "cpu") for name in LADDER}
    assert reasons["ladder-2-mask"] == "skip by mask: of our Triton kernels, which need CUDA"
    assert {name for name, why in reasons.items() if why} == {"ladder-2-mask", "ladder-8-fused"}
    assert any(word in reasons["ladder-2-mask"] for word in MISSING)  # the panel says so beside its tick box
    steps = {name for name in LADDER if contender(name, "model").supports(STEP, "cpu")}
    assert steps == {*LADDER[:6], "ladder-8-fused"}
    config = json.dumps({**TINY, "model_type": "gemma3_text", "attn_logit_softcapping": 5.0})
    capped = replace(PROMPT, config=config)
    assert capped.whole_spec.attention_softcap == 5
    assert "SDPA" in (contender("ladder-1-dense", "model").supports(capped, "cpu") or "")
    assert contender("ladder-3-bounds", "model").supports(capped, "cpu") is None


def test_a_sweep_climbs_rung_by_rung_and_measures_none_twice():
    assert _contenders(None, True) == LADDER and _contenders(["sdpa"], True) == ("sdpa", *LADDER)
    assert _contenders(None, False) == ModelSweep.contenders and _contenders(["sdpa"], False) == ("sdpa",)
    sweep = ModelSweep(LADDER, "tiny", (16,), (8,), (1,), config=CONFIG)
    climbed = {phase: [p.contender for p in sweep.points() if p.workload.phase == phase] for phase in rungs.BOTH}
    assert climbed == {phase: list(adds(phase)) for phase in rungs.BOTH}
    alone = ModelSweep(("ladder-5-splits",), "tiny", (16,), (8,), (1,), config=CONFIG)
    assert len(alone.points()) == 2


H200 = Machine("NVIDIA H200", "cuda", 4300, 790, sms=132, compute_capability="9.0")


def test_predictions_are_sums_of_operations_at_the_roofs():
    """Of the highest rung within 2 % of the floors that the project's facts give, computed apart from this code."""
    prompt, step = (ladder.predicted_parts(call, RUNGS[-1], H200) for call in ladder.CALLS)
    assert 2048 / sum(prompt.values()) == pytest.approx(13_057, rel=0.02)
    assert 1 / sum(step.values()) == pytest.approx(213, rel=0.02)
    assert 1e3 * (prompt["attention sliding"] + prompt["attention full"]) == pytest.approx(5.0, rel=0.15)
    dense = ladder.predicted_parts(GEMMA_PROMPT, RUNGS[0], H200)
    pairs = 4 * 32 * 2048**2 * (50 * 256 + 10 * 512)
    assert dense["attention sliding"] + dense["attention full"] == pytest.approx(pairs / 790e12, rel=1e-6)
    assert all(dense[name] == prompt[name] for name in ("qkv", "o", "gate+up", "down", "head"))
    one = ladder.predicted_parts(GEMMA_STEP, RUNGS[0], H200)
    assert one["attention full"] > 20 * step["attention full"]  # 4 programs of 132


def test_a_long_prompt_is_predicted_chunk_by_chunk():
    long = replace(GEMMA_PROMPT, q_len=16384)
    dense, least = (ladder.predicted_parts(long, rung, H200) for rung in (RUNGS[0], RUNGS[2]))
    chunks = 8192 * 8192 + 8192 * 16384  # of the full layers; a sliding one's second chunk sees 1,023 keys before it
    assert dense["attention full"] == pytest.approx(10 * 4 * 32 * 512 * chunks / 790e12, rel=1e-3)
    sliding = 8192 * 8192 + 8192 * (1023 + 8192)
    assert dense["attention sliding"] == pytest.approx(50 * 4 * 32 * 256 * sliding / 790e12, rel=1e-3)
    assert 1e3 * least["attention sliding"] == pytest.approx(33.7, rel=0.15)  # whole tiles


def test_published_rates_stand_on_their_rungs():
    table = ladder.ladder(NOTHING)
    prompt = ladder.of_call(table, GEMMA_PROMPT)
    published = prompt[prompt["source"] == "published"].set_index("contender")["tokens_per_s"].to_dict()
    assert published == {"ladder-1-dense": 1238.0, "ladder-3-bounds": 2325.5, "blockskip": 2438.1}
    step = ladder.of_call(table, GEMMA_STEP)
    rates = step[step["source"] == "published"]["tokens_per_s"].tolist()
    assert rates == [29.2, 37.4, 43.98, 46.79, 47.93]
    deep = replace(GEMMA_STEP, depth=32768)
    far = ladder.of_call(ladder.ladder(NOTHING, [deep]), deep)
    assert far[far["source"] == "published"]["contender"].tolist() == ["blockskip"]
    share = ladder.shares(table, GEMMA_PROMPT)
    assert next(iter(share.values())) == {"ladder-1-dense": 0.581, "ladder-3-bounds": 0.185}


def a_run(name: str, milliseconds: dict[str, float], call=GEMMA_PROMPT, attention: float = 0.25, **changed) -> Run:
    """A run with these rungs of a call, each with that share of attention."""
    rows = []
    for contender_name, took in milliseconds.items():
        samples = (round(took * 1e6),) * 3
        parts = {"attention full": round(samples[0] * attention), "qkv": round(samples[0] * (1 - attention))}
        point = Point(call, contender_name, device="cuda")
        fields = {"samples_ns": samples, "parts_ns": parts, "peak_bytes": 24_000_000_000}
        rows.append(Measurement(point, "ok", label=point.entry.label, device_name="NVIDIA H200", method="eager",
                                **fields).row() | changed)  # fmt: skip
    header = {"run_id": name, "operation": "model", "device": {"name": "NVIDIA H200", "kind": "cuda"}, "torch": "2.x",
              "start": name}  # fmt: skip
    return Run(header, tuple(rows), path=ROOT / "data" / "runs" / f"{name}-nvidia-h200-model.jsonl")


ALL_RUNGS = {"ladder-1-dense": 800.0, "ladder-2-mask": 400.0, "ladder-3-bounds": 320.0, "blockskip": 256.0}


def test_of_several_runs_the_one_with_the_most_rungs_counts():
    newer = a_run("2126-02-01", {"blockskip": 200.0})
    table = ladder.ladder(frame([newer, a_run("2126-01-01", ALL_RUNGS)]))
    good = ladder.of_call(table, GEMMA_PROMPT)
    ours = good[good["source"] == "recorded"]
    assert ours["contender"].tolist() == list(ALL_RUNGS) and ours["median_ms"].tolist() == list(ALL_RUNGS.values())
    short = replace(GEMMA_PROMPT, q_len=512)
    beside = ladder.of_call(ladder.ladder(frame(a_run("2126-03-01", {"blockskip": 60.0}, call=short))), short)
    assert set(beside["source"]) == {"published", "predicted", "recorded"}  # a call that was measured is predicted, too
    alone = ladder.of_call(ladder.ladder(frame(newer)), GEMMA_PROMPT)
    assert alone[alone["source"] == "recorded"]["contender"].tolist() == ["blockskip"]


def test_the_figure_has_a_bar_for_each_source_and_names_what_failed():
    point = Point(GEMMA_PROMPT, "ladder-8-fused", device="cuda")
    refused = Measurement(point, "unsupported", error_text="no such rung", device_name="NVIDIA H200").row()
    run = a_run("2126-01-01", ALL_RUNGS)
    table = ladder.ladder(frame(replace(run, rows=(*run.rows, refused))))
    chart = charts.rungs(table, GEMMA_PROMPT)
    assert [bars.name for bars in chart.bars] == [
        "published", "predicted: NVIDIA A100 80GB SXM", "predicted: NVIDIA H200", "recorded: NVIDIA H200",
    ]  # fmt: skip
    assert chart.groups == tuple(adds("prefill").values())
    recorded = chart.bars[-1]
    assert recorded.values[0] == pytest.approx(2048 / 0.8) and recorded.values[3] != recorded.values[3]
    assert any("2.00× the bar before" in line for line in recorded.hover[1].lines)
    assert "attention takes 25.0\u00a0% of the time" in recorded.hover[1].lines
    assert "no such rung (unsupported)" in chart.note and "recorded on NVIDIA H200" in chart.sources
    figure = figures.model_ladder(table, first="a prompt of 2k")
    assert figure.layout.title.text.startswith("The ladder: a prompt of 2k tokens")
    assert not figures.model_ladder(NOTHING).data


def test_tables_show_a_recorded_run_where_there_is_one():
    empty = results.show("ladder-prefill", [])
    assert "No run of it is recorded yet" in str(empty) and "recorded on" not in list(empty.cells.columns)
    made = results.show("ladder-prefill", [a_run("2126-01-01", ALL_RUNGS, flags=["throttled"])])
    cells = made.cells.set_index("rung")
    assert cells["recorded on H200"].tolist() == [
        "2,560",
        "5,120 (2.00×)",
        "6,400 (1.25×)",
        "",
        "",
        "8,000 (1.25×)",
    ]
    assert cells.loc["skip by bounds", "published"] == "2,326 (1.88×)"
    text = str(made)
    assert "2126-01-01-nvidia-h200-model.jsonl" in text and "In all recorded cells the GPU ran slower" in text
    assert "25.0\u00a0% with dense" in text and "58.1\u00a0% with dense + mask, 18.5\u00a0% with skip by" in text
    page = LADDERS["ladder-prefill"].markdown([a_run("2126-01-01", ALL_RUNGS)], ROOT / "data" / "RESULTS.md")
    assert "([run](runs/2126-01-01-nvidia-h200-model.jsonl))" in page and "| dense + mask | 1,238 |" in page
    assert "split-K decode 37.91 to 43.98" in str(results.show("ladder-decode", []))
    with pytest.raises(ValueError, match="name: got 'ladder'; allowed are"):
        results.show("ladder")
