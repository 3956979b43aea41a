"""Which program of a decode call reads which keys, and how busy that keeps a GPU's multiprocessors (SMs).

Arithmetic on sizes: nothing is launched and no GPU is needed. Our own numbers come from the plan of `blockskip.decode`;
peers' rules for the number of splits are applied to the same tiles.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import NamedTuple

import pandas as pd
from blockskip.attention.decode.plan import DecodePlan, plan_decode_kernel
from blockskip.attention.decode.splits import flash_attention_3_splits

from skiplab.anatomy.decode import empty_call
from skiplab.machine import Machine
from skiplab.machine.capability import capability_of
from skiplab.workload import DecodeWorkload

SPLIT_POLICIES: Mapping[str, tuple[str, str]] = {
    "blockskip": ("blockskip", "a count to fill the SMs, live tiles divided on the device"),
    "flash-attention-3": ("FlashAttention-3", "fewest shares within 85 % of the best use"),
    "executorch": ("ExecuTorch", "a share every 256 slots of the buffer"),
    "one": ("one share", "a program for each KV head"),
}
"""By name, what people call it and what it does. FlashAttention-3: hopper/heuristics.h and hopper/block.h; ExecuTorch:
pull request 20198.
"""


@dataclass(frozen=True)
class Share:
    """The keys first..end - 1 that one split of a KV head reads, and the number of tiles; none if end == first."""

    first: int
    end: int
    tiles: int

    @property
    def keys(self) -> int:
        return self.end - self.first


class Placement(NamedTuple):
    """A program on an SM from `start` to `end`, in seconds."""

    program: int
    sm: int
    start: float
    end: float


@dataclass(frozen=True)
class Schedule:
    """A decode call on a GPU under one policy.

    shares: of each KV head, by split. heads: how many heads have them, batch * KV heads * blocks of query rows. Program
    `head * splits + split` has one. They are launched KV head by KV head, there split by split, its blocks together.
    fused: whether the last program of a KV head merges; None where there is nothing to merge or a peer does it its own
    way. live: keys that some query sees. key_seconds: an SM's time for one key. `seconds` exceeds the end of the last
    run (`reading_seconds`) by the time to move all that is not keys and values.
    """

    policy: str
    machine: Machine
    sms: int
    block_n: int
    batch: int
    kv_heads: int
    heads: int
    shares: tuple[Share, ...]
    key_seconds: float
    fused: bool | None
    live: range
    buffer: int
    reading_seconds: float
    seconds: float
    floor_seconds: float

    @property
    def splits(self) -> int:
        return len(self.shares)

    @property
    def blocks(self) -> int:
        """Blocks of query rows of a KV head."""
        return self.heads // (self.batch * self.kv_heads)

    @property
    def programs(self) -> int:
        """The number of programs launched."""
        return self.heads * self.splits

    @cached_property
    def runs(self) -> tuple[Placement, ...]:
        """The programs that have keys, in the order of their launch."""
        return tuple(map(Placement._make, self._placed()))

    def run_of(self, program: int) -> Placement | None:
        """The placement of that program; None if it has no key."""
        return next((Placement._make(run) for run in self._placed() if run[0] == program), None)

    def sm_use(self) -> list[tuple[float, int]]:
        """(end of its last program, number of its programs) of each SM."""
        use = [(0.0, 0)] * self.sms
        for _, sm, _, end in self._placed():
            use[sm] = end, use[sm][1] + 1
        return use

    def _placed(self) -> Iterator[tuple[int, int, float, float]]:
        """Programs as they are launched, each on the SM that is free first; those without keys leave at once."""
        free = [(0.0, sm) for sm in range(self.sms)]
        durations = [share.keys * self.key_seconds for share in self.shares]
        live = [(split, duration) for split, duration in enumerate(durations) if duration]
        for first in range(0, self.heads, self.blocks):
            for (split, duration), head in itertools.product(live, range(first, first + self.blocks)):
                start, sm = free[0]
                heapq.heapreplace(free, (start + duration, sm))
                yield head * self.splits + split, sm, start, start + duration

    @property
    def live_programs(self) -> int:
        """The number of programs that have keys."""
        return self.live_splits * self.heads

    @property
    def live_splits(self) -> int:
        """Shares that have a key."""
        return sum(share.keys > 0 for share in self.shares)

    @property
    def keys_read(self) -> int:
        """Keys read for a KV head, including those that a mask then drops."""
        return sum(share.keys for share in self.shares)

    @property
    def most_tiles(self) -> int:
        """The tiles of the longest share."""
        return max(share.tiles for share in self.shares)

    @property
    def busy_sms(self) -> tuple[int, ...]:
        """SMs that have a program with keys, wave by wave."""
        waves = -(-self.live_programs // self.sms)
        return tuple(min(self.sms, self.live_programs - wave * self.sms) for wave in range(waves))

    @property
    def idle_sms(self) -> int:
        """The number of SMs that never have a program with keys."""
        return self.sms - min(self.sms, self.live_programs)

    @property
    def busy(self) -> float:
        """The share of all SMs' time, until the last program ends, that is spent reading: 0 to 1."""
        return self.keys_read * self.heads * self.key_seconds / (self.sms * self.reading_seconds)

    def whose(self, program: int) -> str:
        """`split 2 of KV head 5`, with the batch entry and the block of query rows where there are several."""
        head, split = divmod(program, self.splits)
        blocks = self.blocks
        entry, kv_head, block = head // blocks // self.kv_heads, head // blocks % self.kv_heads, head % blocks
        several = f", query rows' block {block}" if blocks > 1 else ""
        return f"split {split} of KV head {kv_head}{f' of batch entry {entry}' if self.batch > 1 else ''}{several}"


@lru_cache(maxsize=64)
def schedule(workload: DecodeWorkload, machine: Machine, policy: str = "blockskip") -> Schedule:
    """The schedule of the call on that GPU under that policy; ValueError for unknown policies and machines without SMs.

    The model: one program an SM at a time, the next one taken as soon as an SM is free; an SM reads at its even share
    of the GPU's bandwidth; partial results, queries and outputs then move at all of it. Left out: what a few busy SMs
    draw beyond their even share, launches, the L2, arithmetic. So no real kernel reaches these times.
    """
    if policy not in SPLIT_POLICIES:
        raise ValueError(f"policy: got {policy!r}; allowed are {', '.join(SPLIT_POLICIES)}")
    if machine.sms is None or machine.compute_capability is None:
        raise ValueError(f"machine: got {machine.name}; allowed is a GPU, such as those of known_gpus()")
    plan = kernel_plan(workload, machine, splits=1 if policy == "one" else None)
    assert plan.config is not None
    heads, block_n = plan.programs // plan.splits, plan.config.block_n
    live = live_keys(workload)
    splits = plan.splits
    if policy == "flash-attention-3":
        splits = flash_attention_3_splits(heads, plan.tiles, machine.sms)
    elif policy == "executorch":
        splits = executorch_splits(workload.slots)
    shares = tuple(_shares(policy, splits, live, workload.slots, block_n))
    per_key = 2 * workload.head_dim * workload.element_bytes / (machine.bandwidth_gbps * 1e9 / machine.sms)
    kv_heads = workload.batch * workload.kv_heads
    reading = _last_end([share.keys * per_key for share in shares], kv_heads, heads // kv_heads, machine.sms)
    rest = workload.work(splits).bytes - _kv_bytes(workload, len(live))
    bandwidth = machine.bandwidth_gbps * 1e9
    return Schedule(
        policy, machine, machine.sms, block_n, workload.batch, workload.kv_heads, heads, shares,
        per_key, plan.fused if policy == "blockskip" and splits > 1 else None, live, workload.slots,
        reading, reading + rest / bandwidth, workload.work(1).bytes / bandwidth,
    )  # fmt: skip


def executorch_splits(slots: int) -> int:
    """ExecuTorch's rule (`_decode_splitk_config`): a share every 256 slots, at most 128.

    Its shares are pieces of the buffer, not of the live keys: 2,048 keys in a buffer of 131,072 keep 2 of 128 busy.
    """
    return min(-(-slots // 256), 128)


def schedules(workload: DecodeWorkload, machine: Machine) -> dict[str, Schedule]:
    """Every policy's schedule, by name."""
    return {policy: schedule(workload, machine, policy) for policy in SPLIT_POLICIES}


def comparison(plans: Mapping[str, Schedule]) -> pd.DataFrame:
    """A table with a row for each rule: shares, programs, reading SMs, use of the SMs, predicted time."""
    rows = {
        SPLIT_POLICIES[name][0]: {
            "shares": plan.splits, "with keys": plan.live_splits, "programs": plan.programs,
            "SMs that read": plan.sms - plan.idle_sms, "waves": len(plan.busy_sms),
            "SM time used (%)": 100 * plan.busy, "time (µs)": plan.seconds * 1e6,
            "times the floor": plan.seconds / plan.floor_seconds,
        }
        for name, plan in plans.items()
    }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("rule")


def kernel_plan(workload: DecodeWorkload, machine: Machine, splits: int | None = None) -> DecodePlan:
    """The plan of `blockskip.decode` for this call on that GPU, with kv_len on the device; made with meta tensors."""
    assert machine.sms is not None and machine.compute_capability is not None
    call = replace(empty_call(workload, "meta"), kv_len=workload.slots, splits=splits)
    return plan_decode_kernel(call, capability_of(machine.compute_capability), machine.sms)


def live_keys(workload: DecodeWorkload) -> range:
    """The keys that some query sees."""
    seen = workload.kv_len if workload.window is None else workload.window + workload.q_len - 1
    return range(max(workload.kv_len - seen, 0), workload.kv_len)


def _shares(policy: str, splits: int, live: range, slots: int, block_n: int) -> Iterator[Share]:
    """Each split's share of a KV head's keys."""
    if policy == "executorch":
        # pieces of the buffer, from slot 0 to the last key: keys before the window are read, then masked
        piece = -(-slots // splits)
        for split in range(splits):
            first = min(split * piece, live.stop)
            end = min(first + piece, live.stop)
            yield Share(first, end, -(-(end - first) // block_n))
        return
    begin, end = live.start // block_n, -(-live.stop // block_n)
    tiles = end - begin
    for split in range(splits):
        if policy == "flash-attention-3":
            each = -(-tiles // splits)
            first, last = min(begin + split * each, end), min(begin + (split + 1) * each, end)
        else:
            first, last = begin + tiles * split // splits, begin + tiles * (split + 1) // splits
        low, high = max(first * block_n, live.start), min(last * block_n, live.stop)
        yield Share(low, max(low, high), last - first)


def _last_end(durations: list[float], kv_heads: int, blocks: int, sms: int) -> float:
    """The time at which the last program ends, when each begins as soon as an SM is free."""
    free, lasting = [0.0] * sms, [duration for duration in durations if duration for _ in range(blocks)]
    for _ in range(kv_heads):
        for duration in lasting:
            heapq.heapreplace(free, free[0] + duration)
    return max(free)


def _kv_bytes(workload: DecodeWorkload, keys: int) -> int:
    return 2 * workload.element_bytes * workload.batch * workload.kv_heads * keys * workload.head_dim
