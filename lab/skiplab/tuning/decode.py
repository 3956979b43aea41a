"""Tuning decode: the split-K kernel's tiles, by head size, element size and rows of a program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from blockskip.attention.decode.plan import decode_config, specialized_config
from blockskip.config import TileConfig, power_of_two
from blockskip.gpu import Gpu, shared_bytes
from blockskip.tuned.decode import DecodeEntry

from skiplab.anatomy import decode
from skiplab.text import digits
from skiplab.tuning.attention import heads_of
from skiplab.tuning.base import AnyTuning, Candidate, Config, Ranking
from skiplab.workload import DecodeWorkload

if TYPE_CHECKING:
    from skiplab.anatomy import Anatomy

CONTENDER = "blockskip"
HEAD: str = f"{'head size':>9s} {'bytes':>5s} {'rows':>4s} {'tiles':18s} {'µs':>9s} {'untuned µs':>10s}"
MOST_NUMBERS = 200
"""Float32 accumulators and scores a thread may hold."""
LEAST_STAGE_BYTES = 8 << 10
"""Of keys and values on their way in one program: with fewer, memory is not kept busy."""


@dataclass(frozen=True)
class DecodeTuning(AnyTuning):
    """What is tuned: every number of keys x window x queries, for one shape of heads, dtype and device.

    heads: `query heads/key heads x head size`, as 32/16x256. window None: all keys. budget_s: seconds that a candidate
    is timed at most, in each of three ways. ValueError names the field, what was given and what is allowed.
    """

    heads: str = "32/16x256"
    kv_len: tuple[int, ...] = (1024, 4096, 16384, 65536)
    window: tuple[int | None, ...] = (None,)
    q_len: tuple[int, ...] = (1,)
    dtype: str = "bfloat16"
    device: str = "cuda"
    seed: int = 0
    budget_s: float = 0.03
    operation: ClassVar[str] = "decode"
    verb: ClassVar[str] = "tune decode"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.workloads():
            raise ValueError("kv_len, window, q_len: got none of one of them; at least one of each is needed")

    def workloads(self) -> list[DecodeWorkload]:
        q_heads, kv_heads, head_dim = heads_of(self.heads)
        axes = product(self.q_len, self.window, self.kv_len)
        return [
            DecodeWorkload(kv_len, window, q_len, 1, q_heads, kv_heads, head_dim, self.dtype)
            for q_len, window, kv_len in axes
        ]

    def candidates(self, workload: DecodeWorkload, gpu: Gpu) -> list[Candidate]:
        """Of the plain kernel. ValueError for calls that the warp-specialized one takes: its tiles are the code's."""
        rows = workload.group * workload.q_len
        if specialized_config(decode.empty_call(workload, "meta"), gpu.capability, gpu.sms) is not None:
            raise ValueError(
                f"q_len: got {workload.q_len}, {rows} rows of a KV head over {workload.kv_len} keys; the "
                "warp-specialized kernel takes these, whose tiles are not tuned; allowed are fewer queries or keys"
            )
        block_m = decode_config(gpu.capability, workload.head_dim, workload.torch_dtype, rows).block_m
        block_d, element_bytes = max(16, power_of_two(workload.head_dim)), workload.torch_dtype.itemsize
        sizes = product((block_m,), (16, 32, 64, 128), (2, 4, 8), (2, 3, 4, 5, 6))

        def good(block_m: int, block_n: int, num_warps: int, num_stages: int) -> bool:
            stage = 2 * block_n * block_d * element_bytes
            fits = num_stages * stage <= shared_bytes(gpu.capability) and stage >= LEAST_STAGE_BYTES
            return fits and block_m * (block_d + block_n) <= MOST_NUMBERS * 32 * num_warps

        return [Candidate(CONTENDER, one) for one in sizes if good(*one)]

    def name(self) -> str:
        return self.heads


@dataclass(frozen=True, order=True)
class TuningClass:
    """Calls that take the same configuration; block_m: rows of a program."""

    head_dim: int
    element_bytes: int
    block_m: int


def candidate_of(contender: str, config: Config | None) -> Candidate | None:
    return Candidate(contender, config) if contender == CONTENDER and config else None


def class_of(axes: Mapping[str, Any], candidate: Candidate, sms: int) -> TuningClass:
    """The class of a workload: by its candidates' rows."""
    assert candidate.config is not None
    return TuningClass(axes["head_dim"], getattr(torch, axes["dtype"]).itemsize, candidate.config[0])


def race_of(one: TuningClass) -> TuningClass:
    return one


def compiled_as(one: TuningClass, candidate: Candidate) -> tuple:
    """A class' calls all compile the same."""
    return one, candidate


def default(one: TuningClass, gpu: Gpu) -> Candidate:
    """The default: the configuration of the table."""
    dtype = torch.float32 if one.element_bytes == 4 else torch.bfloat16
    return Candidate(CONTENDER, tuple(decode_config(gpu.capability, one.head_dim, dtype, one.block_m)))


def same_kernel(workload: DecodeWorkload) -> Any:
    """Caches of several lengths run the same kernel."""
    return workload.head_dim, workload.group, workload.q_len, workload.window


def anatomy(capability: tuple[int, int], workload: DecodeWorkload, candidate: Candidate) -> Anatomy | None:
    return decode.anatomy(capability, workload, candidate.contender, candidate.config or ())


def entry(one: TuningClass, winner: Candidate, ranking: Ranking, default: Candidate) -> DecodeEntry:
    at = max(ranking.times, key=lambda name: ranking.times[name][winner])
    sizes = {name: value for name, value in asdict(one).items() if name != "block_m"}
    return DecodeEntry(
        **sizes, config=TileConfig.of(winner.config), at=at, workloads=len(ranking.times),
        median_us=ranking.us(at, winner), table_us=ranking.us_if_timed(at, default),
    )  # fmt: skip


def line(entry: DecodeEntry) -> str:
    tiles = "x".join(map(str, entry.config))
    table = "" if entry.table_us is None else digits(entry.table_us)
    rows = entry.config.block_m
    return (
        f"{entry.head_dim:9d} {entry.element_bytes:5d} {rows:4d} {tiles:18s} {digits(entry.median_us):>9s} {table:>10s}"
    )
