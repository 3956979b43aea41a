"""Every choice about a decode call, made in one place: implementation, tiles, splits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from ...config import ONE_GROUP_HEAD_DIM, TileConfig, can_specialize_warps, power_of_two
from ...gpu import HOPPER, Gpu, check_capability, shared_bytes
from ...tuned.choose import Origin, find_decode
from ..caches import caches_line
from ..call import DecodeCall, can_use_tma, choose_impl, scores_line, sign_and_scale
from .splits import choose_splits, tiles_at_most

LONGEST_QUERY = 16
"""The most queries of a call of `decode`."""
MOST_QUERIES = 128
"""The most queries that the kernel is planned for: those of `attention`, whose rows do not fill a GPU."""
MOST_A_MULTIPROCESSOR = 2
"""Programs that share the work of a batch evenly: as many as fit, but a third brings nothing (data/TUNING.md)."""
WARPS_AT_ONCE = 8
"""The warps for which a multiprocessor has 255 registers a thread; the kernels need more than 128."""
MOST_BATCHES = 1024
"""Of a call whose programs do, each of which adds up all lengths."""
WGMMA_ROWS = 64
"""The least rows of a product by `wgmma`, Hopper's own."""
MERGED_A_WARP = 2048
"""How many float32 of all shares a warp of the merging program holds at once: 64 registers a thread."""

# (KiB of shared memory a block, at least; head dim up to; bytes an element up to) -> configurations, block_m ascending.
# The first whose block_m holds all rows of a KV head is taken, else the last. As many stages as fit: what counts is how
# many bytes are under way. None spills in its loop (tests/kernels/test_decode_anatomy.py). Measured: data/TUNING.md,
# "Decode".
_DECODE = [
    # of float8: as many bytes under way in twice the keys, 8 warps for twice the instructions a byte; 64 rows of 512
    # dimensions would spill. Up to 64 dimensions 64 rows were wrong on an H200: data/TUNING.md, "Float8".
    ((227, 64, 1), (TileConfig(16, 128, 4, 5), TileConfig(32, 64, 4, 4))),
    ((227, 128, 1), (TileConfig(16, 128, 8, 4), TileConfig(64, 64, 4, 4))),
    ((227, 256, 1), (TileConfig(16, 128, 8, 3), TileConfig(64, 64, 8, 3))),
    ((227, 512, 1), (TileConfig(16, 64, 8, 3), TileConfig(32, 32, 8, 3))),
    ((99, 64, 1), (TileConfig(16, 128, 4, 5), TileConfig(32, 64, 4, 4))),
    ((99, 128, 1), (TileConfig(16, 128, 8, 3), TileConfig(64, 64, 4, 4))),
    ((99, 256, 1), (TileConfig(16, 64, 8, 3), TileConfig(32, 64, 8, 2))),
    ((99, 512, 1), (TileConfig(16, 32, 8, 3), TileConfig(32, 32, 8, 2))),
    ((227, 64, 2), (TileConfig(16, 64, 4, 5), TileConfig(64, 64, 4, 4), TileConfig(128, 64, 8, 3))),
    (
        (227, 128, 2),
        (TileConfig(16, 64, 4, 4), TileConfig(32, 64, 4, 3), TileConfig(64, 128, 4, 3), TileConfig(128, 128, 8, 3)),
    ),
    (
        (227, 256, 2),
        (TileConfig(16, 64, 4, 3), TileConfig(32, 32, 4, 4), TileConfig(64, 32, 4, 4), TileConfig(128, 64, 8, 2)),
    ),
    ((227, 512, 2), (TileConfig(16, 32, 4, 3), TileConfig(32, 32, 8, 3), TileConfig(64, 32, 8, 2))),
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

# Head dim up to -> (rows of a KV head beyond which the warp-specialized kernel takes a call, its configuration).
# Measured: data/TUNING.md, "Many rows by warps with jobs of their own".
_HOPPER = {
    64: (64, TileConfig(128, 128, 12, 2)),
    128: (64, TileConfig(128, 128, 12, 2)),
    256: (64, TileConfig(128, 64, 12, 2)),
    512: (32, TileConfig(64, 32, 12, 2)),
}


@dataclass(frozen=True)
class DecodePlan:
    """What `decode` will do. `config` is None and `splits` 1 for `reference` and `tiled`.

    fused: the last program of a KV head merges the shares, else a second kernel does.
    programs: of the launch, splits included. tiles: the most tiles of keys that the splits of a KV head divide.
    ragged: the programs share the tiles of all batches evenly, whatever their lengths (`ragged.py`); then splits is how
    many of them there are for each KV head, rounded up.
    origin: where the kernel's config is from. scores: see `scores_line`. caches: see `caches_line`. wgmma: see
    `uses_wgmma`.
    """

    impl: str
    config: TileConfig | None
    splits: int
    fused: bool
    programs: int
    tiles: int
    reason: str
    origin: Origin | None = None
    scores: str | None = None
    caches: str | None = None
    ragged: bool = False
    wgmma: bool = False

    def __str__(self):
        said = (line for line in (self.scores, self.caches) if line is not None)
        lines = [f"impl    {self.impl}: {self.reason}", *said]
        if self.config is not None:
            origin = f"; {self.origin}" if self.origin is not None else ""
            lines += [f"config  {self.config}{origin}", self.splits_line()]
        return "\n".join(lines)

    def splits_line(self) -> str:
        if self.ragged:
            return (
                f"splits  {self.programs} programs share the tiles of all batches evenly, by their lengths on the "
                "device; a second kernel merges"
            )
        merge = "the last program merges" if self.fused else "a second kernel merges" if self.splits > 1 else "no merge"
        return f"splits  {self.splits} of at most {self.tiles} tiles; {self.programs} programs; {merge}"


def make_decode_plan(call: DecodeCall) -> DecodePlan:
    """Raises ValueError for what the chosen implementation cannot do."""
    impl, reason = choose_impl(call)
    said: dict[str, Any] = {"scores": scores_line(call), "caches": caches_line(call.k, call.k_scale, call.v_scale)}
    if impl != "triton":
        return DecodePlan(impl, None, 1, False, 1, 1, reason, **said)
    gpu = Gpu.of(call.q.device)
    config, origin = choose_decode_config(call, gpu)
    plan = plan_decode_kernel(call, gpu.capability, gpu.sms, reason, config)
    return replace(plan, origin=origin, **said)


def choose_decode_config(call: DecodeCall, gpu: Gpu) -> tuple[TileConfig, Origin]:
    """The kernel's configuration on this GPU, tuned where it was, and where it is from."""
    table = decode_config(gpu.capability, call.q.shape[3], call.tile_dtype, call.rows)
    if not call.q.is_cuda:
        return table, Origin("table")
    specialized = specialized_config(call, gpu.capability, gpu.sms)
    if specialized is not None:
        return specialized, Origin("table")
    config, origin = find_decode(gpu, call.q.shape[3], call.tile_dtype.itemsize, table.block_m)
    return (table, Origin("table")) if config is None or origin is None else (config, origin)


def plan_decode_kernel(
    call: DecodeCall,
    capability: tuple[int, int],
    multiprocessors: int,
    reason: str = "asked for",
    config: TileConfig | None = None,
) -> DecodePlan:
    """The plan of a call by the Triton kernel, for a GPU that need not be present; config None: the table's."""
    config = config or specialized_config(call, capability, multiprocessors)
    config = config or decode_config(capability, call.q.shape[3], call.tile_dtype, call.rows)
    programs, tiles = _programs_and_tiles(call, config)
    wgmma = uses_wgmma(config, capability, call.tile_dtype)
    if shares_work(call, config):
        shared = min(multiprocessors * programs_at_once(call, config, capability), programs * tiles)
        of_each = -(-shared // programs)
        return DecodePlan("triton", config, of_each, False, shared, tiles, reason, ragged=True, wgmma=wgmma)
    splits = int(call.splits or choose_splits(programs, tiles, multiprocessors))
    if config.warp_specialized:
        _check_specialized(call, config, capability, splits)
    fused = _fuses(call, config, splits)
    return DecodePlan("triton", config, splits, fused, programs * splits, tiles, reason, wgmma=wgmma)


def _check_specialized(call: DecodeCall, config: TileConfig, capability: tuple[int, int], splits: int) -> None:
    """ValueError where the warp-specialized kernel cannot do a call with this configuration and so many shares."""
    by_columns = call.q.shape[3] > ONE_GROUP_HEAD_DIM
    rows = 64 if by_columns else 128
    fits = config.by_columns == by_columns and config.block_m == rows and config.num_stages > 1
    if not fits or splits == 1 or not can_specialize(call, capability):
        raise ValueError(
            f"config: given {config}; the warp-specialized kernel is Hopper's and takes 12 warps, two stages or more, "
            "128 rows of head sizes from 64 to 256 or 64 of 512, 16-bit tensors in rows of 16 bytes, a scale above 0, "
            "no ring, no mask but a window, and several splits; take another or None"
        )


def specialized_config(call: DecodeCall, capability: tuple[int, int], multiprocessors: int) -> TileConfig | None:
    """The configuration with which the warp-specialized kernel does a call; None where the plain one does it.

    The plain one does few rows, for which memory decides, what a single program or a batch's even shares do, and what
    the other cannot: `can_specialize`.
    """
    rows, config = _HOPPER[min(dim for dim in _HOPPER if call.q.shape[3] <= dim)]
    if call.rows <= rows or not can_specialize(call, capability):
        return None
    if shares_work(call, decode_config(capability, call.q.shape[3], call.tile_dtype, call.rows)):
        return None
    programs, tiles = _programs_and_tiles(call, config)
    return config if (call.splits or choose_splits(programs, tiles, multiprocessors)) > 1 else None


def can_specialize(call: DecodeCall, capability: tuple[int, int]) -> bool:
    """Whether the warp-specialized kernel can do such a call: Hopper, 16-bit tensors that its copy engine reads."""
    sizes = can_specialize_warps(capability, call.q.shape[3], call.q.dtype) and call.k.dtype == call.q.dtype
    plain = call.visible is None and sign_and_scale(call.scale)[0] == 1
    return sizes and plain and can_use_tma(call)


def programs_at_once(call: DecodeCall, config: TileConfig, capability: tuple[int, int]) -> int:
    """How many programs that share the work of a batch a multiprocessor takes, by their tiles and their warps.

    Tiles of keys and values in shared memory are one a stage where products are by `wgmma`, which reads them there;
    else one fewer: the current stage's are in registers.
    """
    row = power_of_two(call.q.shape[3]) * call.tile_dtype.itemsize
    held = config.num_stages - (not uses_wgmma(config, capability, call.tile_dtype))
    tiles = (2 * held * config.block_n + config.block_m) * row
    by_warps = min(MOST_A_MULTIPROCESSOR, WARPS_AT_ONCE // config.num_warps)
    return max(1, min(by_warps, shared_bytes(capability) // tiles))


def _programs_and_tiles(call: DecodeCall, config: TileConfig) -> tuple[int, int]:
    """(programs of a single share, the most tiles of keys that the splits of a KV head divide)."""
    programs = call.q.shape[0] * call.k.shape[1] * -(-call.rows // config.block_m)
    return programs, tiles_at_most(call.kv_len, queries_of_a_block(call, config), call.window, config.block_n)


def shares_work(call: DecodeCall, config: TileConfig) -> bool:
    """Whether programs share the tiles of all batches evenly: where lengths on the device may differ."""
    several = call.lengths is not None and 1 < call.q.shape[0] <= MOST_BATCHES and call.visible is None
    return several and call.splits is None and call.rows <= config.block_m and not config.warp_specialized


def decode_config(capability: tuple[int, int], head_dim: int, dtype: torch.dtype, rows: int) -> TileConfig:
    """The configuration for a device of this compute capability; block_m holds `rows` rows, or as many as fit.

    Raises ValueError below compute capability 8.0.
    """
    check_capability(capability)
    available = shared_bytes(capability) >> 10
    for (kib, dim, element_bytes), configs in _DECODE:
        if available >= kib and head_dim <= dim and dtype.itemsize <= element_bytes:
            holds_all = (config for config in configs if rows <= config.block_m)
            config = next(holds_all, configs[-1])
            return replace(config, block_m=min(config.block_m, max(16, power_of_two(rows))))
    raise ValueError(f"head_dim: given {head_dim}; from 8 to 512")


def queries_of_a_block(call: DecodeCall, config: TileConfig) -> int:
    """The most queries of which a program has rows."""
    q_len = call.q.shape[2]
    return q_len if call.rows <= config.block_m else min(q_len, -(-(config.block_m - 1) // call.group) + 1)


def uses_wgmma(config: TileConfig, capability: tuple[int, int], dtype: torch.dtype) -> bool:
    """Whether products are by `wgmma`; then the plain kernel masks every tile, so that no branch stands between both.

    With the branch ptxas waits for each `wgmma` by itself, and Triton divides a tile's scores over the warp groups,
    whose maxima must then meet (data/TUNING.md, "Decode").
    """
    return capability[0] == HOPPER[0] and config.block_m >= WGMMA_ROWS and dtype.itemsize <= 2


def can_fuse(call: DecodeCall, config: TileConfig, splits: int) -> bool:
    """Whether one program holds all shares of a KV head's rows at once: the merge is then a single trip to memory."""
    if config.warp_specialized:
        return False
    numbers = power_of_two(call.rows) * power_of_two(splits) * power_of_two(call.q.shape[3])
    return splits > 1 and call.rows <= config.block_m and numbers <= MERGED_A_WARP * config.num_warps


def _fuses(call: DecodeCall, config: TileConfig, splits: int) -> bool:
    """Whether the last program of a KV head merges, else a second kernel.

    A second kernel is faster on the device, but its launch costs the host more than that gains; in a CUDA graph a
    launch costs nothing (data/TUNING.md, "Decode").
    """
    capturing = call.q.is_cuda and torch.cuda.is_current_stream_capturing()
    return not capturing and can_fuse(call, config, splits)
