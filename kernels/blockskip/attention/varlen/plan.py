"""Every choice about a call of packed sequences, made in one place."""

from __future__ import annotations

from dataclasses import dataclass

from ...config import TileConfig
from ...gpu import Gpu
from ...mask import Mask
from ...tilemap import TileMap
from ...tuned.choose import Origin
from ..call import AttentionCall, choose_impl, scores_line
from ..prefill.plan import PrefillPlan, make_prefill_plan
from .call import VarlenCall

SHARE_OF_L2 = 2
"""The keys and values of the heads whose rows alternate may take 1 / SHARE_OF_L2 of the L2."""


@dataclass(frozen=True)
class VarlenPlan:
    """What `attention_varlen` will do. prefill: as for a batch of the longest sequence.

    interleave: heads whose rows alternate in the order of the work items, all sequences' together.
    """

    impl: str
    reason: str
    sequences: int
    rows: int
    prefill: PrefillPlan
    interleave: int
    scores: str | None = None

    @property
    def config(self) -> TileConfig | None:
        return self.prefill.config

    @property
    def skip(self) -> str:
        return self.prefill.skip

    @property
    def packed(self) -> bool:
        return self.prefill.packed

    @property
    def splits(self) -> int:
        return 1

    @property
    def mask(self) -> Mask:
        return self.prefill.mask

    @property
    def origin(self) -> Origin | None:
        return self.prefill.origin

    @property
    def queries_per_tile(self) -> int:
        return self.prefill.queries_per_tile

    @property
    def tilemap(self) -> TileMap | None:
        """The map of the longest sequence that was planned for; None for `reference`."""
        return self.prefill.tilemap

    def __str__(self):
        sizes = f"{self.rows} rows, up to {self.prefill.q_len} queries and {self.prefill.kv_len} keys each"
        lines = [f"impl    {self.impl}: {self.reason}", f"packed  {self.sequences} sequences in {sizes}"]
        lines += [f"skip    {self.skip}", *([] if self.scores is None else [self.scores])]
        if self.config is not None and self.tilemap is not None:
            tiles = f"{self.queries_per_tile} queries x {self.config.block_n} keys"
            group = f"; {self.prefill.group} query heads packed into each tile" if self.packed else ""
            config = f"{self.config}: " if self.impl == "triton" else ""  # PyTorch has no warps and no stages
            origin = f"; {self.origin}" if self.origin is not None else ""
            lines += [f"config  {config}{tiles}{group}{origin}"]
            lines += [f"tiles   of the longest sequence: {self.tilemap.summary()}"]
        if self.impl == "triton":
            lines += [f"items   listed on the device, the longest first, for {self.interleave} heads at a time"]
        return "\n".join(lines)


def make_varlen_plan(call: VarlenCall) -> VarlenPlan:
    """Raises ValueError for what the chosen implementation cannot do."""
    impl, reason = choose_impl(call.attention)
    for name, cu in (("cu_seqlens_q", call.cu_q), ("cu_seqlens_k", call.cu_k)):
        if impl == "tiled" and cu.is_cuda:
            raise ValueError(f"impl: 'tiled' cannot take {name} on CUDA without reading it back; use impl='triton'")
    return plan_with(call, impl, reason, make_prefill_plan(call.attention, impl))


def plan_with(call: VarlenCall, impl: str, reason: str, prefill: PrefillPlan) -> VarlenPlan:
    """The plan of a call whose implementation and tiles are chosen."""
    scores = scores_line(call.attention)
    interleave = interleaved_heads(call.attention, prefill.packed) if impl == "triton" else 1
    return VarlenPlan(impl, reason, call.sequences, len(call.q), prefill, interleave, scores)


def interleaved_heads(call: AttentionCall, packed: bool) -> int:
    """How many of the programs' heads interleave their rows; a divisor of them.

    Those that share keys always do, and so many more that the keys of all sequences lie in the L2: rows that run at the
    same time are of any sequence.
    """
    kv_heads, sharing = call.k.shape[1], 1 if packed else call.group
    bytes_ = 2 * call.k.shape[2] * call.k.shape[3] * call.k.element_size()
    wanted = max(1, Gpu.of(call.q.device).l2_bytes // SHARE_OF_L2 // bytes_)
    return sharing * max(count for count in range(1, kv_heads + 1) if kv_heads % count == 0 and count <= wanted)
