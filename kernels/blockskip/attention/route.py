"""Which kernel `attention` takes for up to 128 last queries, prefill's or decode's, and the plan of that kernel."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

from ..config import TileConfig
from ..gpu import HOPPER, Gpu, capability_of
from ..mask import Band, Mask
from ..tilemap import TileMap
from ..tuned.choose import Origin
from .caches import caches_line
from .call import AttentionCall, DecodeCall, choose_impl, scores_line
from .decode.plan import MOST_QUERIES, DecodePlan, make_decode_plan
from .lengths import LARGEST_POSITION
from .prefill.plan import PrefillPlan, make_prefill_plan

FEW_QUERIES = 8
"""Up to so many last queries crossovers by keys alone were measured; PyTorch's decode takes no more."""
MOST_FILLED = 0.5
"""The largest share of the multiprocessors that prefill's programs may fill where decode takes more queries.

On an H200 decode is then 1.2 to 9 times as fast, from 2,048 keys on (data/TUNING.md, "9 to 128 queries").
"""
MANY_KEYS = 512
"""The fewest live keys where decode takes more queries: supposed, not measured below 2,048."""
FEWER_TILES = 2
"""How many times the tiles of a share prefill must visit, where decode reads a mask's bits and visits all.

Supposed, not measured.
"""
PYTORCH_KEYS = 64
"""Width of the tiles by which the plan of decode in PyTorch, which has none, shows the keys that are read."""


@dataclass(frozen=True)
class Route:
    """The kernel of a call, "prefill" or "decode", and why that one."""

    kernel: str
    reason: str


PREFILL = Route("prefill", "asked for")


@dataclass(frozen=True)
class Plan:
    """What `attention` will do. Either `prefill` or `decode` is the plan of the chosen kernel, the other is None.

    config: None for `reference` and for decode in PyTorch; packed: GQA heads share a tile; splits: 1 in prefill.
    origin: where the config is from. scores: see `scores_line`. caches: see `caches_line`.
    """

    impl: str
    reason: str
    route: Route
    mask: Mask
    group: int
    q_len: int
    kv_len: int
    q_start: int
    prefill: PrefillPlan | None
    decode: DecodePlan | None
    scores: str | None = None
    caches: str | None = None

    @property
    def kernel(self) -> str:
        """prefill | decode."""
        return self.route.kernel

    @property
    def _chosen(self) -> PrefillPlan | DecodePlan:
        chosen = self.decode or self.prefill
        assert chosen is not None
        return chosen

    @property
    def config(self) -> TileConfig | None:
        return self._chosen.config

    @property
    def skip(self) -> str:
        if self.prefill is None:
            return "bounds" if isinstance(self.mask, Band) else "none"
        return self.prefill.skip

    @property
    def packed(self) -> bool:
        return self.group > 1 if self.prefill is None else self.prefill.packed

    @property
    def splits(self) -> int:
        return 1 if self.decode is None else self.decode.splits

    @property
    def origin(self) -> Origin | None:
        return self._chosen.origin

    @property
    def queries_per_tile(self) -> int:
        """In decode all of them, or as many as a program has rows for: it goes over the keys that any of these sees."""
        if self.prefill is not None:
            return self.prefill.queries_per_tile
        whole = self.config is None or self.q_len * self.group <= self.config.block_m
        return self.q_len if whole or self.config is None else max(1, self.config.block_m // self.group)

    @functools.cached_property
    def tilemap(self) -> TileMap | None:
        """The map of the launch's tiles for batch 0 and head 0; None for `reference`.

        Decode in PyTorch has no tiles: its map is of all queries x 64 keys.
        """
        if self.prefill is not None:
            return self.prefill.tilemap
        block_n = PYTORCH_KEYS if self.config is None else self.config.block_n
        return TileMap.build(self.mask, self.q_len, self.kv_len, self.queries_per_tile, block_n, self.q_start)

    def __str__(self):
        lines = [f"impl    {self.impl}: {self.reason}", f"kernel  {self.kernel}: {self.route.reason}"]
        lines += [f"skip    {self.skip}", *(line for line in (self.scores, self.caches) if line is not None)]
        if self.config is not None and self.tilemap is not None:
            tiles = f"{self.queries_per_tile} queries x {self.config.block_n} keys"
            packed = f"; {self.group} query heads packed into each tile" if self.packed else ""
            config = f"{self.config}: " if self.impl == "triton" else ""  # PyTorch has no warps and no stages
            origin = f"; {self.origin}" if self.origin is not None else ""
            lines += [f"config  {config}{tiles}{packed}{origin}", f"tiles   {self.tilemap.summary()}"]
        if self.decode is not None and self.config is not None:
            lines += [self.decode.splits_line()]
        return "\n".join(lines)


def make_plan(call: AttentionCall) -> Plan:
    """Raises ValueError for what the chosen implementation cannot do."""
    impl, reason = choose_impl(call)
    route = choose_route(call, impl, capability_of(call.q.device))
    prefill = decode = None
    if route.kernel == "decode":
        decode = make_decode_plan(as_decode(call, impl))
    else:
        prefill = make_prefill_plan(call, impl)
    sizes = call.q.shape[2], call.planned_kv_len, call.planned_q_start
    caches = caches_line(call.k, call.k_scale, call.v_scale)
    if caches is not None and prefill is not None and impl == "triton":
        caches += "; by the plain kernel, the warp-specialized one takes q's dtype alone"
    return Plan(impl, reason, route, call.mask, call.group, *sizes, prefill, decode, scores_line(call), caches)


def as_decode(call: AttentionCall, impl: str) -> DecodeCall:
    """The call as decode takes it, without a mask's bits; only where `why_not_decode` gives None."""
    band = call.mask if isinstance(call.mask, Band) else None
    window = None if band is None or band.left is None else band.left + 1
    return DecodeCall(
        call.q, call.k, call.v, call.scale, call.kv_len, call.lengths, window, None, impl, call.return_lse, call.ring,
        call.sinks, call.softcap, call.starts, call.k_scale, call.v_scale, call.mask if band is None else None,
    )  # fmt: skip


@dataclass(frozen=True)
class DecodeCrossover:
    """From `keys` live keys on decode is faster than prefill, on GPUs of at least `capability`, for head sizes up to
    `head_dim`."""

    capability: tuple[int, int]
    head_dim: int
    keys: int
    source: str


# The first row that fits is taken: newer GPUs first, small heads first. How they were measured: data/TUNING.md,
# "Crossovers".
CROSSOVERS = (
    DecodeCrossover((9, 0), 64, 320, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    DecodeCrossover((9, 0), 128, 1, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    DecodeCrossover((9, 0), 256, 64, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    DecodeCrossover((9, 0), 512, 1, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    # for one query, in CUDA graphs, D 128 and 256, on a GPU that is not named
    DecodeCrossover((8, 0), 512, 256, "published by ExecuTorch, pull request 20198"),
)


def choose_route(call: AttentionCall, impl: str, capability: tuple[int, int] | None) -> Route:
    """The route of a checked call that `impl` does; capability is None where no GPU is asked.

    Raises ValueError for route="decode" where that cannot be.
    """
    if call.route == "prefill":
        return PREFILL
    against = why_not_decode(call, impl)
    if against is not None:
        if call.route == "decode":
            raise ValueError(f"route: 'decode' cannot take this call: {against}; use 'measured', the default")
        return Route("prefill", against)
    takes, reason = ROUTE_POLICIES[call.route](call, impl, capability)
    return Route("decode" if takes else "prefill", reason)


def why_not_decode(call: AttentionCall, impl: str) -> str | None:
    """Why decode cannot take a call; None where it can."""
    q_len, mask = call.q.shape[2], call.mask
    if impl == "reference":
        return "the reference has one way for all"
    most = MOST_QUERIES if impl == "triton" else FEW_QUERIES
    if q_len > most:
        return f"{q_len} queries, the route to decode is for up to {most}"
    if call.skip != "auto" or call.config is not None or call.record:
        return "skip, config and record are the prefill kernel's"
    if call.kv_len >= LARGEST_POSITION and not call.ring:
        return f"{call.kv_len} keys, decode takes less than {LARGEST_POSITION}"
    if not isinstance(mask, Band):
        return _why_not_by_bits(call, impl)
    sees_all = q_len == 1 and mask.is_everything  # wherever the query stands
    if not sees_all:
        forward = mask.right == 0 or (q_len == 1 and (mask.right is None or mask.right > 0))  # to the last key, or on
        if not forward or (mask.left is not None and mask.left < 0):
            return f"the mask {mask!r} is neither causal nor a sliding window"
        if call.q_start is not None and (call.lengths is not None or call.q_start != call.kv_len - q_len):
            return f"q_start is {call.q_start}: the queries are not known to be the last positions"
    return None


def _why_not_by_bits(call: AttentionCall, impl: str) -> str | None:
    """Why decode cannot read a mask's bits; None where it can."""
    if all(leaf.is_value for leaf in call.mask.leaves()):
        return f"the mask {call.mask!r} is neither causal nor a sliding window"
    if impl != "triton" or call.ring:
        return f"the mask {call.mask!r} is read as bits, by the Triton kernel and not from a ring"
    return None


def live_keys(call: DecodeCall) -> int:
    """The most keys that the queries see."""
    held = min(call.kv_len, call.k.shape[2])
    return held if call.window is None else min(held, call.window + call.q.shape[2] - 1)


def crossover(capability: tuple[int, int], head_dim: int) -> DecodeCrossover:
    """The table's row for a GPU. Raises ValueError where there is none."""
    for row in CROSSOVERS:
        if capability >= row.capability and head_dim <= row.head_dim:
            return row
    raise ValueError(f"route: no crossover for compute capability {capability} and head_dim {head_dim}")


def _measured(call: AttentionCall, impl: str, capability: tuple[int, int] | None) -> tuple[bool, str]:
    step = as_decode(call, impl)
    keys = live_keys(step)
    if impl == "tiled":
        return True, f"{keys} live keys; in PyTorch decode reads the same keys and plans no tile map"
    if call.q.shape[2] > FEW_QUERIES or step.visible is not None:
        return _by_occupancy(call, step, keys)
    row = crossover(capability or HOPPER, call.q.shape[3])
    where = "from" if keys >= row.keys else "below"
    return keys >= row.keys, f"{keys} live keys, {where} the crossover of {row.keys} ({row.source})"


def _by_occupancy(call: AttentionCall, step: DecodeCall, keys: int) -> tuple[bool, str]:
    """Decode, whose programs share the keys, where prefill's would leave half of the multiprocessors idle.

    By a mask's bits all tiles are read, of which prefill leaves out the empty ones: then its map is asked, too.
    """
    if keys < MANY_KEYS:
        return (
            False,
            f"{call.q.shape[2]} queries and {keys} live keys; below {MANY_KEYS} they are not shared, unmeasured",
        )
    sms, prefill = Gpu.of(call.q.device).sms, make_prefill_plan(call, "triton")
    programs = prefill.programs(call.q.shape[0], call.q.shape[1])
    splits = make_decode_plan(step).splits
    said = f"{call.q.shape[2]} queries, for which prefill has {programs} programs on {sms} multiprocessors"
    if programs > MOST_FILLED * sms:
        return False, f"{said}: more than half of them are busy"
    if splits == 1:
        return False, f"{said}, and decode would not share keys either"
    if prefill.skip == "map" and step.visible is not None and prefill.tilemap is not None:
        visited = prefill.tilemap.visited / (prefill.tilemap.rows * prefill.tilemap.cols)
        if visited * splits < FEWER_TILES:
            return False, f"{said}, but visits {visited:.0%} of the tiles, and decode, in {splits} shares, all of them"
    return True, f"{said}; {splits} shares of the keys keep more of them busy"


def _executorch(call: AttentionCall, impl: str, capability: tuple[int, int] | None) -> tuple[bool, str]:
    """ExecuTorch's rule (its pull request 20198): by the cache's length, whatever the window. A promised word."""
    q_len, head_dim, held = call.q.shape[2], call.q.shape[3], min(call.kv_len, call.k.shape[2])
    takes = q_len == 1 and held >= 256 and head_dim & (head_dim - 1) == 0
    return (
        takes,
        f"ExecuTorch's rule: one query, 256 keys or more, head_dim a power of two; {q_len}, {held}, {head_dim}",
    )


def _decode(call: AttentionCall, impl: str, capability: tuple[int, int] | None) -> tuple[bool, str]:
    return True, "asked for"


Policy = Callable[[AttentionCall, str, tuple[int, int] | None], tuple[bool, str]]
ROUTE_POLICIES: dict[str, Policy] = {"measured": _measured, "executorch": _executorch, "decode": _decode}
ROUTES = ("prefill", *ROUTE_POLICIES)
