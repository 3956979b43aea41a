"""Every choice about a decode call, made in one place: implementation, tiles, splits."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ..config import TileConfig, prefill_config
from ..mask import Band, band
from .checks import choose_impl
from .splits import choose_splits, tiles_at_most

LONGEST_QUERY = 8
MULTIPROCESSORS_ASSUMED = 132
"""Where there is no GPU to ask (the interpreter): an H100's and H200's."""
MERGED_A_WARP = 2048
"""Numbers of shares that a warp of the last program can hold at once: 64 registers a thread."""

# (KiB of shared memory a block, at least; head dim up to; bytes an element up to) -> configurations, block_m ascending.
# The first whose block_m holds all rows of a KV head is taken, else the last. What counts is how many bytes are on
# their way: as many stages as fit. None spills: tests/kernels/test_decode_anatomy.py. 16 rows on an H100: 4 warps gain
# 0.3 to 1.5 us on 8 (D 256: 17.1 against 17.4 at 2,048 keys; D 512: 12.9 against 14.3).
_DECODE = [
    ((227, 64, 2), (TileConfig(16, 64, 4, 5), TileConfig(64, 64, 4, 4))),
    ((227, 128, 2), (TileConfig(16, 64, 4, 4), TileConfig(64, 64, 4, 3))),
    ((227, 256, 2), (TileConfig(16, 64, 4, 3), TileConfig(64, 64, 8, 2))),
    ((227, 512, 2), (TileConfig(16, 32, 4, 3), TileConfig(64, 32, 8, 2))),
    ((163, 64, 2), (TileConfig(16, 64, 4, 5), TileConfig(64, 64, 4, 3))),
    ((163, 128, 2), (TileConfig(16, 64, 4, 4), TileConfig(64, 64, 4, 3))),
    ((163, 256, 2), (TileConfig(16, 64, 8, 3), TileConfig(32, 64, 8, 2))),
    ((163, 512, 2), (TileConfig(16, 32, 8, 3), TileConfig(32, 32, 8, 2))),
    ((99, 64, 2), (TileConfig(16, 64, 4, 5), TileConfig(64, 64, 4, 3))),
    ((99, 128, 2), (TileConfig(16, 64, 4, 3), TileConfig(64, 64, 4, 3))),
    ((99, 256, 2), (TileConfig(16, 64, 8, 2), TileConfig(32, 64, 8, 2))),
    ((99, 512, 2), (TileConfig(16, 32, 8, 2), TileConfig(32, 32, 8, 2))),
    ((99, 128, 4), (TileConfig(16, 32, 4, 3), TileConfig(32, 32, 4, 2))),
    ((99, 256, 4), (TileConfig(16, 16, 8, 3),)),
    ((99, 512, 4), (TileConfig(16, 16, 8, 2),)),
]


@dataclass(frozen=True, eq=False)
class DecodeCall:
    """A checked decode call.

    See `blockskip.decode` for shapes. kv_len is the number of keys, or the most there can be where the true number
    stands on the device: `lengths` int32 [B], else None. splits None: chosen. ring: slots hold the last positions.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    scale: float
    kv_len: int
    lengths: torch.Tensor | None
    window: int | None
    splits: int | None
    impl: str
    return_lse: bool
    ring: bool = False

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    @property
    def rows(self) -> int:
        """Rows that one KV head serves: the queries of its group of query heads."""
        return self.group * self.q.shape[2]

    @property
    def mask(self) -> Band:
        mask = band(None if self.window is None else self.window - 1, 0)
        assert isinstance(mask, Band)
        return mask


@dataclass(frozen=True)
class Division:
    """How a call's keys are divided, whatever their number: all that a plan takes of that number.

    programs: of one share of all keys; block_n: keys of a tile; asked: the number of splits, None where it is chosen.
    """

    programs: int
    q_len: int
    window: int | None
    block_n: int
    multiprocessors: int
    asked: int | None

    def tiles(self, kv_len: int) -> int:
        """The most tiles that one row of splits divides."""
        return tiles_at_most(kv_len, self.q_len, self.window, self.block_n)

    def splits(self, kv_len: int) -> int:
        return self.asked or choose_splits(self.programs, self.tiles(kv_len), self.multiprocessors)


@dataclass(frozen=True)
class DecodePlan:
    """What `decode` will do. `config` is None and `splits` 1 for `reference` and `tiled`.

    fused: the last program of a KV head merges the shares, else a second kernel does.
    programs: how many run side by side, splits included; tiles: the most tiles of keys that a row of splits divides.
    division: that of the kernel, by which other numbers of keys have another plan; None for the others.
    """

    impl: str
    config: TileConfig | None
    splits: int
    fused: bool
    programs: int
    tiles: int
    reason: str
    division: Division | None = None

    def __str__(self):
        lines = [f"impl    {self.impl}: {self.reason}"]
        if self.config is not None:
            lines += [f"config  {self.config}", self.splits_line()]
        return "\n".join(lines)

    def splits_line(self) -> str:
        merge = "the last program merges" if self.fused else "a second kernel merges" if self.splits > 1 else "no merge"
        return f"splits  {self.splits} of at most {self.tiles} tiles; {self.programs} programs; {merge}"


def make_decode_plan(call: DecodeCall) -> DecodePlan:
    """Raises ValueError for what the chosen implementation cannot do."""
    impl, reason = choose_impl(call)
    if impl != "triton":
        return DecodePlan(impl, None, 1, False, 1, 1, reason)
    capability, multiprocessors = (9, 0), MULTIPROCESSORS_ASSUMED
    if call.q.is_cuda:
        device = torch.cuda.get_device_properties(call.q.device)
        capability, multiprocessors = (device.major, device.minor), device.multi_processor_count
    return plan_decode_kernel(call, capability, multiprocessors, reason)


def plan_decode_kernel(
    call: DecodeCall, capability: tuple[int, int], multiprocessors: int, reason: str = "asked for"
) -> DecodePlan:
    """The plan of a call that the Triton kernel does, for a GPU that need not be there."""
    config = decode_config(capability, call.q.shape[3], call.q.dtype, call.rows)
    division = Division(
        call.q.shape[0] * call.k.shape[1] * -(-call.rows // config.block_m), call.q.shape[2], call.window,
        config.block_n, multiprocessors, call.splits,
    )  # fmt: skip
    splits = division.splits(call.kv_len)
    programs, tiles = division.programs * splits, division.tiles(call.kv_len)
    return DecodePlan("triton", config, splits, _fuses(call, config, splits), programs, tiles, reason, division)


def decode_config(capability: tuple[int, int], head_dim: int, dtype: torch.dtype, rows: int) -> TileConfig:
    """The configuration for a device of this compute capability; block_m holds `rows` rows, or as many as fit.

    Raises ValueError below compute capability 8.0.
    """
    prefill_config(capability, head_dim, dtype)  # an unsupported device is an error, and the same one
    available = shared_kib(capability)
    for (kib, dim, element_bytes), configs in _DECODE:
        if available >= kib and head_dim <= dim and dtype.itemsize <= element_bytes:
            holds_all = (config for config in configs if rows <= config.block_m)
            config = next(holds_all, configs[-1])
            return replace(config, block_m=min(config.block_m, max(16, power_of_two(rows))))
    raise ValueError(f"head_dim: given {head_dim}; from 8 to 512")


def power_of_two(n: int) -> int:
    """The least power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def can_fuse(call: DecodeCall, config: TileConfig, splits: int) -> bool:
    """Whether one program holds all shares of a KV head's rows at once: the merge is then a single trip to memory."""
    numbers = power_of_two(call.rows) * power_of_two(splits) * power_of_two(call.q.shape[3])
    return splits > 1 and call.rows <= config.block_m and numbers <= MERGED_A_WARP * config.num_warps


def _fuses(call: DecodeCall, config: TileConfig, splits: int) -> bool:
    """Whether the last program of a KV head merges.

    Not in a CUDA graph, where a second kernel costs no launch: it is 0.9 to 1.9 us sooner there (H100, every shape and
    length measured). Outside, its launch costs the host more than that.
    """
    capturing = call.q.is_cuda and torch.cuda.is_current_stream_capturing()
    return not capturing and can_fuse(call, config, splits)


def shared_kib(capability: tuple[int, int]) -> int:
    """KiB of shared memory that a block can have, by NVIDIA's CUDA programming guide (compute capabilities)."""
    if (9, 0) <= capability < (12, 0):
        return 227
    return 163 if capability in ((8, 0), (8, 7)) else 99
