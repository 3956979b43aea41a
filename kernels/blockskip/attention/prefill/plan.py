"""Every choice about a call of the prefill implementations, made in one place: skip mode, tiles, packing, copies."""

from __future__ import annotations

import functools
from dataclasses import dataclass

from ...config import (
    ONE_GROUP_HEAD_DIM,
    TMA_HEAD_DIM,
    WARP_SPECIALIZED_ROWS,
    TileConfig,
    can_specialize_warps,
    prefers_tma,
    prefill_config,
)
from ...gpu import Gpu, capability_of
from ...mask import Band, Mask
from ...tilemap import TileMap
from ...tuned.choose import Origin, choose_config
from ..call import AttentionCall, can_use_tma, sign_and_scale
from . import tiled_plan

SKIPS = ("auto", "none", "mask", "bounds", "map")


@dataclass(frozen=True)
class PrefillPlan:
    """What a prefill implementation will do.

    config: None for `reference`. packed: the query heads of a KV head share tiles. origin: where the Triton kernel's
    config is from. use_tma: whether the plain kernel would read keys and values by the copy engine.
    """

    impl: str
    skip: str
    config: TileConfig | None
    packed: bool
    group: int
    mask: Mask
    q_len: int
    kv_len: int
    q_start: int
    origin: Origin | None = None
    use_tma: bool = False

    @property
    def queries_per_tile(self) -> int:
        assert self.config is not None
        return self.config.block_m // (self.group if self.packed else 1)

    def programs(self, batch: int, heads: int) -> int:
        """Row blocks over all batches and heads: the programs that can run at once."""
        return -(-self.q_len // self.queries_per_tile) * batch * (heads // self.group if self.packed else heads)

    @functools.cached_property
    def tilemap(self) -> TileMap | None:
        """The map of the launch's tiles for batch 0 and head 0; None for `reference`."""
        return None if self.config is None else self.tilemap_of(0, 0)

    def tilemap_of(self, batch: int, head: int) -> TileMap:
        """The tile map of one batch and query head."""
        assert self.config is not None
        tiles = self.queries_per_tile, self.config.block_n
        return TileMap.build(self.mask, self.q_len, self.kv_len, *tiles, self.q_start, batch, head)


def make_prefill_plan(call: AttentionCall, impl: str) -> PrefillPlan:
    """Raises ValueError for what the implementation cannot do."""
    if impl == "triton":
        config, origin, use_tma = _kernel_config(call)
        return plan_kernel(call, config, origin, use_tma, capability_of(call.q.device))
    if call.skip != "auto":
        raise ValueError(f"skip: given {call.skip!r}; impl={impl!r} takes 'auto' alone, the modes are the kernel's")
    if call.config is not None:
        raise ValueError(f"config: given {call.config}; impl={impl!r} has none to choose, leave it None")
    return _plan(call, impl, "none" if impl == "reference" else "map", _tiled_config(call, impl), False)


def plan_kernel(
    call: AttentionCall,
    config: TileConfig,
    origin: Origin | None = None,
    use_tma: bool = False,
    capability: tuple[int, int] | None = None,
) -> PrefillPlan:
    """The plan of a call that the Triton kernel does with this configuration, on whatever device.

    use_tma: whether its keys and values are read by the copy engine, if that is the plain kernel.
    """
    skip = _choose_skip(call)
    fits = config.by_columns == (call.q.shape[3] > ONE_GROUP_HEAD_DIM)
    # the plain kernel sums the scores of such tiles in another order: what was asked for has the same bits in all modes
    every_skip = config.by_columns and call.config is not None
    if not fits or not _specializes_warps(call, skip, capability, every_skip):
        config = config.plain
    packed = not config.warp_specialized and _packs(call, config)
    return _plan(call, "triton", skip, config, packed, origin, use_tma)


def _specializes_warps(
    call: AttentionCall, skip: str, capability: tuple[int, int] | None, every_skip: bool = False
) -> bool:
    """Whether the warp-specialized kernel does such a call; if not, the plain one does.

    Up to `ONE_GROUP_HEAD_DIM` that has the same bits. every_skip: whether it does modes that read the whole mask, too.
    """
    if capability is None or not can_specialize_warps(capability, call.q.shape[3], call.tile_dtype):
        return False
    skips = (every_skip or skip in ("bounds", "map")) and not call.record
    positive = sign_and_scale(call.scale)[0] == 1
    return skips and positive and call.q_len >= WARP_SPECIALIZED_ROWS and can_use_tma(call)


def _plan(
    call: AttentionCall,
    impl: str,
    skip: str,
    config: TileConfig | None,
    packed: bool,
    origin: Origin | None = None,
    use_tma: bool = False,
) -> PrefillPlan:
    sizes = call.q_len, call.planned_kv_len, call.planned_q_start
    return PrefillPlan(impl, skip, config, packed, call.group, call.mask, *sizes, origin, use_tma)


def _choose_skip(call: AttentionCall) -> str:
    is_band = isinstance(call.mask, Band)
    floats = call.lengths is not None and call.q_start is None  # where the queries stand is known on the device alone
    if call.skip == "auto":
        return "bounds" if is_band else "mask" if floats else "map"
    if call.skip == "bounds" and not is_band:
        raise ValueError(
            f"skip: 'bounds' needs a band such as causal() or sliding_window(w), not {call.mask!r}; use 'map'"
        )
    if call.ring and call.lengths is not None and call.skip in ("none", "mask"):
        raise ValueError(f"skip: given {call.skip!r}; ring=True with a kv_len tensor takes 'auto' or 'bounds'")
    if call.skip == "map" and floats:
        raise ValueError("skip: 'map' with a kv_len tensor needs q_start, because the map is planned on the host")
    return call.skip


def _kernel_config(call: AttentionCall) -> tuple[TileConfig, Origin, bool]:
    """(config, where it is from, whether keys and values are read by the copy engine)."""
    batch, heads, q_len, head_dim = call.q.shape
    # the look-up comes first: an unsupported device is an error whatever was asked for
    gpu = Gpu.of(call.q.device)
    use_tma = reads_by_tma(call, gpu.capability)
    if call.q.is_cuda:
        # a tile of few queries would be mostly empty
        copies = use_tma or (head_dim < TMA_HEAD_DIM and call.q_len >= WARP_SPECIALIZED_ROWS and can_use_tma(call))
        special_q_len = call.q_len if _specializes_warps(call, _choose_skip(call), gpu.capability) else 0
        found = choose_config(gpu, head_dim, call.tile_dtype, call.mask, batch * heads * q_len, copies, special_q_len)
    else:
        found = prefill_config(gpu.capability, head_dim, call.tile_dtype, use_tma=use_tma), Origin("table")
    return *(found if call.config is None else (call.config, Origin("asked"))), use_tma


def reads_by_tma(call: AttentionCall, capability: tuple[int, int]) -> bool:
    """Whether the plain kernel on such a device reads this call's keys and values by the copy engine."""
    return prefers_tma(capability, call.q.shape[3], call.tile_dtype) and can_use_tma(call)


def _tiled_config(call: AttentionCall, impl: str) -> TileConfig | None:
    if impl == "reference":
        return None
    sizes = call.q.shape[2], call.planned_kv_len, call.planned_q_start
    rows = tiled_plan.make_tiled_plan(call.mask, *sizes, 0, 0, call.q.device).rows
    return TileConfig(rows, tiled_plan.TILE_KEYS, 1, 1)  # no warps, no stages: PyTorch


def _packs(call: AttentionCall, config: TileConfig) -> bool:
    """Whether a tile holds all query heads of a KV head.

    Where that needs fewer programs, and the mask is the same for all.
    """
    if call.group == 1 or call.group > config.block_m or call.mask.varies[1]:
        return False
    q_len = call.q_len
    alone = -(-q_len // config.block_m) * call.group
    return -(-q_len // (config.block_m // call.group)) < alone
