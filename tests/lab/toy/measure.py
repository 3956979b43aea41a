"""What measuring a doubling needs."""

import torch
from skiplab.measure.point import WorkDone
from skiplab.measure.rotated import timed  # noqa: F401 - a role's part
from skiplab.measure.truth import Truth
from skiplab.workload.toy import ToyWorkload


def awkward(dtype):
    return [ToyWorkload(1, dtype=dtype), ToyWorkload(33, 3, dtype=dtype)]


def expected(workload, entry, device, seed, inputs, deviation, sampled):
    return Truth(torch.arange(workload.rows), 2 * inputs[0].double(), 0.0)


def plan_and_work(entry, workload, inputs, arguments):
    work = workload.work()
    return {}, WorkDone(work.useful_flops, work.executed_flops, work.dense_flops, work.bytes, work.bytes)


def read_bytes(entry, workload, work):
    return None
