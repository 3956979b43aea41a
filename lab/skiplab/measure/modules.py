"""The module of each operation in this package, and what each of them must hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch

from skiplab.contenders import Contender
from skiplab.measure.point import WorkDone
from skiplab.measure.timing import Built, TimeLimits, Timing
from skiplab.measure.truth import Truth
from skiplab.operations import modules_of
from skiplab.workload import Problem


class MeasureModule(Protocol):
    """What measuring needs of an operation."""

    def awkward(self, dtype: str) -> Sequence[Problem]:
        """Workloads that have caught bugs, in that dtype."""
        ...

    def expected(
        self,
        workload: Any,
        entry: Contender,
        device: str,
        seed: int,
        inputs: Sequence[torch.Tensor],
        deviation: float,
        sampled: bool | None,
    ) -> Truth:
        """The truth for this contender and the inputs, which are the workload's of that seed and deviation."""
        ...

    def plan_and_work(
        self, entry: Contender, workload: Any, inputs: Sequence[torch.Tensor], arguments: Sequence[Any]
    ) -> tuple[dict[str, Any], WorkDone]:
        """The plan of our own implementation ({} for peers), and the work of the call.

        arguments: made by the contender's `prepare` from the workload's inputs, such as a packed weight.
        """
        ...

    def read_bytes(self, entry: Contender, workload: Any, work: WorkDone) -> int | None:
        """The bytes of its arguments that a call reads; None for all of them."""
        ...

    def timed(self, several: Sequence[Built], device: str, limits: TimeLimits) -> Sequence[Timing]:
        """What contenders built for one workload, timed in turn; `rotated.timed`: of functions of their arguments."""
        ...


MODULES: Mapping[str, MeasureModule] = modules_of("skiplab.measure")
