"""The reference's claims: where their figures are from, how ours are found, and that verdicts follow from both."""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace

import pandas as pd
import pytest
from skiplab import claims, ladder, results
from skiplab.claims.checks import differing_elements, right_without_maximum
from skiplab.claims.evidence import call_of, machine_of, roof_rate
from skiplab.measure import Measurement, Point
from skiplab.paths import data_path
from skiplab.store import COLUMNS, Run, read_run, read_runs
from skiplab.workload import DecodeWorkload, ModelWorkload
from test_ladder import ALL_RUNGS, a_run

BY_NAME = {claim.name: claim for claim in claims.CLAIMS}


def judged(*runs: Run, checks=None) -> dict[str, claims.Judged]:
    return {one.claim.name: one for one in claims.judged(claims.Evidence.of(runs, checks))}


def test_claims_have_the_figures_that_were_published():
    assert len(BY_NAME) == len(claims.CLAIMS)
    published = {name: round(claim.published, 3) for name, claim in BY_NAME.items()}
    assert published["skip-2048"] == round(2325.5 / 1238.0, 3) and published["llama-256"] == round(1065.7 / 1150.5, 3)
    assert published["standard-16384"] == round(785.5 / 179.8, 3) and published["share"] == 0.185
    assert published["step-ladder-5-splits"] == round(43.98 / 37.91, 3) and published["peak-8192"] == 31.88
    assert published["decode-llama-130048"] == round(36.98 / 33.04, 3)
    allowed = roof_rate(call_of("decode", 2048), machine_of("NVIDIA A100 80GB SXM"))
    assert published["decode-2048"] == round(47.93 / allowed, 3) and 95 < allowed < 105
    assert {claim.topic for claim in claims.CLAIMS} == {"prefill", "decode", "int4", "model"}
    assert all(claim.why and claim.text(claim.published) for claim in claims.CLAIMS)


@pytest.mark.parametrize(
    ("better", "published", "ours", "verdict"),
    [
        ("more", 2.0, 2.05, "confirmed"), ("more", 2.0, 2.2, "beaten"), ("more", 2.0, 1.8, "not reproduced"),
        ("less", 2.0, 1.95, "confirmed"), ("less", 2.0, 1.5, "beaten"), ("less", 2.0, 2.2, "not reproduced"),
        ("at least", 1.0, 7.0, "confirmed"), ("at least", 1.0, 0.99, "not reproduced"),
        ("exactly", 0, 0, "confirmed"), ("exactly", 0, 1, "not reproduced"),
        ("more", 2.0, float("nan"), "not measurable here"),
    ],
)  # fmt: skip
def test_a_verdict_follows_from_two_figures(better, published, ours, verdict):
    claim = replace(BY_NAME["skip-2048"], better=better, published=published)
    assert claims.judge(claim, ours) == verdict and verdict in claims.VERDICTS


def test_without_a_run_nothing_is_judged_and_predictions_judge_nothing():
    found = judged()
    assert {one.verdict for one in found.values()} == {"not measurable here"}
    assert [round(one.value, 2) for one in found["skip-2048"].found] == [1.04, 1.04]
    assert {one.source for one in found["skip-2048"].found} == {"predicted"}


def test_a_recorded_ladder_is_judged():
    found = judged(a_run("2126-01-01", ALL_RUNGS, flags=["throttled"]))
    skip = found["skip-2048"]
    assert skip.by.value == pytest.approx(800 / 320) and (skip.by.source, skip.verdict) == ("recorded", "beaten")
    assert skip.by.flags == "throttled" and skip.by.device == "NVIDIA H200"
    assert found["share-cut"].by.value == 1 and found["share-cut"].verdict == "not reproduced"
    assert found["share"].by.value == pytest.approx(0.25) and found["share"].verdict == "not reproduced"
    roofs = found["prefill-2048"]
    assert roofs.by.rate == pytest.approx(8000) and roofs.by.value == pytest.approx(8000 / 12997, rel=1e-3)
    llama = found["llama-2048"]
    assert llama.by.value == pytest.approx(8000 / 3417, rel=0.02) and llama.verdict == "beaten"
    assert found["peak-2048"].by.value == 24 and found["peak-2048"].verdict == "beaten"
    assert found["skip-512"].verdict == found["decode-2048"].verdict == "not measurable here"


def test_a_figure_of_the_claims_own_model_comes_before_one_of_another():
    laptop = ModelWorkload("prefill", 2048)
    mine = a_run("2126-03-01", {"ladder-1-dense": 300.0, "ladder-3-bounds": 100.0}, call=laptop)
    mine = replace(mine, path=mine.path.parents[2] / "runs" / "mine.jsonl")
    alone = judged(mine)["skip-2048"]
    assert (alone.by.value, alone.by.of) == (pytest.approx(3), "laptop")
    both = judged(mine, a_run("2126-01-01", ALL_RUNGS))["skip-2048"]
    assert (both.by.value, both.by.of, len(both.found)) == (pytest.approx(2.5), "", 4)


def test_what_a_cpu_took_is_shown_and_neither_beats_nor_confirms_a_claim_about_a_gpu():
    mine = a_run("2126-03-01", {"ladder-1-dense": 300.0, "ladder-3-bounds": 100.0}, call=ModelWorkload("prefill", 2048))
    header = {**mine.header, "device": {"name": "a CPU", "kind": "cpu"}}
    mine = replace(mine, header=header, rows=tuple({**row, "device_name": "a CPU"} for row in mine.rows))
    evidence = claims.Evidence.of([mine], {"bits": claims.Found(0, "computed", "a CPU")})
    assert evidence.cpus == {"a CPU"}
    found = {one.claim.name: one for one in claims.judged(evidence)}
    assert found["skip-2048"].by.value == pytest.approx(3)
    assert found["skip-2048"].verdict == "measured on a CPU alone" in claims.VERDICTS
    assert found["bits"].verdict == "confirmed"  # computed: the machine does not matter
    both = judged(mine, a_run("2126-01-01", ALL_RUNGS))["skip-2048"]
    assert (both.by.device, both.verdict) == ("NVIDIA H200", "beaten")


def test_a_ratio_is_of_one_run_and_needs_both():
    def run(name: str, **milliseconds: float) -> Run:
        work = DecodeWorkload(2048, q_heads=32, kv_heads=16, head_dim=256)
        rows = [
            Measurement(Point(work, one.replace("_", "-"), device="cuda"), "ok", device_name="a GPU", method="graph",
                        samples_ns=(round(took * 1e6),) * 3).row()
            for one, took in milliseconds.items()
        ]  # fmt: skip
        header = {"run_id": name, "operation": "decode", "device": {"name": "a GPU", "kind": "cuda"}, "start": name}
        return Run(header, tuple(rows), path=a_run("x", {}).path.with_stem(name))

    assert "standard-2048" in judged(run("2126-01-01", blockskip=1.0))
    assert judged(run("2126-01-01", blockskip=1.0))["standard-2048"].by is None
    apart = judged(run("2126-01-01", blockskip=1.0), run("2126-01-02", blockskip_prefill=9.0))
    assert apart["standard-2048"].by is None
    one = judged(run("2126-01-01", blockskip=1.0, blockskip_prefill=4.2, sdpa=1.5))
    assert one["standard-2048"].by.value == pytest.approx(4.2) and one["standard-2048"].verdict == "confirmed"
    assert one["pytorch-2048"].verdict == "not reproduced" and one["crossover"].by is None


def test_what_is_recorded_is_found():
    found = judged(*read_runs())
    assert found["standard-2048"].by.device == "NVIDIA H200" and found["crossover"].verdict == "confirmed"
    assert found["vector-product"].by is not None
    whole = found["prefill-2048"].by  # of a run of the whole model, not of the ladder's layers times their count
    prompts = read_run(max(data_path("runs").glob("*-nvidia-h200-model-gemma4-31b-prompts.jsonl")))  # the newest
    (row,) = (row for row in prompts.rows if row["axes"]["q_len"] == 2048)
    assert (
        whole.rate == pytest.approx(2048e9 / statistics.median(row["samples_ns"])) and "l2-resident" not in whole.flags
    )


def test_a_constant_is_no_maximum():
    assert right_without_maximum() == 1  # ordinary scores


@pytest.mark.skipif(sys.platform != "linux", reason="Triton is Linux' own")
@pytest.mark.usefixtures("warm_python")
def test_no_bit_differs_between_skipping_and_not():
    assert differing_elements() == 0


def test_a_notebook_shows_claims_with_verdicts_and_each_reason_once():
    checks = {"bits": claims.Found(0, "computed", "here")}
    evidence = claims.Evidence.of([a_run("2126-01-01", ALL_RUNGS, flags=["throttled"])], checks)
    shown = results.trial(claims.judged(evidence), "prefill")
    cells = shown.cells.set_index("claim")
    row = cells.loc["Skipping makes a prompt of 2,048 tokens faster, the whole model"]
    assert (row["published"], row["verdict"]) == ("1.88×", "beaten")
    assert row["ours"] == "2.50×† recorded on NVIDIA H200" and row["predicted"] == "1.04×\u00a0A100; 1.04×\u00a0H200"
    assert (cells["why they differ"] != "").sum() == 5
    assert "ExecuTorch pull request 20198" in shown.caption and "1 confirmed" in shown.caption
    assert len(shown.caption) < 210  # two lines beside the file browser at 1,280 pixels
    assert "† the GPU ran slower" in shown.notes[0] and 'text-align:left">beaten' in shown._repr_html_()
    later = results.trial(claims.judged(evidence), "model").cells
    assert any("(8,000 tokens/s) recorded on NVIDIA H200" in text for text in later["ours"])
    fast = claims.Evidence.of([a_run("2126-01-01", {name: rate * 10 for name, rate in ALL_RUNGS.items()})], checks)
    assert not any("e+" in text for text in results.trial(claims.judged(fast), "model").cells.to_numpy().flatten())
    with pytest.raises(ValueError, match="topic: got 'all'; allowed are prefill, decode, int4, model"):
        results.trial([], "all")


def test_no_row_at_all_is_no_error():
    nothing = pd.DataFrame(columns=list(COLUMNS))
    assert ladder.calls(nothing) == [] and ladder.known([]) == []
