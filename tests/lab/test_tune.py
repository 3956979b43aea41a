"""Tuning, up to the clock: what is compiled, what is timed and in which order, what the run file holds."""

import shlex
import sys
from dataclasses import replace
from types import SimpleNamespace

import blockskip as bs
import pytest
from blockskip.gpu import Gpu
from blockskip.tuned.attention import MASK_KINDS, mask_kind
from blockskip.tuned.choose import Origin
from skiplab.machine import Machine
from skiplab.measure import Measurement
from skiplab.measure.timing import Cancelled
from skiplab.report import report_html
from skiplab.store import frame, read_run
from skiplab.sweep import run_header
from skiplab.tuning import tune as module
from skiplab.tuning.attention import Tuning
from skiplab.tuning.base import Candidate
from skiplab.tuning.compiling import Compiled
from skiplab.tuning.winners import entries
from skiplab.workload import Workload

GPU = Gpu("NVIDIA H100 80GB HBM3", (9, 0), 132)
TABLE, A, B, C, D = (128, 64, 8, 2), (128, 32, 8, 2), (64, 64, 8, 2), (64, 64, 4, 2), (64, 32, 8, 2)
ROOF = Machine(GPU.name, "cuda", bandwidth_gbps=3000, tflops=800, source="measured")
TIMES = {TABLE: 1.0, A: 0.9, B: 1.1, C: 0.92, D: 2.0}
"""Of a query, in microseconds: D is slow everywhere."""


@pytest.fixture(autouse=True)
def a_gpu_that_is_not_here(monkeypatch):
    device = {"name": GPU.name, "kind": "cuda", "compute_capability": "9.0", "sms": GPU.sms}
    monkeypatch.setattr(sys.modules[run_header.__module__], "describe", lambda asked: device)
    monkeypatch.setattr(module, "this_machine", lambda device, dtype: ROOF)


def tuning(**changed):
    return Tuning(**{"heads": "32/16x256", "q_len": (4096, 8192), "mask": ("causal()",), **changed})


class Clock:
    """Stands for the child that measures: notes what it is asked for and answers from `TIMES`."""

    def __init__(self, wrong=(), stop_after=None):
        self.asked, self.wrong, self.stop_after = [], wrong, stop_after
        self.now = 0.0

    def __call__(self, point, seed, budget_s, *, machine, retries, cancelled):
        if len(self.asked) == self.stop_after or cancelled():
            raise Cancelled
        self.now += 30
        assert retries == 0
        self.asked.append((point.workload.q_len, point.workload.mask, point.config, budget_s))
        blank = Measurement(point, "ok", label="blockskip", device_name=GPU.name, plan={"skip": "bounds"})
        if point.config in self.wrong:
            return Measurement(point, "wrong", "error 3 is above the tolerance", device_name=GPU.name)
        ns = int(1000 * TIMES[point.config] * point.workload.q_len)
        return Measurement(point, "ok", samples_ns=(ns,) * 10, device_name=GPU.name, method="graph", plan=blank.plan)


def kept(wanted, configs=(TABLE, A, B, C, D)):
    several = [Candidate("blockskip", config) for config in configs]
    return {w: dict.fromkeys(several, Compiled(200, 8, 1 << 16)) for w in wanted.workloads()}


def measured(wanted, path, clock, **named):
    return module.measure_all(wanted, path, GPU, kept(wanted), clock, progress=False, **named)


def test_without_a_gpu_it_says_what_is_missing():
    with pytest.raises(ValueError, match=r"torch sees no cuda:7 here.*--from-run"):
        module.tune(tuning(device="cuda:7"), "run.jsonl")
    with pytest.raises(ValueError, match="got cpu, where there is nothing to tune: PyTorch does attention there"):
        module.tune(tuning(device="cpu"), "run.jsonl")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"heads": "32x256"}, "heads: got '32x256'"),
        ({"heads": "32/5x256"}, "kv_heads: got 5"),
        ({"dtype": "int3"}, "dtype: given 'int3'"),
        ({"mask": ("wide",)}, "cannot read 'wide'"),
        ({"config": ((128, 48, 8, 2),)}, "block_n: given 48"),
        ({"budget_s": 0.0}, "budget_s: got 0"),
        ({"q_len": ()}, "at least one of each"),
    ],
)
def test_wrong_parameters_are_named(changed, message):
    with pytest.raises(ValueError, match=message):
        tuning(**changed)


def test_the_command_repeats_it():
    wanted = tuning(mask=("sliding_window(64) | (sink(4) & causal())", "causal()"), config=(TABLE, A))
    words = shlex.split(wanted.command())
    assert words[:2] == ["skiplab", "tune"]
    pairs = list(zip(words[2::2], words[3::2], strict=True))
    assert ("--mask", "sliding_window(64) | (sink(4) & causal())") in pairs
    assert [value for name, value in pairs if name == "--config"] == ["128x64x8x2", "128x32x8x2"]
    assert ("--budget", "0.03") in pairs and ("--heads", "32/16x256") in pairs
    assert tuning().key != wanted.key and tuning().key == tuning().key


def test_prompts_of_several_lengths_share_their_kernels_and_what_is_bad_is_left_out(monkeypatch):
    jobs, said = [], []

    def compile_all(wanted, workers, cancelled, progress):
        jobs.extend(wanted)
        bad = {A: Compiled(problem="does not compile (X)"), B: Compiled(255, 200, 1), TABLE: Compiled(255, 200, 1)}
        return {job: bad.get(job.candidate.config, Compiled(200, 0, 1 << 16)) for job in wanted}

    monkeypatch.setattr(module, "compile_all", compile_all)
    wanted = tuning(mask=("causal()", "sliding_window(1024)"), config=(A, B, C, TABLE))
    found = module.prune(wanted, GPU, 3, 64, said.append)
    assert len(jobs) == 2 * 4  # two masks, not four workloads
    sizes = [[one.config for one in several] for several in found.values()]
    assert sizes == [[TABLE, C]] * 4  # the table's own is timed whatever it spills
    assert said == ["4 workloads, 8 kernels compiled; left out: 2 does not compile (X), 4 spills"]


def test_short_calls_try_smaller_tiles(monkeypatch):
    monkeypatch.setattr(module, "compile_all", lambda wanted, *others: dict.fromkeys(wanted, Compiled(99)))
    short, long = module.prune(tuning(q_len=(256, 4096)), GPU, 3, 64, lambda text: None).values()
    assert next(iter(short)).config == (64, 32, 4, 2) and next(iter(long)).config == TABLE
    assert min(one.config[0] for one in short) < 64 == min(one.config[0] for one in long)


def test_every_candidate_is_timed_first_and_only_the_fast_ones_after(tmp_path):
    clock = Clock()
    run = measured(tuning(), tmp_path / "run.jsonl", clock)
    scan = [(q_len, config) for q_len, _, config, budget in clock.asked if budget == 0.03]
    finals = [(q_len, config) for q_len, _, config, budget in clock.asked if budget == 0.12]
    assert scan == [(4096, config) for config in (TABLE, A, B, C, D)] + [(8192, config) for config in (TABLE, A, B, C)]
    assert finals == [(q_len, config) for q_len in (4096, 8192) for config in (TABLE, A, C)]
    (found,) = entries([run])
    assert tuple(found.config) == A
    assert found.workloads == 2
    assert found.table_us == pytest.approx(8192)


def test_wrong_results_are_rows_and_never_winners(tmp_path):
    clock = Clock(wrong={A})
    run = measured(tuning(), tmp_path / "run.jsonl", clock)
    assert [row["status"] for row in run.rows if row["config"] == list(A)] == ["wrong"]
    assert tuple(entries([run])[0].config) == C


def test_an_interrupted_tuning_goes_on_where_it_stopped(tmp_path):
    path, first, second, third = tmp_path / "run.jsonl", Clock(stop_after=4), Clock(), Clock()
    assert len(measured(tuning(), path, first).rows) == 4
    measured(tuning(), path, second)
    assert second.asked[0][2] == D
    measured(tuning(), path, third)
    assert {budget for *_, budget in third.asked} == {0.12}  # the finals alone


def test_finals_that_were_interrupted_count_for_all_who_were_in_them(tmp_path):
    clock = Clock(stop_after=13)  # the last was the default's second workload
    run = measured(tuning(), tmp_path / "run.jsonl", clock)
    assert (clock.asked[-1][0], *clock.asked[-1][2:]) == (8192, TABLE, 0.12)
    assert tuple(entries([run])[0].config) == A


@pytest.fixture
def seen_gpu(monkeypatch):
    """torch seems to see a GPU; what is measured there comes from a Clock, which is returned."""
    clock = Clock()

    class Child:
        def __enter__(self):
            return SimpleNamespace(measure=clock)

        def __exit__(self, *exception):
            pass

    properties = SimpleNamespace(name=GPU.name, major=9, minor=0, multi_processor_count=GPU.sms)
    monkeypatch.setattr(module.torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(module, "usable", lambda device: True)
    monkeypatch.setattr(module, "Child", Child)
    monkeypatch.setattr(module, "compile_all", lambda jobs, *others: dict.fromkeys(jobs, Compiled(200)))
    return clock


def test_tuning_compiles_then_times(seen_gpu, tmp_path):
    said = []
    wanted = tuning(config=(TABLE, A, B))
    run = module.tune(wanted, tmp_path / "run.jsonl", jobs=2, say=said.append, progress=False)
    assert said == ["2 workloads, 3 kernels compiled; left out: none"]
    assert len(seen_gpu.asked) == len(run.rows) == 2 * 3 + 2 * 3
    assert run.source == "measured" and "end" in run.header
    assert tuple(entries([run])[0].config) == A


def test_a_limit_is_for_compiling_and_timing_together(seen_gpu, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(module.time, "monotonic", lambda: seen_gpu.now)
    wanted = tuning(config=(TABLE, A, B))
    run = module.tune(wanted, tmp_path / "run.jsonl", limit_s=100, say=said.append, progress=False)
    assert len(run.rows) == 4
    assert said[-1].startswith("Stopped after 100 s")


def test_the_run_is_an_ordinary_one(tmp_path):
    wanted = tuning(mask=("causal()", "sliding_window(1024)"))
    run = measured(wanted, tmp_path / "run.jsonl", Clock(wrong={B}))
    read = read_run(tmp_path / "run.jsonl")
    assert read.header["command"] == wanted.command()
    assert read.header["parameters"]["heads"] == "32/16x256"
    assert read.rows == tuple(run.rows)
    row = read.rows[0]
    assert row["config"] == list(TABLE)
    assert row["plan"] == {"skip": "bounds", "registers": 200, "spill_bytes": 8, "shared_bytes": 1 << 16}
    assert Measurement.from_row({**row, "contender": "blockskip"}).point.key == row["point"]
    table = frame(read)
    assert "blockskip 128x64x8x2" in set(table["contender"])
    assert set(table["window"].dropna()) == {1024}
    html = report_html(read)
    assert "128x32x8x2" in html and "error 3 is above the tolerance" in html


def test_a_row_whose_tiles_were_tuned_on_another_device_is_flagged(monkeypatch):
    from skiplab.measure import Point, attention, measure

    def elsewhere(*arguments):
        plan = plan_of(*arguments)
        assert plan is not None
        assert plan.prefill is not None
        return replace(plan, prefill=replace(plan.prefill, origin=Origin("elsewhere", "NVIDIA H200")))

    plan_of = attention.plan_of
    point = Point(Workload(64, head_dim=16), "blockskip")
    assert "tuned-elsewhere" not in measure(point, budget_s=0.05, machine=ROOF).flags
    monkeypatch.setattr(attention, "plan_of", elsewhere)
    taken = measure(point, budget_s=0.05, machine=ROOF)
    assert "tuned-elsewhere" in taken.flags
    assert (taken.plan["origin"], taken.plan["tuned_on"]) == ("elsewhere", "NVIDIA H200")


def test_numbers_are_drawn_on_the_device_and_the_same_for_the_same_seed():
    (workload,) = tuning(heads="2/1x16", q_len=(8,)).workloads()
    first, again, other = (workload.inputs("cpu", seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first[0].equal(other[0])
    assert first[0].shape == (1, 2, 8, 16) and str(first[0].dtype) == "torch.bfloat16"
    assert workload.mask == bs.causal()


def test_by_default_each_kind_of_mask_that_has_tiles_of_its_own_is_tuned():
    kinds = [mask_kind(bs.Mask.from_spec(text))[0] for text in Tuning().mask]
    assert sorted(kinds) == sorted(MASK_KINDS)
