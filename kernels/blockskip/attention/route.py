"""Which kernel `attention` takes for a few last queries: the one for prefill, or split-K decode. One place decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..mask import Band
from .checks import LARGEST_POSITION
from .decode_plan import LONGEST_QUERY, DecodeCall

if TYPE_CHECKING:
    from .plan import Call


@dataclass(frozen=True)
class Route:
    """The kernel of a call, "prefill" or "decode", and why that one."""

    kernel: str
    reason: str


PREFILL = Route("prefill", "asked for")


@dataclass(frozen=True)
class Crossover:
    """From `keys` live keys on, decode is the sooner of the two, for GPUs of at least `capability` and head sizes up
    to `head_dim`."""

    capability: tuple[int, int]
    head_dim: int
    keys: int
    source: str


# The first row that fits is taken: newer GPUs first, small heads first. A call is timed as one of a CUDA graph: timed
# alone, decode's two kernels and its buffers are charged with what the host takes to launch them.
CROSSOVERS = (
    # The first length measured at which split-K is ahead: a query, bf16, 32 query heads, causal; split-K / standard in
    # us at 32, 64, 256 and 512 keys. D 64: 2.8/2.6, 2.8/2.6, 4.5/4.5, 4.7/7.0; D 128: 3.1/3.4, 3.2/3.3, 5.0/5.5,
    # 5.1/8.9; D 256: 4.2/3.9, 4.3/4.8, 7.2/12.8, 8.3/22.0; D 512: 4.1/6.1, 5.3/8.3, 7.2/23.8, 8.2/45.6.
    Crossover((9, 0), 64, 320, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    Crossover((9, 0), 128, 1, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    Crossover((9, 0), 256, 64, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    Crossover((9, 0), 512, 1, "measured on an NVIDIA H100 80GB HBM3 in CUDA graphs"),
    # Split-K against the standard kernel at L_q 1 under CUDA-graph timing; D 128 and 256, a GPU that is not named.
    Crossover((8, 0), 512, 256, "published by ExecuTorch, pull request 20198"),
)


def choose_route(call: Call, impl: str, capability: tuple[int, int] | None) -> Route:
    """The route of a checked call that `impl` does; capability is None where no GPU is asked.

    Raises ValueError for route="decode" where that cannot be.
    """
    if call.route == "prefill":
        return PREFILL
    made = as_decode(call, impl)
    if not isinstance(made, DecodeCall):
        if call.route == "decode":
            raise ValueError(f"route: 'decode' cannot take this call: {made}; use 'measured', the default")
        return Route("prefill", made)
    takes, reason = POLICIES[call.route](made, impl, capability)
    return Route("decode" if takes else "prefill", reason)


def as_decode(call: Call, impl: str) -> DecodeCall | str:
    """The same call for decode, or why there is none."""
    q_len, mask = call.q.shape[2], call.mask
    if impl == "reference":
        return "the reference has one way for all"
    if q_len > LONGEST_QUERY:
        return f"{q_len} queries, decode takes up to {LONGEST_QUERY}"
    if call.skip != "auto" or call.config is not None or call.record:
        return "skip, config and record are the prefill kernel's"
    if call.kv_len >= LARGEST_POSITION and not call.ring:
        return f"{call.kv_len} keys, decode takes less than {LARGEST_POSITION}"
    if not isinstance(mask, Band):
        return f"the mask {mask!r} is neither causal nor a sliding window"
    sees_all = q_len == 1 and mask.is_everything  # wherever the query stands
    if not sees_all:
        forward = mask.right == 0 or (q_len == 1 and (mask.right is None or mask.right > 0))  # to the last key, or on
        if not forward or (mask.left is not None and mask.left < 0):
            return f"the mask {mask!r} is neither causal nor a sliding window"
        if call.q_start is not None and (call.lengths is not None or call.q_start != call.kv_len - q_len):
            return f"q_start is {call.q_start}: the queries are not known to be the last positions"
    window = None if mask.left is None else mask.left + 1
    return DecodeCall(
        call.q, call.k, call.v, call.scale, call.kv_len, call.lengths, window, None, impl, call.return_lse, call.ring
    )


def live_keys(call: DecodeCall) -> int:
    """The most keys that the queries see."""
    held = min(call.kv_len, call.k.shape[2])
    return held if call.window is None else min(held, call.window + call.q.shape[2] - 1)


def crossover(capability: tuple[int, int], head_dim: int) -> Crossover:
    """The table's row for a GPU. Raises ValueError where there is none."""
    for row in CROSSOVERS:
        if capability >= row.capability and head_dim <= row.head_dim:
            return row
    raise ValueError(f"route: no crossover for compute capability {capability} and head_dim {head_dim}")


def _measured(call: DecodeCall, impl: str, capability: tuple[int, int] | None) -> tuple[bool, str]:
    keys = live_keys(call)
    if impl == "tiled":
        return True, f"{keys} live keys; in PyTorch decode reads the same keys and plans no tile map"
    row = crossover(capability or (9, 0), call.q.shape[3])
    where = "from" if keys >= row.keys else "below"
    return keys >= row.keys, f"{keys} live keys, {where} the crossover of {row.keys} ({row.source})"


def _executorch(call: DecodeCall, impl: str, capability: tuple[int, int] | None) -> tuple[bool, str]:
    """Its rule looks at the cache's length and not at the window (pull request 20198)."""
    q_len, head_dim, held = call.q.shape[2], call.q.shape[3], min(call.kv_len, call.k.shape[2])
    takes = q_len == 1 and held >= 256 and head_dim & (head_dim - 1) == 0
    return (
        takes,
        f"ExecuTorch's rule: one query, 256 keys or more, head_dim a power of two; {q_len}, {held}, {head_dim}",
    )


def _decode(call: DecodeCall, impl: str, capability: tuple[int, int] | None) -> tuple[bool, str]:
    return True, "asked for"


Policy = Callable[[DecodeCall, str, tuple[int, int] | None], tuple[bool, str]]
POLICIES: dict[str, Policy] = {"measured": _measured, "executorch": _executorch, "decode": _decode}
ROUTES = ("prefill", *POLICIES)
