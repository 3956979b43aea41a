"""Every choice about an attention call, made in one place: implementation, skip mode, tiles, packing."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import torch

from ..config import DESCRIBED_FROM, SPECIALISED_ROWS, Gpu, TileConfig, describes, prefill_config, specialises
from ..mask import Band, Mask
from ..tilemap import TileMap
from ..tuned import Origin, choose_config
from . import tileplan
from .checks import choose_impl, sign_and_scale
from .decode_plan import DecodeCall, DecodePlan, make_decode_plan
from .route import PREFILL, Route, as_decode, choose_route

SKIPS = ("auto", "none", "mask", "bounds", "map")
PYTORCH_KEYS = 64
"""Keys of a tile where a plan only shows which ones are read."""
INTERPRETED_AS = (9, 0)
"""The compute capability whose tiles the kernel has in Triton's interpreter."""


@dataclass(frozen=True, eq=False)
class Call:
    """A checked attention call.

    See `blockskip.attention` for shapes. kv_len is the number of keys, or the most there can be where the true number
    stands on the device: `lengths` int32 [B], else None. ring: the slots of k and v hold the last positions.
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
    ring: bool = False
    route: str = "measured"

    @property
    def planned_kv_len(self) -> int:
        """The number of keys; for a device kv_len as if the whole buffer were used, once."""
        return self.kv_len if self.lengths is None else min(self.kv_len, self.k.shape[2])

    @property
    def planned_q_start(self) -> int:
        """The first query's position; for a device kv_len without q_start, as if the whole buffer were used."""
        return self.planned_kv_len - self.q.shape[2] if self.q_start is None else self.q_start

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]


@dataclass(frozen=True)
class Plan:
    """What `attention` will do. `config` is None for `reference` and for decode in PyTorch; `packed`: GQA heads share a
    tile; `splits` is 1 in prefill.

    `tilemap` is the map of the launch's tiles for batch 0 and head 0; for decode in PyTorch, which has no tiles, of all
    queries x 64 keys; None for `reference`. route: which kernel, and
    why; decode: its plan where that is the decode kernel, else None. origin: where the prefill kernel's config is from.
    described: whether that kernel reads keys and values by descriptors.
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
    route: Route = PREFILL
    decode: DecodePlan | None = None
    origin: Origin | None = None
    described: bool = False

    @property
    def kernel(self) -> str:
        """prefill | decode."""
        return self.route.kernel

    @property
    def queries_per_tile(self) -> int:
        assert self.config is not None
        if self.decode is not None:  # every program goes over the keys that some query sees
            return self.q_len
        return self.config.block_m // (self.group if self.packed else 1)

    @functools.cached_property
    def tilemap(self) -> TileMap | None:
        if self.config is not None:
            return self.tilemap_of(0, 0)
        if self.decode is None:
            return None
        return TileMap.build(self.mask, self.q_len, self.kv_len, self.q_len, PYTORCH_KEYS, self.q_start)

    def tilemap_of(self, batch: int, head: int) -> TileMap:
        """The tile map of one batch and query head."""
        assert self.config is not None
        tiles = self.queries_per_tile, self.config.block_n
        return TileMap.build(self.mask, self.q_len, self.kv_len, *tiles, self.q_start, batch, head)

    def __str__(self):
        lines = [f"impl    {self.impl}: {self.reason}", f"kernel  {self.kernel}: {self.route.reason}"]
        lines += [f"skip    {self.skip}"]
        if self.config is not None and self.tilemap is not None:
            tiles = f"{self.queries_per_tile} queries x {self.config.block_n} keys"
            packed = f"; {self.group} query heads packed into each tile" if self.packed else ""
            config = f"{self.config}: " if self.impl == "triton" else ""  # PyTorch has no warps and no stages
            origin = f"; {self.origin}" if self.origin is not None else ""
            lines += [f"config  {config}{tiles}{packed}{origin}", f"tiles   {self.tilemap.summary()}"]
        if self.decode is not None and self.config is not None:
            lines += [self.decode.splits_line()]
        return "\n".join(lines)


def make_plan(call: Call) -> Plan:
    """Raises ValueError for what the chosen implementation cannot do."""
    impl, reason = choose_impl(call)
    route = choose_route(call, impl, torch.cuda.get_device_capability(call.q.device) if call.q.is_cuda else None)
    if route.kernel == "decode":
        return _plan_decode(call, impl, route, reason)
    if impl == "triton":
        capability = torch.cuda.get_device_capability(call.q.device) if call.q.is_cuda else None
        config, origin, described = _kernel_config(call)
        return plan_kernel(call, config, reason, route, origin, described, capability)
    if call.skip != "auto":
        raise ValueError(f"skip: given {call.skip!r}; impl={impl!r} takes 'auto' alone, the modes are the kernel's")
    if call.config is not None:
        raise ValueError(f"config: given {call.config}; impl={impl!r} has none to choose, leave it None")
    skip = "none" if impl == "reference" else "map"
    return _plan(call, impl, skip, _tiled_config(call, impl), False, reason, route)


def plan_kernel(
    call: Call,
    config: TileConfig,
    reason: str = "asked for",
    route: Route = PREFILL,
    origin: Origin | None = None,
    described: bool = False,
    capability: tuple[int, int] | None = None,
) -> Plan:
    """The plan of a call that the Triton kernel does with this configuration, on whatever device.

    described: whether its keys and values are read by descriptors, if that is the plain kernel.
    """
    skip = _choose_skip(call)
    if not _can_specialise(call, skip, capability):
        config = config.plain
    packed = not config.specialised and _packs(call, config)
    made = _plan(call, "triton", skip, config, packed, reason, route)
    return replace(made, origin=origin, described=described)


def _can_specialise(call: Call, skip: str, capability: tuple[int, int] | None) -> bool:
    """Whether the kernel with specialised warps does such a call; if not, the plain one does, with the same bits."""
    if capability is None or not specialises(capability, call.q.shape[3], call.q.dtype):
        return False
    skips = skip in ("bounds", "map") and not call.record
    return skips and sign_and_scale(call.scale)[0] == 1 and call.q.shape[2] >= SPECIALISED_ROWS and can_describe(call)


def _plan_decode(call: Call, impl: str, route: Route, reason: str) -> Plan:
    decode_call = as_decode(call, impl)
    assert isinstance(decode_call, DecodeCall)
    decode = make_decode_plan(decode_call)
    made = _plan(call, impl, "bounds", decode.config, call.group > 1, reason, route)
    return replace(made, splits=decode.splits, decode=decode)


def _plan(call: Call, impl: str, skip: str, config: TileConfig | None, packed: bool, reason: str, route: Route) -> Plan:
    sizes = call.q.shape[2], call.planned_kv_len, call.planned_q_start
    return Plan(impl, skip, config, packed, 1, call.group, call.mask, *sizes, reason, route)


def _choose_skip(call: Call) -> str:
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


def _kernel_config(call: Call) -> tuple[TileConfig, Origin, bool]:
    """(config, where it is from, whether keys and values are described)."""
    batch, heads, q_len, head_dim = call.q.shape
    # the look-up comes first: an unsupported device is an error whatever was asked for
    if call.q.is_cuda:
        device = torch.cuda.get_device_properties(call.q.device)
        gpu = Gpu(device.name, (device.major, device.minor), device.multi_processor_count)
        described = is_described(call, gpu.capability)
        # a tile of few queries would be mostly empty
        copies = described or (head_dim < DESCRIBED_FROM and q_len >= SPECIALISED_ROWS and can_describe(call))
        found = choose_config(gpu, head_dim, call.q.dtype, call.mask, batch * heads * q_len, copies)
    else:
        described = is_described(call, INTERPRETED_AS)
        found = prefill_config(INTERPRETED_AS, head_dim, call.q.dtype, described=described), Origin("table")
    return *(found if call.config is None else (call.config, Origin("asked"))), described


def is_described(call: Call, capability: tuple[int, int]) -> bool:
    """Whether the plain kernel on such a device reads this call's keys and values by descriptors."""
    return describes(capability, call.q.shape[3], call.q.dtype) and can_describe(call)


def can_describe(call: Call) -> bool:
    """Whether descriptors can be made of a call's keys and values."""
    return not call.ring and describable(call.k) and describable(call.v)


def describable(t: torch.Tensor) -> bool:
    """Whether the copy engine reads it: rows of adjoining elements, each of which begins at a multiple of 16 bytes."""
    rows = t.stride(3) == 1 and t.stride(2) > 0
    return rows and not any(bytes_ % 16 for bytes_ in (t.data_ptr(), *_row_bytes(t)))


def _row_bytes(t: torch.Tensor) -> list[int]:
    return [stride * t.element_size() for stride in t.stride()[:3]]


def _tiled_config(call: Call, impl: str) -> TileConfig | None:
    if impl == "reference":
        return None
    sizes = call.q.shape[2], call.planned_kv_len, call.planned_q_start
    rows = tileplan.plan(call.mask, *sizes, 0, 0, call.q.device).rows
    return TileConfig(rows, tileplan.TILE_KEYS, 1, 1)  # no warps, no stages: PyTorch


def _packs(call: Call, config: TileConfig) -> bool:
    """Whether a tile holds all query heads of a KV head.

    Where that needs fewer programs, and the mask is the same for all.
    """
    if call.group == 1 or call.group > config.block_m or call.mask.varies[1]:
        return False
    q_len = call.q.shape[2]
    alone = -(-q_len // config.block_m) * call.group
    return -(-q_len // (config.block_m // call.group)) < alone
