"""Keys in float8, batches whose sequences differ in length, and sinks: as workloads, truth, rows and for peers."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from types import ModuleType

import blockskip as bs
import pytest
import torch
from skiplab.contenders import contender, contenders, kernel
from skiplab.contenders.base import NEEDS, Contender
from skiplab.figures.frames import speedups
from skiplab.measure import Measurement, Point
from skiplab.measure.truth import truth
from skiplab.measure.verify import compare, decibel, verify
from skiplab.report import narrow_notes, time_table
from skiplab.store import frame, query, read_run
from skiplab.sweep import DecodeSweep, Sweep, run_sweep, sweep_at, sweep_of
from skiplab.workload import DecodeWorkload, Workload
from skiplab.workload.problem import FLOAT8

HEADS = {"q_heads": 4, "kv_heads": 2, "head_dim": 32}
STEP = DecodeWorkload(70, None, 2, 3, **HEADS, buffer=90)
RAGGED = replace(STEP, ragged=0.25)
PROMPT = Workload(40, 60, bs.sliding_window(9), 2, **HEADS)
WORKLOADS = [
    replace(STEP, kv_dtype=FLOAT8), RAGGED, replace(RAGGED, kv_dtype=FLOAT8, window=20),
    replace(PROMPT, kv_dtype=FLOAT8), replace(PROMPT, sinks=True), replace(PROMPT, kv_dtype=FLOAT8, sinks=True),
]  # fmt: skip


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.key())
def test_it_comes_back_from_its_axes_and_names_its_inputs(workload):
    axes = workload.axes()
    assert type(workload).from_axes(axes) == workload
    assert len({one.key() for one in (*WORKLOADS, STEP, PROMPT)}) == len(WORKLOADS) + 2
    assert len(workload.inputs("cpu", 0)) == len(workload.input_names) > 3
    assert set(workload.needs) <= set(NEEDS) and workload.needs


def test_other_axes_are_those_of_runs_made_before():
    assert not {"kv_dtype", "ragged", "sinks"} & {*STEP.axes(), *PROMPT.axes()}
    assert replace(STEP, kv_dtype="bfloat16") == STEP and STEP.needs == ()


@pytest.mark.parametrize(
    ("fields", "named"),
    [({"kv_dtype": "float16"}, "kv_dtype: given 'float16'; allowed are bfloat16, float8_e4m3fn"),
     ({"ragged": 1.0}, "ragged: got 1; allowed is more than 0 and less than 1"),
     ({"ragged": 0.5, "batch": 1}, "ragged: got 0.5 with batch 1")],
)  # fmt: skip
def test_errors_name_the_field(fields, named):
    with pytest.raises(ValueError, match=named):
        replace(STEP, **fields)


def test_lengths_lie_evenly_from_a_share_to_all_in_no_order():
    many = replace(STEP, kv_len=1000, batch=7, buffer=None, ragged=0.25)
    assert sorted(many.key_counts) == [250, 375, 500, 625, 750, 875, 1000] != list(many.key_counts)
    assert many.inputs("cpu", 0)[-1].tolist() == list(many.key_counts)
    assert min(replace(many, ragged=0.0001, q_len=5).key_counts) == 5  # no sequence is shorter than its queries
    assert STEP.key_counts == (70, 70, 70)


def test_behind_each_sequences_keys_stands_nan():
    for workload in (RAGGED, replace(RAGGED, kv_dtype=FLOAT8)):
        for cache in workload.inputs("cpu", 0)[1:3]:
            for sequence, count in zip(cache.float(), workload.key_counts, strict=True):
                assert sequence[:, :count].isfinite().all() and sequence[:, count:].isnan().all()


def test_work_is_the_sum_of_the_sequences():
    alone = [replace(STEP, kv_len=count, batch=1, window=20) for count in RAGGED.key_counts]
    whole, parts = replace(RAGGED, window=20).work(3), [one.work(3) for one in alone]
    for name in vars(whole):
        assert getattr(whole, name) == sum(getattr(one, name) for one in parts)


def test_narrow_keys_are_half_the_bytes():
    queries = 2 * 3 * 4 * 2 * 32 * 2  # q and out: batch, heads, rows, dimensions
    assert STEP.work().bytes - queries == 2 * (WORKLOADS[0].work().bytes - queries)
    for skip in ("none", "map", "bounds"):
        wide, narrow = PROMPT.work(skip, 16, 16), WORKLOADS[3].work(skip, 16, 16)
        keys = 60 if skip == "none" else 16 + 44  # all tiles of 16 keys but those that no query sees
        assert wide.bytes - narrow.bytes == 2 * 2 * 2 * 32 * keys
        assert replace(narrow, bytes=wide.bytes) == wide


@pytest.mark.parametrize("deviation", [1.0, 8.0])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.key())
def test_the_truth_is_the_dense_reference_in_float64(workload, deviation):
    """Of the numbers that float8 stands for; and of those before, where the dB are of."""
    named = dict(zip(workload.input_names, workload.inputs("cpu", 5, deviation), strict=True))
    for name in ("k", "v"):
        scale = named.pop(f"{name}_scale", None)
        named[name] = named[name].double()
        if scale is not None:
            named[name] = named[name] * scale[:, None, None]
    named["q"] = named["q"].double()
    named["sinks"] = named["sinks"].double() if "sinks" in named else None
    counts = {"kv_len": named.pop("kv_len", workload.keys)}
    want = bs.attention(**named, **counts, mask=workload.mask, impl="reference")
    found = truth(workload, "cpu", 5, deviation, None)
    assert (found.out - want).abs().max() < 1e-12 * want.abs().max()
    assert 0 < found.tolerance < 0.1
    plain = workload.before_rounding
    assert (found.before_rounding is None) is (plain is None)
    if plain is not None:
        assert torch.equal(found.before_rounding, truth(plain, "cpu", 5, deviation, None).out)


@pytest.mark.parametrize("name", ["blockskip", "reference"])
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda one: one.key())
def test_ours_are_right_and_say_what_rounding_costs(name, workload):
    found = verify(workload, contender(name, workload.operation), "cpu", 0)
    assert found.passed, found.problem
    assert (found.snr_db is not None) is (workload.kv_dtype is not None)
    assert found.snr_db is None or 20 < found.snr_db < 40


def test_decibel():
    exact = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert decibel(exact + torch.tensor([0.0, 0.5]), exact) == pytest.approx(10 * math.log10(25 / 0.25))
    assert decibel(exact, exact) is None and decibel(exact, torch.zeros_like(exact)) is None


def test_an_error_beyond_the_tolerance_is_wrong_whatever_the_noise():
    workload = WORKLOADS[0]
    expected = truth(workload, "cpu", 0, 1.0, None)
    spoilt = (expected.out + 10 * expected.tolerance).to(torch.bfloat16)
    assert "above the tolerance" in compare(workload, spoilt, expected).problem


def test_who_was_not_made_for_it_says_so():
    for workload in WORKLOADS:
        for entry in contenders(workload.operation).values():
            reason = entry.refusal(workload, "cuda")
            lacking = [need for need in workload.needs if need not in entry.takes]
            assert not lacking or reason == next(NEEDS[need] for need in NEEDS if need in lacking)
    assert contender("blockskip").takes and not contender("sdpa").takes


@pytest.mark.usefixtures("own_registry")
def test_a_users_kernel_that_is_made_for_float8_is_given_it():
    @kernel("decode", name="own", takes=("float8",))
    def build(workload, inputs):
        scales = dict(zip(workload.input_names[3:], inputs[3:], strict=True))
        return lambda q, k, v, *more: bs.decode(q, k, v, kv_len=workload.kv_len, window=workload.window, **scales)

    entry = contender("own", "decode")
    assert isinstance(entry, Contender) and entry.refusal(RAGGED, "cpu") == NEEDS["ragged"]
    assert verify(WORKLOADS[0], entry, "cpu", 0).passed and verify(STEP, entry, "cpu", 0).passed
    with pytest.raises(ValueError, match="takes: given 'int8'; allowed are float8, ragged, sinks"):
        kernel("decode", name="other", takes=("int8",))


def test_a_sweep_runs_over_dtypes_of_keys_and_says_so(tmp_path):
    sweep = DecodeSweep(
        ("blockskip", "sdpa"), (40, 60), (None,), 1, 2, **HEADS, budget_s=0.02, kv_dtype=("bfloat16", FLOAT8)
    )
    assert "--kv-dtype bfloat16 --kv-dtype float8_e4m3fn" in sweep.command()
    assert replace(sweep, ragged=0.5).command().endswith("--ragged 0.5")
    run = run_sweep(sweep, tmp_path / "run.jsonl", isolate=False, progress=False)
    assert [row["status"] for row in run.rows] == ["ok", "ok", "ok", "unsupported"] * 2
    noisy = {row["axes"].get("kv_dtype"): "snr_db" in row for row in run.rows if row["status"] == "ok"}
    assert noisy == {None: False, FLOAT8: True}
    again = read_run(tmp_path / "run.jsonl")
    assert sweep_of("decode", again.header["parameters"]) == sweep
    measured = [Measurement.from_row(row) for row in again.rows]
    assert [one.snr_db for one in measured] == [row.get("snr_db") for row in run.rows]
    table = frame(again)
    assert table.equals(query(tmp_path / "run.jsonl").assign(parts=table["parts"]))
    assert set(query(table, kv_dtype=FLOAT8, status="ok")["snr_db"].between(20, 40)) == {True}
    assert list(time_table(table)["keys as"]) == ["bfloat16", FLOAT8] * 2
    (note,) = narrow_notes(table)
    assert note.startswith("blockskip, keys and values in float8_e4m3fn: ") and note.endswith(" dB")
    assert "as fast as in bfloat16, signal-to-noise ratio 2" in note
    assert set(speedups(table)["kv_dtype"].isna()) == {True}  # float8 stands beside no float's base


def test_older_headers_lack_the_new_axes():
    for kind in (Sweep, DecodeSweep):
        parameters = {"contenders": ["blockskip"], **{name: list(value) if isinstance(value, tuple) else value
                      for name, value in vars(kind()).items() if name != "contenders"}}  # fmt: skip
        for name in ("kv_dtype", "ragged", "sinks", "lengths", "mask"):
            parameters.pop(name, None)
        assert sweep_of(kind.operation, parameters) == kind(("blockskip",))
        with pytest.raises(ValueError, match="lack seed"):
            sweep_of(kind.operation, {name: value for name, value in parameters.items() if name != "seed"})


def test_axes_from_text():
    sweep = sweep_at("decode", ["blockskip"], {"kv_len": "64", "kv_dtype": FLOAT8, "ragged": "0.25", "batch": 4})
    assert {one.kv_dtype for one in sweep.workloads()} == {FLOAT8} and sweep.workloads()[0].ragged == 0.25
    assert sweep_at("attention", ["blockskip"], {"sinks": "true"}).workloads()[0].sinks


def attend(q, k, v, counts=None, sinks=None):
    """[B, L, H, D], causal with the last query at each sequence's last key; sinks as one more logit a head."""
    q, k, v = (x.transpose(1, 2).float() for x in (q, k, v))
    group = q.shape[1] // k.shape[1]
    counts = torch.full((len(q),), k.shape[2]) if counts is None else counts
    last = (torch.arange(q.shape[2])[None] + counts[:, None] - q.shape[2])[:, None, :, None]
    keep = torch.arange(k.shape[2]) <= last
    scores = (q @ k.repeat_interleave(group, 1).mT * q.shape[-1] ** -0.5).masked_fill(~keep, -torch.inf)
    if sinks is not None:
        scores = torch.cat([scores, sinks.float()[None, :, None, None].expand(*scores.shape[:3], 1)], -1)
    weights = scores.softmax(-1)[..., : k.shape[2]]
    return (weights @ v.repeat_interleave(group, 1)).transpose(1, 2)


@pytest.fixture
def install(monkeypatch):
    def make(name, **attributes):
        module = ModuleType(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None, is_package=True), []
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)

    return make


def test_flash_attention_3_is_given_each_sequences_keys(install):
    def flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=None, causal=False, window_size=(-1, -1)):
        assert k_cache.isfinite().all() and v_cache.isfinite().all()
        return attend(q, k_cache, v_cache, cache_seqlens).to(q.dtype)

    install("fa3_fwd_interface", flash_attn_with_kvcache=flash_attn_with_kvcache)
    install("fa3_fwd_config", CONFIG={"build_flags": {}})
    entry = contender("fa3", "decode")
    assert entry.refusal(RAGGED, "cuda") is None and verify(RAGGED, entry, "cpu", 0).problem == ""
    assert verify(STEP, entry, "cpu", 0).problem == ""
    assert "one slice" in entry.refusal(replace(RAGGED, window=9, q_len=1), "cuda")


def test_flash_attention_4_takes_sinks_and_few_queries(install):
    def flash_attn_func(q, k, v, causal=False, window_size=(None, None), learnable_sink=None):
        assert causal and window_size == (None, None)
        return attend(q, k, v, None, learnable_sink).to(q.dtype), None

    install("flash_attn")
    install("flash_attn.cute", flash_attn_func=flash_attn_func)
    for workload in (Workload(40, **HEADS, sinks=True), Workload(40, **HEADS), STEP):
        entry = contender("fa4", workload.operation)
        assert entry.refusal(workload, "cuda") is None and verify(workload, entry, "cpu", 0).problem == ""


class PagedDecode:
    """What FlashInfer's documentation says of BatchDecodeWithPagedKVCacheWrapper."""

    def __init__(self, workspace, layout, use_tensor_cores=False):
        assert workspace.dtype == torch.uint8 and layout == "NHD"

    def plan(self, indptr, indices, last, q_heads, kv_heads, head_dim, page, window_left=-1, q_data_type=None):
        assert {x.dtype for x in (indptr, indices, last)} == {torch.int32} and q_data_type == torch.bfloat16
        assert bool((last > 0).all()) and bool((last <= page).all()) and window_left == -1
        self.planned = [
            (indices[first:end].long(), (end - first - 1) * page + int(rest))
            for first, end, rest in zip(indptr[:-1].tolist(), indptr[1:].tolist(), last, strict=True)
        ]

    def run(self, q, caches):
        k, v = caches
        outs = [
            attend(one[None, None], *(x[pages].flatten(0, 1)[None, :count] for x in (k, v)))
            for one, (pages, count) in zip(q, self.planned, strict=True)
        ]
        return torch.cat(outs)[:, 0].to(q.dtype)


def test_flashinfer_plans_pages_by_the_lengths(install):
    install("flashinfer", BatchDecodeWithPagedKVCacheWrapper=PagedDecode)
    entry, alone = contender("flashinfer-batch", "decode"), replace(RAGGED, q_len=1, head_dim=64)
    for workload in (alone, replace(alone, kv_len=64, buffer=64), replace(alone, ragged=None)):
        assert entry.refusal(workload, "cuda") is None and verify(workload, entry, "cpu", 0).problem == ""
    assert "one query" in entry.refusal(replace(alone, q_len=2), "cuda")


def test_flashinfers_prefill_kernel_takes_few_queries(install):
    def single_prefill_with_kv_cache(q, k, v, causal=False, kv_layout="NHD", window_left=-1):
        assert causal and kv_layout == "NHD" and window_left == -1
        return attend(q[None], k[None], v[None])[0].to(q.dtype)

    install("flashinfer", single_prefill_with_kv_cache=single_prefill_with_kv_cache)
    entry, workload = contender("flashinfer-prefill", "decode"), replace(STEP, batch=1, head_dim=64)
    assert entry.refusal(workload, "cuda") is None and verify(workload, entry, "cpu", 0).problem == ""


def test_ffpa_is_asked_for_large_causal_heads(install):
    def ffpa_attn_func(q, k, v, is_causal=False, enable_gqa=False):
        assert is_causal and enable_gqa
        return attend(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2).to(q.dtype)

    install("ffpa_attn", ffpa_attn_func=ffpa_attn_func)
    entry, workload = contender("ffpa"), Workload(512, q_heads=2, kv_heads=1, head_dim=320)
    assert entry.refusal(workload, "cuda") is None and verify(workload, entry, "cpu", 0).problem == ""
    for other in (replace(workload, q_len=256), replace(workload, head_dim=128), replace(workload, dtype="float32")):
        assert "to torch" in entry.refusal(other, "cuda")
    assert "causal" in entry.refusal(replace(workload, mask=bs.sliding_window(9)), "cuda")


def test_flex_weighs_sinks_by_its_log_sum_exp(monkeypatch):
    """Not compiled: on a CPU torch.compile has no log-sum-exp of it."""
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    workload = Workload(128, q_heads=2, kv_heads=1, head_dim=32, sinks=True, dtype="float32")
    assert verify(workload, contender("flex"), "cpu", 0).problem == ""
    assert "log-sum-exp" in contender("flex").refusal(workload, "cpu")
    assert contender("flex").refusal(workload, "cuda") is None


def test_a_points_key_tells_them_apart():
    assert len({Point(one, "blockskip").key for one in (*WORKLOADS, STEP, PROMPT)}) == len(WORKLOADS) + 2
