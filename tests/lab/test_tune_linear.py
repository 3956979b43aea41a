"""Tuning linear layers and decode: what is tried, what a run holds, what the kernels make of it. It needs no GPU."""

import json
import shlex
import sys
from dataclasses import replace

import pytest
import torch
from blockskip.attention.decode.plan import decode_config
from blockskip.config import TileConfig
from blockskip.gpu import Gpu, shared_bytes
from blockskip.linear import plan as plans
from blockskip.linear.measured import config_of, from_numbers
from blockskip.tuned import choose
from blockskip.tuned.files import CONFIGS, Tuned, read_tuned
from skiplab import paths
from skiplab.contenders import contenders
from skiplab.machine import Machine
from skiplab.measure import Measurement
from skiplab.measure.timing import Cancelled
from skiplab.store import read_run
from skiplab.sweep import run_header
from skiplab.tuning import files, linear
from skiplab.tuning import tune as module
from skiplab.tuning.base import Candidate
from skiplab.tuning.compiling import Compiled, Job, compile_all
from skiplab.tuning.decode import DecodeTuning
from skiplab.tuning.files import configs_folder, write_configs
from skiplab.tuning.linear import CONTENDERS, KERNELS, ROWS, SHAPES, LinearTuning
from skiplab.tuning.modules import MODULES
from skiplab.tuning.winners import entries, summary

GPU = Gpu("NVIDIA H200", (9, 0), 132)
DEVICE = {"name": GPU.name, "kind": "cuda", "compute_capability": "9.0", "sms": GPU.sms}
ROOF = Machine(GPU.name, "cuda", bandwidth_gbps=4000, tflops=800, source="measured")


@pytest.fixture(autouse=True)
def a_gpu_that_is_not_here(monkeypatch):
    monkeypatch.setattr(sys.modules[run_header.__module__], "describe", lambda asked: DEVICE)
    monkeypatch.setattr(module, "this_machine", lambda device, dtype: ROOF)


def tuning(**changed):
    return LinearTuning(**{"shape": ((4096, 4096), (512, 2048)), "rows": (1, 64), **changed})


class Clock:
    """Stands for the child that measures: `us(point)` is a time, or None for a wrong result."""

    def __init__(self, us, stop_after=None):
        self.us, self.stop_after, self.asked = us, stop_after, []

    def __call__(self, point, seed, budget_s, *, machine, retries, cancelled):
        if len(self.asked) == self.stop_after:
            raise Cancelled
        self.asked.append((point.workload, Candidate(point.contender, point.config), budget_s))
        blank = Measurement(point, "wrong", "error 3 is above the tolerance", device_name=GPU.name)
        us = self.us(point)
        return blank if us is None else replace(blank, status="ok", error_text="", samples_ns=(int(1e3 * us),) * 5)


def kept(wanted):
    """What would be timed if all compiled, the default first."""
    module, found = MODULES[wanted.operation], {}
    for w in wanted.workloads():
        several = wanted.candidates(w, GPU)
        first = module.default(module.class_of(w.axes(), several[0], GPU.sms), GPU)
        found[w] = {first: None} | dict.fromkeys(several, Compiled(100, 0, 1 << 16))
    return found


def measured(wanted, path, us, **named):
    clock = us if isinstance(us, Clock) else Clock(us)
    return module.measure_all(wanted, path, GPU, kept(wanted), clock, progress=False, **named)


def by_sizes(point):
    """One kernel's times, so that the third of its candidates is the fastest for every workload."""
    config = point.config or (1,)
    return 20 + abs(config[-1] - 3) + 0.01 * sum(config) + point.workload.rows / 10


@pytest.mark.parametrize("form", [{}, {"bits": 8, "group_size": 64}, {"packing": "tiles"}, {"symmetric": True}])
def test_candidates_are_kernels_that_there_are_with_sizes_that_they_have(form):
    wanted = tuning(rows=ROWS, **form)
    for w in wanted.workloads():
        found = wanted.candidates(w, GPU)
        assert 5 < len(found) < 30 and len(set(found)) == len(found)
        kernels = {KERNELS[one.contender] for one in found}
        few = wanted.packing == "rows" and w.rows <= 8  # where activations are rounded, whatever is faster
        names = {"matvec"} if few else {"fused", "dequantize"}
        assert kernels == {(name, wanted.packing) for name in names}
        for one in found:
            kernel, packing = KERNELS[one.contender]
            sizes = from_numbers(kernel, packing, one.config or ())
            assert list(sizes.values()) == list(one.config or ())
            config_of(kernel, packing, sizes)
        one = linear.class_of(w.axes(), found[0], GPU.sms)
        assert linear.default(one, GPU) in found


def test_every_candidate_is_a_contender_that_takes_its_sizes():
    known = contenders("linear")
    for (kernel, _), name in CONTENDERS.items():
        assert (known[name].configured is not None) == (kernel != "dequantize")
    assert contenders("decode")["blockskip"].configured is not None


def test_shapes_that_a_form_cannot_have_are_left_out_of_the_default_and_refused_when_named():
    assert {(w.out_features, w.in_features) for w in LinearTuning().workloads()} == set(SHAPES)
    tiles = {(w.out_features, w.in_features) for w in LinearTuning(packing="tiles").workloads()}
    assert tiles == set(SHAPES) - {(2880, 2880)}
    assert all(w.in_features % 128 == 0 for w in LinearTuning(group_size=128).workloads())
    with pytest.raises(ValueError, match=r"shape: got 2880x2880: its shape is \(2880, 2880\); N must be a multiple"):
        LinearTuning(((2880, 2880),), packing="tiles")


def test_the_command_repeats_it():
    words = shlex.split(tuning(symmetric=True).command())
    assert words[:3] == ["skiplab", "tune", "linear"]
    assert "--symmetric" in words and "--shape 4096x4096 --shape 512x2048 --rows 1 --rows 64" in " ".join(words)
    assert "--window causal --window 64" in DecodeTuning(window=(None, 64)).command()
    assert tuning().key != tuning(bits=8).key


def test_a_run_holds_every_sample_and_makes_the_file_that_the_kernels_read(tmp_path, monkeypatch):
    wanted = tuning()
    run = measured(wanted, tmp_path / "run.jsonl", by_sizes)
    read = read_run(tmp_path / "run.jsonl")
    assert read.header["command"] == wanted.command() and read.header["source_hash"]
    assert all(len(row["samples_ns"]) == 5 and row["source_hash"] for row in read.rows)
    assert Measurement.from_row({**read.rows[0], "contender": "blockskip-matvec"}).point.key == read.rows[0]["point"]
    found = {(one.out_features, one.in_features, one.rows): one for one in entries([run])}
    assert set(found) == {(n, k, rows) for n, k in wanted.shape for rows in (1, 64)}
    assert found[4096, 4096, 1].kernel == "matvec" and found[4096, 4096, 1].form.activations == "int8"
    path = write_configs([run], tmp_path / "configs")
    assert read_tuned(path).entries("linear") == entries([run])
    assert "4096x4096" in summary([run]) and "int4 rows g32" in summary([run])
    fastest = found[4096, 4096, 64]
    plan = planned(monkeypatch, read_tuned(path), 4096, 4096, 64)
    assert (plan.kernel, str(plan.origin)) == (fastest.kernel, "tuned on NVIDIA H200")
    assert (plan.config, plan.splits) == config_of(fastest.kernel, "rows", fastest.config)


def planned(monkeypatch, tuned: Tuned, n, k, rows):
    """What a call on an H200 would take with that file."""

    class OnGpu:
        is_cuda, device, dtype, shape = True, torch.device("cuda"), torch.bfloat16, (rows, k)

    monkeypatch.setattr(choose, "tuned_devices", lambda: (tuned,))
    choose.find_linear.cache_clear()
    monkeypatch.setattr(plans.Gpu, "of", classmethod(lambda cls, device: GPU))
    try:
        return plans.make_plan(OnGpu(), linear.layout(n, k, 4, 32, False, "rows"), "triton", "measured")
    finally:
        choose.find_linear.cache_clear()


def test_the_crossover_follows_the_times(tmp_path):
    def us(point):
        return {"blockskip-dequantize": 50, "blockskip-fused": point.workload.rows}.get(point.contender, 5)

    run = measured(tuning(rows=(16, 32, 64, 128)), tmp_path / "run.jsonl", us)
    kernels = {one.rows: (one.kernel, one.config) for one in entries([run]) if one.out_features == 4096}
    assert {rows: kernel for rows, (kernel, _) in kernels.items()} == {
        16: "fused", 32: "fused", 64: "dequantize", 128: "dequantize",
    }  # fmt: skip
    assert kernels[64][1] == {} and set(kernels[16][1]) >= {"block_m", "splits"}


def test_a_default_that_is_as_soon_stays_and_what_is_wrong_never_wins(tmp_path):
    wanted = tuning(shape=((4096, 4096),), rows=(64,))
    (w,) = wanted.workloads()
    first, second, *_ = (one for one in kept(wanted)[w] if one.contender == "blockskip-fused")
    run = measured(wanted, tmp_path / "level.jsonl", lambda point: 10.0)
    assert entries([run])[0].config == from_numbers("fused", "rows", first.config)
    run = measured(wanted, tmp_path / "wrong.jsonl", lambda point: None if point.config == second.config else 10.0)
    assert "wrong" in {row["status"] for row in run.rows}
    assert entries([run])[0].config == from_numbers("fused", "rows", first.config)


def test_what_was_slow_on_one_shape_is_not_timed_on_the_next_with_as_many_rows(tmp_path):
    def us(point):
        return 100 if point.contender == "blockskip-dequantize" else 10

    clock = Clock(us)
    measured(tuning(rows=(16, 64)), tmp_path / "run.jsonl", clock)
    slow = [(w.out_features, w.rows) for w, one, _ in clock.asked if one.contender == "blockskip-dequantize"]
    assert slow == [(4096, 16), (4096, 64)]


def test_an_interrupted_tuning_goes_on_where_it_stopped(tmp_path):
    first, second = Clock(by_sizes, stop_after=7), Clock(by_sizes)
    run = measured(tuning(), tmp_path / "run.jsonl", first)
    assert len(run.rows) == 7 and run.header["interrupted"] is True
    measured(tuning(), tmp_path / "run.jsonl", second)
    assert not {one[:2] for one in first.asked} & {one[:2] for one in second.asked if one[2] == 0.03}


def test_tiles_are_a_form_of_their_own(tmp_path):
    rows, tiles = (
        measured(tuning(packing=packing, rows=(64,)), tmp_path / f"{packing}.jsonl", by_sizes)
        for packing in ("rows", "tiles")
    )
    found = entries([rows, tiles])
    assert {(one.form.packing, one.out_features) for one in found} == {
        (packing, n) for packing in ("rows", "tiles") for n in (4096, 512)
    }
    path = write_configs([rows, tiles], tmp_path)
    assert read_tuned(path).sections["linear"].runs == "rows.jsonl, tiles.jsonl"


def test_decode_is_tuned_by_rows_of_a_program(tmp_path):
    wanted = DecodeTuning(heads="32/16x256", kv_len=(1024, 4096))
    run = measured(wanted, tmp_path / "run.jsonl", lambda point: 10 + abs(point.config[1] - 32) + point.config[3])
    (found,) = entries([run])
    best = min(kept(wanted)[wanted.workloads()[0]], key=lambda one: (abs(one.config[1] - 32), one.config[3]))
    assert found.config == TileConfig.of((*best.config[:2], found.config.num_warps, best.config[3]))
    assert (found.head_dim, found.element_bytes, found.config.block_m, found.workloads) == (256, 2, 16, 2)
    path = write_configs([run], tmp_path)
    assert read_tuned(path).entries("decode") == (found,)
    assert "256" in summary([run])


def test_tiles_of_the_warp_specialized_kernel_are_not_tuned():
    wanted = DecodeTuning(heads="32/8x128", kv_len=(8192,), q_len=(16, 32))
    few, many = wanted.workloads()
    assert wanted.candidates(few, GPU)
    with pytest.raises(ValueError, match="q_len: got 32, 128 rows of a KV head over 8192 keys; the warp-specialized"):
        wanted.candidates(many, GPU)


@pytest.mark.parametrize("head_dim", [64, 128, 256, 512])
def test_decodes_candidates_fit_and_hold_the_tables_own(head_dim):
    wanted = DecodeTuning(heads=f"32/8x{head_dim}")
    found = wanted.candidates(wanted.workloads()[0], GPU)
    assert tuple(decode_config((9, 0), head_dim, torch.bfloat16, 4)) in [one.config for one in found]
    assert len(found) < 60
    for one in found:
        _, block_n, _, stages = one.config
        assert 2 * block_n * head_dim * 2 * stages <= shared_bytes((9, 0))
        TileConfig.of(one.config)


def test_an_operation_is_written_beside_the_others(tmp_path):
    shipped = CONFIGS / "h100-80gb-hbm3.json"
    text = shipped.read_text()
    path = tmp_path / "h200.json"
    path.write_text(text.replace("NVIDIA H100 80GB HBM3", GPU.name))
    before = read_tuned(path).sections["attention"]
    run = measured(tuning(), tmp_path / "run.jsonl", by_sizes)
    assert write_configs([run], tmp_path) == path
    after = read_tuned(path)
    assert after.sections["attention"] == before and len(after.entries("linear")) == 4
    assert files.text_of(read_tuned(shipped)) == text  # what is shipped is as it would be written


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    run = measured(tuning(), tmp_path / "run.jsonl", by_sizes)
    path = write_configs([run], tmp_path)
    before = path.read_text()
    monkeypatch.setattr(files, "text_of", lambda tuned: '{"schema": 3')
    with pytest.raises(ValueError, match=r"\.part: Expecting"):
        write_configs([run], tmp_path)
    assert path.read_text() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["h200.json", "run.jsonl"]


def test_installed_winners_go_to_the_users_folder_which_the_kernels_read(tmp_path, monkeypatch):
    assert configs_folder() == CONFIGS  # a checkout
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(files, "installed", lambda: True)
    run = measured(tuning(), tmp_path / "run.jsonl", by_sizes)
    path = write_configs([run])
    assert path == tmp_path / "home" / "skiplab" / "configs" / "h200.json"
    try:
        form = entries([run])[0].form
        entry, origin = choose.find_linear(GPU, form, 4096, 4096, 1)
        assert entry in entries([run]) and str(origin) == "tuned on NVIDIA H200"
    finally:
        choose.forget()
    assert json.loads(path.read_text())["operations"].keys() == {"linear"}
    assert not paths.installed()


@pytest.mark.skipif(sys.platform != "linux", reason="Triton compiles on Linux alone")
def test_linears_and_decodes_candidates_compile_for_a_gpu_that_is_not_here():
    found = []
    for wanted in (
        tuning(shape=((512, 2048),), rows=(1,)), tuning(shape=((512, 2048),), rows=(64,), bits=8),
        tuning(shape=((512, 2048),), rows=(16,), packing="tiles"), DecodeTuning(heads="4/2x64", kv_len=(1024,)),
    ):  # fmt: skip
        (w,) = wanted.workloads()
        sized = [one for one in wanted.candidates(w, GPU) if one.config]
        found.append(Job((9, 0), w, sized[0]))
    none = Job((9, 0), tuning().workloads()[0], Candidate("blockskip-dequantize"))
    compiled = compile_all([*found, none], 1, progress=False)
    assert all(compiled[job].registers > 20 and not compiled[job].refusal((9, 0), 64) for job in found), compiled
    assert compiled[none] == Compiled()
