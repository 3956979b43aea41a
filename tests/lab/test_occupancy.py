"""Who reads which keys, and when: held to the kernel's own plan, to the mask, and to what is known of peers' rules."""

from __future__ import annotations

import itertools

import pytest
import torch
from blockskip.attention.call import DecodeArguments
from blockskip.attention.decode.eager import check_decode
from blockskip.attention.decode.plan import plan_decode_kernel
from skiplab.anatomy import decode
from skiplab.machine import Machine, known_gpus
from skiplab.occupancy import SPLIT_POLICIES, comparison, executorch_splits, live_keys, schedule, schedules
from skiplab.workload import MODELS, DecodeWorkload

H200 = known_gpus()["NVIDIA H200"]
A100 = known_gpus()["NVIDIA A100 80GB SXM"]

AWKWARD = [
    DecodeWorkload(kv_len=2048, buffer=131072),
    DecodeWorkload(kv_len=1, buffer=1),
    DecodeWorkload(kv_len=3000, window=1024, q_len=8, batch=3),
    DecodeWorkload(kv_len=129, window=1, buffer=4097, q_heads=6, kv_heads=2, head_dim=80),
    DecodeWorkload(kv_len=9, q_len=8, buffer=70, window=2),
    DecodeWorkload(kv_len=16384, q_heads=32, kv_heads=4, head_dim=512, window=999),
    DecodeWorkload(kv_len=777, q_heads=32, kv_heads=1, head_dim=256, q_len=8, dtype="float32"),
]


@pytest.mark.parametrize("gpu", [H200, A100, known_gpus()["NVIDIA GeForce RTX 5090"]], ids=lambda gpu: gpu.name)
@pytest.mark.parametrize("workload", AWKWARD, ids=str)
def test_ours_is_what_decode_plans(workload, gpu):
    w = workload
    q = torch.empty(w.batch, w.q_heads, w.q_len, w.head_dim, dtype=w.torch_dtype, device="meta")
    cache = torch.empty(w.batch, w.kv_heads, w.slots, w.head_dim, dtype=w.torch_dtype, device="meta")
    call = check_decode(DecodeArguments(q, cache, cache, None, w.window, impl="triton"))
    major, minor = map(int, gpu.compute_capability.split("."))
    plan = plan_decode_kernel(call, (major, minor), gpu.sms)
    ours = schedule(w, gpu)
    assert plan.config is not None
    assert (ours.splits, ours.programs, ours.block_n) == (plan.splits, plan.programs, plan.config.block_n)
    assert ours.fused == (plan.fused if plan.splits > 1 else None)
    assert ours.most_tiles <= -(-plan.tiles // plan.splits)


@pytest.mark.parametrize("policy", SPLIT_POLICIES)
@pytest.mark.parametrize("workload", AWKWARD, ids=str)
def test_every_key_that_a_query_sees_is_read_once(workload, policy):
    plan = schedule(workload, H200, policy)
    read = [key for share in plan.shares for key in range(share.first, share.end)]
    first = 0 if policy == "executorch" else plan.live.start
    assert read == list(range(first, workload.kv_len))
    assert plan.keys_read == len(read)
    for share in plan.shares:
        touched = {(key if policy != "executorch" else key - share.first) // plan.block_n
                   for key in range(share.first, share.end)}  # fmt: skip
        assert share.tiles == len(touched)


@pytest.mark.parametrize("workload", AWKWARD, ids=str)
def test_live_keys_are_those_of_the_mask(workload):
    queries = torch.arange(workload.kv_len - workload.q_len, workload.kv_len)[:, None]
    seen = workload.mask.keep(queries, torch.arange(workload.kv_len)).any(0)
    live = live_keys(workload)
    assert seen.nonzero().flatten().tolist() == list(live)
    assert len(live) == workload.live_keys


@pytest.mark.parametrize("policy", SPLIT_POLICIES)
@pytest.mark.parametrize("workload", AWKWARD, ids=str)
def test_programs_run_once_each_alone_on_their_sm_and_none_waits_for_nothing(workload, policy):
    plan = schedule(workload, A100, policy)
    alive = [
        (kv_head * plan.blocks + block) * plan.splits + split
        for kv_head in range(plan.heads // plan.blocks)
        for split in range(plan.splits)
        for block in range(plan.blocks)
        if plan.shares[split].keys
    ]
    assert [run.program for run in plan.runs] == alive
    by_sm = {}
    for run in plan.runs:
        assert 0 <= run.sm < 108
        assert run.end - run.start == pytest.approx(plan.shares[run.program % plan.splits].keys * plan.key_seconds)
        by_sm.setdefault(run.sm, []).append(run)
    for runs in by_sm.values():
        assert runs[0].start == 0
        for before, after in itertools.pairwise(runs):
            assert after.start == before.end
    assert plan.reading_seconds == max(run.end for run in plan.runs)
    longest = max(run.end - run.start for run in plan.runs)
    work = sum(run.end - run.start for run in plan.runs) / 108
    assert work <= plan.reading_seconds * (1 + 1e-9)
    assert plan.reading_seconds <= (work + longest) * (1 + 1e-9)  # Graham's bound for any list of jobs
    assert plan.busy == pytest.approx(work / plan.reading_seconds)
    assert sum(plan.busy_sms) == len(plan.runs) and plan.idle_sms == 108 - len(by_sm)


@pytest.mark.parametrize("workload", AWKWARD, ids=str)
def test_nothing_is_faster_than_its_floor(workload):
    for plan in schedules(workload, H200).values():
        assert plan.seconds >= plan.floor_seconds * (1 - 1e-9)
        assert plan.floor_seconds == pytest.approx(workload.work().bytes / (H200.bandwidth_gbps * 1e9))


def test_a_large_buffer_with_few_keys():
    plans = schedules(DecodeWorkload(kv_len=2048, buffer=131072), H200)
    assert (plans["executorch"].splits, plans["executorch"].live_splits) == (128, 2)
    assert plans["executorch"].busy_sms == (32,)
    assert (plans["blockskip"].splits, plans["blockskip"].live_splits) == (8, 8)
    assert plans["blockskip"].busy_sms == (128,)
    assert plans["executorch"].seconds > 4 * plans["blockskip"].seconds
    full = schedules(DecodeWorkload(kv_len=2048), H200)
    assert full["executorch"].seconds == pytest.approx(full["blockskip"].seconds)  # the buffer is to blame


def test_executorch_divides_the_buffer_by_its_slots():
    assert [executorch_splits(slots) for slots in (100, 256, 257, 2048, 131_072)] == [1, 1, 2, 8, 128]


def test_comparison_has_a_row_a_policy():
    table = comparison(schedules(DecodeWorkload(kv_len=2048, buffer=131072), H200))
    assert list(table.index) == [name for name, _ in SPLIT_POLICIES.values()]
    assert table.loc["ExecuTorch", ["shares", "with keys", "programs", "SMs that read", "waves"]].tolist() == [
        128, 2, 2048, 32, 1,
    ]  # fmt: skip
    assert table.loc["one share", "SM time used (%)"] == pytest.approx(100 * 16 / 132)


def test_one_program_a_kv_head_uses_as_many_sms():
    plan = schedule(DecodeWorkload(kv_len=65536), H200, "one")
    assert plan.idle_sms == 132 - 16
    assert plan.seconds / plan.floor_seconds == pytest.approx(132 / 16, rel=0.01)


def test_a_window_costs_the_window():
    short, long = (schedule(DecodeWorkload(kv_len=n, window=1024), H200) for n in (4096, 131072))
    assert short.seconds == long.seconds
    theirs = [schedule(DecodeWorkload(kv_len=n, window=1024), H200, "executorch") for n in (4096, 131072)]
    assert theirs[1].keys_read == 131072 and theirs[0].keys_read == 4096


def test_whose_names_each_program_once():
    shape = MODELS["gemma4-31b sliding"]
    w = DecodeWorkload(kv_len=600, batch=2, q_heads=shape.q_heads, kv_heads=1, q_len=8, head_dim=shape.head_dim)
    plan = schedule(w, H200)
    assert plan.heads == 2 * 2 and plan.blocks == 2  # 256 rows in blocks of 128
    names = [plan.whose(program) for program in range(plan.programs)]
    assert len(set(names)) == plan.programs
    assert names[0] == "split 0 of KV head 0 of batch entry 0, query rows' block 0"
    launched = [names[run.program] for run in plan.runs]
    assert launched[:2] == [names[0], "split 0 of KV head 0 of batch entry 0, query rows' block 1"]
    assert launched[2].startswith("split 1 of KV head 0 of batch entry 0")
    assert max(run.end for run in plan.runs) == plan.reading_seconds
    assert schedule(DecodeWorkload(kv_len=2048), H200).whose(9) == "split 1 of KV head 1"


def test_errors_name_what_is_allowed():
    with pytest.raises(ValueError, match=r"policy: got 'best'; allowed are blockskip, .*one"):
        schedule(DecodeWorkload(kv_len=64), H200, "best")
    with pytest.raises(ValueError, match=r"machine: got a laptop; allowed is a GPU"):
        schedule(DecodeWorkload(kv_len=64), Machine("a laptop", "cpu", 40, 1))


@pytest.mark.parametrize(
    ("more", "config"),
    [
        ({}, (128, 128, 12, 2)),
        ({"kv_dtype": "float8_e4m3fn"}, (64, 64, 4, 4)),
        ({"ragged": 0.5}, (128, 128, 8, 3)),
        ({"kv_len": 256}, (128, 128, 8, 3)),
    ],
    ids=["many rows", "float8", "ragged", "a single split"],
)
def test_the_tiles_of_a_step_are_those_that_it_takes(more, config):
    """Of 128 rows of a KV head: by the warp-specialized kernel, or by the plain one."""
    sizes = {"kv_len": 8192, "q_len": 32, "batch": 2, "q_heads": 32, "kv_heads": 8, "head_dim": 128}
    assert decode.default((9, 0), DecodeWorkload(**{**sizes, **more}), "blockskip") == config
