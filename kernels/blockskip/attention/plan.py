"""Every choice about an attention call, made in one place: implementation, skip mode, tiles, packing."""

from __future__ import annotations

import functools
import os
from dataclasses import dataclass

import torch

from ..config import TileConfig, prefill_config
from ..mask import Band, Mask
from ..tilemap import TileMap
from . import tileplan

IMPLS = ("auto", "reference", "tiled", "triton")
SKIPS = ("auto", "none", "mask", "bounds", "map")


@dataclass(frozen=True, eq=False)
class Call:
    """A checked attention call.

    See `blockskip.attention` for shapes. kv_len is the number of keys, or the most there can be where the true number
    stands on the device: `lengths` int32 [B], else None.
    """

    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor
    mask: Mask
    scale: float
    q_start: int | None
    kv_len: int
    lengths: torch.Tensor | None
    skip: str
    impl: str
    config: TileConfig | None
    return_lse: bool
    record: bool

    @property
    def planned_q_start(self) -> int:
        """The first query's position; for a device kv_len without q_start, as if the whole buffer were used."""
        return self.kv_len - self.q.shape[2] if self.q_start is None else self.q_start

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]


@dataclass(frozen=True)
class Plan:
    """What `attention` will do. `config` is None for `reference`; `packed`: GQA heads share a tile; `splits` is 1 in
    prefill.

    `tilemap` is the map of the launch's tiles for batch 0 and head 0, None for `reference`.
    """

    impl: str
    skip: str
    config: TileConfig | None
    packed: bool
    splits: int
    group: int
    mask: Mask
    q_len: int
    kv_len: int
    q_start: int
    reason: str

    @property
    def queries_per_tile(self) -> int:
        assert self.config is not None
        return self.config.block_m // (self.group if self.packed else 1)

    @functools.cached_property
    def tilemap(self) -> TileMap | None:
        return None if self.config is None else self.tilemap_of(0, 0)

    def tilemap_of(self, batch: int, head: int) -> TileMap:
        """The tile map of one batch and query head."""
        assert self.config is not None
        tiles = self.queries_per_tile, self.config.block_n
        return TileMap.build(self.mask, self.q_len, self.kv_len, *tiles, self.q_start, batch, head)

    def __str__(self):
        lines = [f"impl    {self.impl}: {self.reason}", f"skip    {self.skip}"]
        if self.config is not None and self.tilemap is not None:
            tiles = f"{self.queries_per_tile} queries x {self.config.block_n} keys"
            packed = f"; {self.group} query heads packed into each tile" if self.packed else ""
            config = f"{self.config}: " if self.impl == "triton" else ""  # PyTorch has no warps and no stages
            lines += [f"config  {config}{tiles}{packed}", f"tiles   {self.tilemap.summary()}"]
        return "\n".join(lines)


def make_plan(call: Call) -> Plan:
    """Raises ValueError for what the chosen implementation cannot do."""
    impl, reason = _choose_impl(call)
    if impl == "triton":
        return plan_kernel(call, _kernel_config(call), reason)
    if call.skip != "auto":
        raise ValueError(f"skip: given {call.skip!r}; impl={impl!r} takes 'auto' alone, the modes are the kernel's")
    if call.config is not None:
        raise ValueError(f"config: given {call.config}; impl={impl!r} has none to choose, leave it None")
    return _plan(call, impl, "none" if impl == "reference" else "map", _tiled_config(call, impl), False, reason)


def plan_kernel(call: Call, config: TileConfig, reason: str = "asked for") -> Plan:
    """The plan of a call that the Triton kernel does with this configuration, on whatever device."""
    return _plan(call, "triton", _choose_skip(call), config, _packs(call, config), reason)


def _plan(call: Call, impl: str, skip: str, config: TileConfig | None, packed: bool, reason: str) -> Plan:
    sizes = call.q.shape[2], call.kv_len, call.planned_q_start
    return Plan(impl, skip, config, packed, 1, call.group, call.mask, *sizes, reason)


def _choose_impl(call: Call) -> tuple[str, str]:
    on_cuda = call.q.is_cuda
    if call.impl == "triton" and not on_cuda and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"impl: 'triton' needs CUDA tensors, these are on {call.q.device}; set TRITON_INTERPRET=1 before triton is "
            "imported to run the kernel in Triton's interpreter (correct, very slow), or use impl='tiled'"
        )
    if call.impl == "tiled" and on_cuda and call.lengths is not None:
        raise ValueError("impl: 'tiled' cannot take a kv_len tensor on CUDA without reading it back; use impl='triton'")
    if call.impl != "auto":
        return call.impl, "asked for"
    return ("triton", "tensors on CUDA") if on_cuda else ("tiled", f"tensors on {call.q.device}")


def _choose_skip(call: Call) -> str:
    is_band = isinstance(call.mask, Band)
    floats = call.lengths is not None and call.q_start is None  # where the queries stand is known on the device alone
    if call.skip == "auto":
        return "bounds" if is_band else "mask" if floats else "map"
    if call.skip == "bounds" and not is_band:
        raise ValueError(
            f"skip: 'bounds' needs a band such as causal() or sliding_window(w), not {call.mask!r}; use 'map'"
        )
    if call.skip == "map" and floats:
        raise ValueError("skip: 'map' with a kv_len tensor needs q_start, because the map is planned on the host")
    return call.skip


def _kernel_config(call: Call) -> TileConfig:
    if call.q.is_cuda:
        device = torch.cuda.get_device_properties(call.q.device)
        capability, sms = (device.major, device.minor), device.multi_processor_count
    else:
        capability, sms = (9, 0), None
    batch, heads, q_len, head_dim = call.q.shape
    # the look-up comes first: an unsupported device is an error whatever was asked for
    table = prefill_config(capability, head_dim, call.q.dtype, batch * heads * q_len, sms)
    return call.config or table


def _tiled_config(call: Call, impl: str) -> TileConfig | None:
    if impl == "reference":
        return None
    sizes = call.q.shape[2], call.kv_len, call.planned_q_start
    tilemap = tileplan.plan(call.mask, *sizes, 0, 0, call.q.device).tilemap
    return TileConfig(tilemap.block_m, tilemap.block_n, 1, 1)  # no warps, no stages: PyTorch


def _packs(call: Call, config: TileConfig) -> bool:
    """Whether a tile holds all query heads of a KV head.

    Where that needs fewer programs, and the mask is the same for all.
    """
    if call.group == 1 or call.group > config.block_m or call.mask.varies[1]:
        return False
    q_len = call.q.shape[2]
    alone = -(-q_len // config.block_m) * call.group
    return -(-q_len // (config.block_m // call.group)) < alone
