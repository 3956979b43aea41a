"""Tuning prefill: its tiles, by classes of head size, element size, mask kind and window, and length."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import blockskip as bs
import torch
from blockskip.config import (
    ONE_GROUP_HEAD_DIM,
    WARP_SPECIALIZED,
    TileConfig,
    can_specialize_warps,
    length_class,
    pieces_of,
    power_of_two,
    prefill_config,
)
from blockskip.gpu import Gpu, shared_bytes
from blockskip.tuned.attention import Entry, mask_kind

from skiplab.anatomy import attention
from skiplab.text import digits
from skiplab.tuning.base import AnyTuning, Candidate, Config, Ranking
from skiplab.workload import Workload

if TYPE_CHECKING:
    from skiplab.anatomy import Anatomy

CONTENDER = "blockskip"
HEAD: str = (
    f"{'head size':>9s} {'bytes':>5s} {'mask':8s} {'window':>6s} {'length':7s} {'tiles':22s} {'µs':>9s} "
    f"{'untuned µs':>10s}"
)
NUMBERS = range(32, 201)
"""Float32 accumulators and scores a thread may hold: fewer leave it idle, more leave no registers for the rest."""


@dataclass(frozen=True)
class Tuning(AnyTuning):
    """A tuning of prefill: every mask x prompt length, for one shape of heads, dtype and device.

    heads: `query heads/key heads x head size`, as 32/16x256. mask: texts that `Mask.from_spec` reads, by default one
    of each kind of mask (`blockskip.tuned.attention.MASK_KINDS`). config: the only
    (block_m, block_n, num_warps, num_stages) to try, None for all that may be good. budget_s: seconds that a candidate
    is timed at most, in each of three ways. ValueError names the field, what was given and what is allowed.
    """

    heads: str = "32/16x256"
    mask: tuple[str, ...] = ("causal()", "sliding_window(1024)", "sliding_window(1024) | (sink(4) & causal())")
    q_len: tuple[int, ...] = (256, 1024, 4096, 8192)
    config: tuple[Config, ...] | None = None
    dtype: str = "bfloat16"
    device: str = "cuda"
    seed: int = 0
    budget_s: float = 0.03
    operation: ClassVar[str] = "attention"
    verb: ClassVar[str] = "tune"

    def __post_init__(self) -> None:
        super().__post_init__()
        for config in self.config or ():
            TileConfig.of(config)
        if not self.workloads():
            raise ValueError("mask, q_len: got none of one of them; at least one of each is needed")

    def workloads(self) -> list[Workload]:
        """All masks of a prompt length after each other."""
        q_heads, kv_heads, head_dim = heads_of(self.heads)
        shape = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim, "dtype": self.dtype}
        return [
            Workload(q_len, mask=bs.Mask.from_spec(mask), **shape) for q_len, mask in product(self.q_len, self.mask)
        ]

    def candidates(self, workload: Workload, gpu: Gpu) -> list[Candidate]:
        length = class_of(workload.axes(), DEFAULT, gpu.sms).length
        sizes = candidates(gpu.capability, workload.head_dim, workload.torch_dtype, length, self.config)
        return [Candidate(CONTENDER, one) for one in sizes]

    def name(self) -> str:
        return self.heads


def heads_of(text: str) -> tuple[int, int, int]:
    """(query heads, key heads, head size) of a text as 32/16x256."""
    match = re.fullmatch(r"(\d+)/(\d+)x(\d+)", text)
    if match is None:
        raise ValueError(f"heads: got {text!r}; allowed is query heads/key heads x head size, as 32/16x256")
    q_heads, kv_heads, head_dim = map(int, match.groups())
    return q_heads, kv_heads, head_dim


def candidates(
    capability: tuple[int, int], head_dim: int, dtype: torch.dtype, length: str, only: Iterable[Config] | None = None
) -> list[Config]:
    """Configurations that may be good on such a GPU, by arithmetic: registers, shared memory, product instructions.

    length: the length class of the calls; only `short` ones, which gain programs, try tiles smaller than a warp group's
    product needs (64 rows on sm_90). only: just these, whatever the arithmetic says.
    """
    if only is not None:
        return list(only)
    block_d, element_bytes = max(16, power_of_two(head_dim)), dtype.itemsize
    warp_groups = (9, 0) <= capability < (12, 0) and element_bytes == 2
    sizes = product((16, 32, 64, 128, 192, 256), (16, 32, 64, 128), (4, 8, 12, 16), (1, 2, 3, 4))
    own = can_specialize_warps(capability, head_dim, dtype)

    def good(block_m: int, block_n: int, num_warps: int, num_stages: int) -> bool:
        specialized = num_warps == 12 or block_m == 192  # groups of four warps, and one that copies ahead: two stages
        shared_rows = head_dim > ONE_GROUP_HEAD_DIM  # as of `TileConfig.by_columns`
        if specialized and not (
            own
            and (block_m, num_warps) in WARP_SPECIALIZED
            and (block_m == 64) == shared_rows
            and block_n >= (32 if shared_rows else 64)
            and num_stages >= 2
        ):
            return False
        width = sum(pieces_of(head_dim)) if specialized else block_d
        numbers = block_m * (width + block_n) / (32 * num_warps)
        if specialized:  # those of a group
            numbers = 64 * (width // (2 if shared_rows else 1) + block_n) / (32 * 4)
        if block_m == 192 and (numbers > 96 or length != "long"):  # three groups have 160 registers a thread, not 240
            return False
        # q once; in one stage values take the keys' place; products outside warp groups take a stage from registers
        stages = num_stages if warp_groups else max(1, num_stages - 1)
        keys = block_n if num_stages == 1 else 2 * stages * block_n
        shared = (block_m + keys) * width * element_bytes
        # products of 16 columns leave tensor cores half idle; beside 512 columns of the other product that counts less
        wide = block_n > 16 or element_bytes == 4 or block_d >= 512
        narrow = block_n <= 64 or warp_groups
        tall = block_m >= 64 or length == "short" or not warp_groups
        fits = NUMBERS.start <= numbers < NUMBERS.stop and shared <= shared_bytes(capability)
        return fits and wide and narrow and tall

    return [size for size in sizes if good(*size)]


@dataclass(frozen=True, order=True)
class TuningClass:
    """Calls that take the same configuration; fields as of `blockskip.tuned.attention.Entry`, window 0 for none."""

    head_dim: int
    element_bytes: int
    mask: str
    window: int
    length: str


DEFAULT = Candidate(CONTENDER)


def candidate_of(contender: str, config: Config | None) -> Candidate | None:
    return Candidate(contender, config) if contender == CONTENDER and config else None


def class_of(axes: Mapping[str, Any], candidate: Candidate, sms: int) -> TuningClass:
    """The class of a workload; the same for every candidate."""
    kind, window = mask_kind(bs.Mask.from_spec(axes["mask"]))
    rows = axes["batch"] * axes["q_heads"] * axes["q_len"]
    element_bytes = getattr(torch, axes["dtype"]).itemsize
    return TuningClass(axes["head_dim"], element_bytes, kind, window or 0, length_class(rows, sms))


def race_of(one: TuningClass) -> str:
    return one.length


def compiled_as(one: TuningClass, candidate: Candidate) -> tuple:
    """Lengths and windows are arguments of the kernel, so they do not count."""
    return one.head_dim, one.element_bytes, one.mask, candidate


def default(one: TuningClass, gpu: Gpu) -> Candidate:
    """The default: the configuration of the table."""
    dtype = torch.float32 if one.element_bytes == 4 else torch.bfloat16
    rows = 0 if one.length == "short" else None
    return Candidate(CONTENDER, tuple(prefill_config(gpu.capability, one.head_dim, dtype, rows, gpu.sms)))


def same_kernel(workload: Workload) -> Any:
    """Prompts of several lengths run the same kernel."""
    return workload.mask


def anatomy(capability: tuple[int, int], workload: Workload, candidate: Candidate) -> Anatomy | None:
    return attention.anatomy(capability, workload, candidate.contender, candidate.config or ())


def entry(one: TuningClass, winner: Candidate, ranking: Ranking, default: Candidate) -> Entry:
    at = max(ranking.times, key=lambda name: ranking.times[name][winner])
    return Entry(
        **{**asdict(one), "window": one.window or None}, config=TileConfig.of(winner.config), at=at,
        workloads=len(ranking.times), median_us=ranking.us(at, winner),
        table_us=ranking.us_if_timed(at, default),
    )  # fmt: skip


def line(entry: Entry) -> str:
    tiles = "x".join(map(str, entry.config))
    table = "" if entry.table_us is None else digits(entry.table_us)
    return (
        f"{entry.head_dim:9d} {entry.element_bytes:5d} {entry.mask:8s} {entry.window or '':>6} {entry.length:7s} "
        f"{tiles:22s} {digits(entry.median_us):>9s} {table:>10s}"
    )
