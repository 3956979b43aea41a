"""A whole model at the roofs of a machine: the time of a call by part, tokens a second with drafts, and memory.

Arithmetic, not a measurement: `roofline.predicted_parts` says what it leaves out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import torch
from blockskip.arguments import integer, number
from blockskip.attention.decode.plan import LONGEST_QUERY

from skiplab.machine import Machine, known_gpus
from skiplab.machine.roofline import Bound, predicted_parts
from skiplab.machine.roofs import recorded_roofs
from skiplab.model.cache import GROWTH, Cache
from skiplab.model.weights import expected
from skiplab.workload import ModelWorkload
from skiplab.workload.linear import bits_per_weight

EMBEDDING = "model.embed_tokens.weight"


@dataclass(frozen=True)
class CallTime:
    """The least time of a call by part. tokens: how many it brings forward: a prompt's, or those a step is to keep."""

    workload: ModelWorkload
    machine: Machine
    parts: Mapping[str, Bound]
    tokens: float

    @property
    def seconds(self) -> float:
        return sum(part.seconds for part in self.parts.values())

    @property
    def tokens_per_s(self) -> float:
        return self.tokens / self.seconds


def call_time(workload: ModelWorkload, machine: Machine, quantised: bool = True, acceptance: float = 1.0) -> CallTime:
    """A call at the roofs. acceptance: of the tokens that a step reads behind its first one, which are drafts."""
    tokens = workload.q_len if workload.phase == "prefill" else kept_tokens(workload.q_len - 1, acceptance)
    return CallTime(workload, machine, predicted_parts(workload, machine, quantised=quantised), tokens)


def kept_tokens(drafts: int, acceptance: float) -> float:
    """How many tokens a step keeps on average, that many drafts long, each right with the probability `acceptance`.

    The drafts before the first wrong one, and the model's own token behind them: 1 + a + a^2 + ... + a^drafts. What
    making the drafts costs is not in it.
    """
    integer("drafts", drafts, 0, LONGEST_QUERY - 1)
    if not 0 <= number("acceptance", acceptance) <= 1:
        raise ValueError(f"acceptance: given {acceptance}; must be from 0 to 1")
    return float(sum(acceptance**i for i in range(drafts + 1)))


@dataclass(frozen=True)
class Memory:
    """Bytes of a model's weights, and of the cache of one sequence."""

    weights: int
    cache: int


def memory(workload: ModelWorkload, positions: int, quantised: bool = True) -> Memory:
    """What `Decoder` holds: weights, the embedding in dtype beside a quantised head, and a cache for `positions`."""
    spec, size = workload.whole_spec, workload.element_bytes
    bits = bits_per_weight(workload.bits, workload.group_size, False) if quantised else 8 * size
    weights = 0.0
    for name, shape in expected(spec).items():
        weights += prod(shape) * (bits / 8 if len(shape) == 2 and name != EMBEDDING else size)
    if spec.tied and quantised:
        weights += spec.vocabulary * spec.hidden * bits / 8
    cache = Cache.empty(spec, 1, positions, workload.torch_dtype, torch.device("meta"), GROWTH)
    return Memory(round(weights), cache.nbytes)


@lru_cache(maxsize=1)
def machines() -> dict[str, Machine]:
    """The machines that predictions can be for: those whose roofs are recorded, in bfloat16, and data sheets."""
    recorded = (roofs.machine() for roofs in recorded_roofs().values() if "bfloat16" in roofs.products)
    return {f"{one.name} ({one.source})": one for one in (*recorded, *known_gpus().values())}
