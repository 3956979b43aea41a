"""An int that records what is asked of it, so that a plan made with one number is known to serve another.

The number of keys grows from token to token, but a plan depends on little of it: on which side of a limit it lies, how
many tiles it fills. A call that is planned with a `GuardedInt` records every question that checks, plan and kernels ask
of the number, with the answers: its guards, as torch.compile has them for sizes. Another number with the same answers
has the same plan.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple


def _arithmetic(operation: Callable[[Any, Any], int]) -> Callable[[GuardedInt, Any], GuardedInt]:
    """An operator on a GuardedInt and an int, or another GuardedInt of the same call; the result is guarded, too."""

    def compute(self: GuardedInt, other: Any) -> GuardedInt:
        made = self._with(operation, other) if isinstance(other, int | GuardedInt) else None
        return NotImplemented if made is None else GuardedInt(*made, self.guards)

    return compute


def _comparison(operation: Callable[[Any, Any], bool], mirrored: Callable) -> Callable[[GuardedInt, Any], bool]:
    """A comparison, which adds a guard. mirrored: the operation with its operands exchanged."""

    def compare(self: GuardedInt, other: Any) -> bool:
        made = self._with(operation, other)
        if made is None:
            return NotImplemented
        answer, ask = made
        if self._of is int and not isinstance(other, GuardedInt):
            ask = partial(mirrored, other)  # most questions are such, and a partial is the cheaper call
        self.guards.append(Guard(ask, answer))
        return answer

    return compare


def _swapped(operation: Callable[[Any, Any], int]) -> Callable[[Any, Any], int]:
    return lambda a, b: operation(b, a)


class Guard(NamedTuple):
    """A question about a number, and the answer that what was made depends on."""

    ask: Callable[[int], Hashable]
    answer: Hashable


class GuardedInt:
    """Stands for an int while a call is planned, and records what is asked of it.

    Arithmetic gives another one; comparing it, or taking its value, adds a guard.

    Formatting adds none: text decides nothing. Operations that are not defined here are TypeErrors, so that no use goes
    unrecorded.
    """

    __slots__ = ("_of", "guards", "value")

    def __init__(self, value: int, of: Callable[[int], int] = int, guards: list[Guard] | None = None) -> None:
        """of: computes this value from the caller's number. guards: one list for all that is computed from that number.

        `value` is only for handing the number on; a decision by it goes through `ask`.
        """
        self.value, self._of, self.guards = value, of, [] if guards is None else guards

    def ask(self, question: Callable[[int], Any]) -> Any:
        """question(value), recorded as a guard. The question must be pure and hold no tensor."""
        of, answer = self._of, question(self.value)
        self.guards.append(Guard(question if of is int else lambda number: question(of(number)), answer))
        return answer

    def __int__(self) -> int:
        return self.ask(int)

    __index__ = __int__

    def __hash__(self) -> int:
        return hash(int(self))

    def __bool__(self) -> bool:
        return self.ask(bool)

    def __neg__(self) -> GuardedInt:
        of = self._of
        negated = operator.neg if of is int else lambda number: -of(number)
        return GuardedInt(-self.value, negated, self.guards)

    def __repr__(self) -> str:
        return repr(self.value)

    def __format__(self, specification: str) -> str:
        return format(self.value, specification)

    def _with(self, operation: Callable[[Any, Any], Any], other: Any) -> tuple[Any, Callable[[int], Any]] | None:
        """(result, the function that computes it from the caller's number); None where `other` is no number."""
        of = self._of
        if isinstance(other, GuardedInt):
            others = other._of
            return operation(self.value, other.value), lambda number: operation(of(number), others(number))
        if isinstance(other, int | float):
            computed = operation(self.value, other)
            if of is int:  # the caller's number itself
                return computed, lambda number: operation(number, other)
            return computed, lambda number: operation(of(number), other)
        return None

    __add__, __radd__ = _arithmetic(operator.add), _arithmetic(_swapped(operator.add))
    __sub__, __rsub__ = _arithmetic(operator.sub), _arithmetic(_swapped(operator.sub))
    __mul__, __rmul__ = _arithmetic(operator.mul), _arithmetic(_swapped(operator.mul))
    __floordiv__, __rfloordiv__ = _arithmetic(operator.floordiv), _arithmetic(_swapped(operator.floordiv))
    __mod__, __rmod__ = _arithmetic(operator.mod), _arithmetic(_swapped(operator.mod))
    __lt__, __le__ = _comparison(operator.lt, operator.gt), _comparison(operator.le, operator.ge)
    __gt__, __ge__ = _comparison(operator.gt, operator.lt), _comparison(operator.ge, operator.le)
    __eq__, __ne__ = _comparison(operator.eq, operator.eq), _comparison(operator.ne, operator.ne)  # pyright: ignore[reportAssignmentType]
