"""Groups of warps as threads, of which one runs at a time, until it waits: the same order each time.

Who waits for a product goes on when nobody else can. By then others have overwritten what they were told is free.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import Any

NOBODY = "waited for a barrier that nobody completes"


class Group(threading.Thread):
    """A group of warps: it runs once `turn` is released, which is when `comes` is true; None: when no other can run."""

    here = threading.local()

    def __init__(self, groups: Groups, function: Callable[..., None], arguments: tuple[Any, ...]):
        super().__init__(daemon=True)
        self.groups, self.function, self.arguments = groups, function, arguments
        self.begun: list[Any] = []  # products that were not waited for
        self.rows: list[Callable[[], None]] = []  # copies to shared memory that were not committed
        self.copies: list[list[Callable[[], None]]] = []  # nor waited for
        self.stores: list[Callable[[], None]] = []  # nor these copies to global memory
        self.comes: Callable[[], bool] | None = lambda: True
        self.turn = threading.Lock()
        self.turn.acquire()

    def run(self) -> None:
        self.here.group = self
        self.turn.acquire()
        try:
            self.function(*self.arguments)
            assert not self.begun, "a product was never waited for"
            assert not self.rows and not self.copies, "a copy to shared memory was never waited for"
            assert not self.stores, "a copy to global memory was never waited for"
        except BaseException as problem:  # `Groups.run` raises it
            self.groups.problems.append(problem)
        self.groups.waiting.remove(self)
        if self.groups.waiting:
            self.groups.next().turn.release()

    def wait(self, comes: Callable[[], bool] | None) -> None:
        """Let the others run until it comes; None: until they, too, wait."""
        self.comes = comes
        self.groups.waiting.remove(self)
        self.groups.waiting.append(self)
        following = self.groups.next()
        if following is not self:
            following.turn.release()
            self.turn.acquire()
        assert not self.groups.stuck, NOBODY


class Groups:
    """The groups of a program.

    waiting: those that have not ended, who ran last as the last. problems: what went wrong in them. stuck: all wait for
    what never comes.
    """

    def __init__(self, tasks: Iterable[tuple[Callable[..., None], tuple[Any, ...]]]):
        self.problems: list[BaseException] = []
        self.stuck = False
        self.waiting = [Group(self, *task) for task in tasks]

    def run(self) -> None:
        """All of them, to their ends; raises the first problem."""
        groups = tuple(self.waiting)
        for group in groups:
            group.start()
        self.next().turn.release()
        for group in groups:
            group.join()
        if self.problems:
            raise self.problems[0]

    def next(self) -> Group:
        """Whose turn it is. Where all wait for what never comes, one after the other is told."""
        for group in self.waiting:
            if group.comes is not None and group.comes():
                return group
        late = [group for group in self.waiting if group.comes is None]
        self.stuck = self.stuck or not late
        return late[0] if late else self.waiting[0]


def running_group() -> Any:
    """The group that asks; None outside of all."""
    return getattr(Group.here, "group", None)
