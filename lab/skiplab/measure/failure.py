"""What became of a call that may raise anything: a status and a line of text, unless it was the user who ended it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from skiplab.contenders import Unsupported
from skiplab.measure.timing import Cancelled

T = TypeVar("T")
LONGEST_TEXT = 300
CPU_ALLOCATOR = "DefaultCPUAllocator"  # torch's: it raises a plain RuntimeError when memory is out


@dataclass(frozen=True)
class Failure:
    """What a call ended in instead of a result: unsupported, out-of-memory or crashed, and why, in one line."""

    status: str
    text: str


def attempt(call: Callable[[], T], cancelled: Callable[[], bool] = lambda: False) -> T | Failure:
    """The call's result, or what it ended in: a contender may raise anything, SystemExit and KeyboardInterrupt too.

    Raises what the user's own Ctrl-C raises, even where the call swallowed it, and Cancelled where `cancelled` says so.
    """
    result: T | Failure
    with _interrupts_of_the_user() as interrupts:
        try:
            result = call()
        except BaseException as error:  # a peer or a user's kernel may raise anything; the row says what it was
            if isinstance(error, Cancelled) and cancelled():
                raise
            result = failure(error)
    if interrupts:
        raise interrupts[0]
    return result


@contextmanager
def _interrupts_of_the_user() -> Iterator[list[BaseException]]:
    """Lists what the program's handler of SIGINT raised meanwhile: any other KeyboardInterrupt is the call's own.

    Signals are handled in the main thread alone: in another one the list stays empty.
    """
    raised: list[BaseException] = []
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield raised
        return

    def note(number: int, frame: object) -> None:
        try:
            handler(number, frame)  # type: ignore[operator]
        except BaseException as error:
            raised.append(error)
            raise

    signal.signal(signal.SIGINT, note)
    try:
        yield raised
    finally:
        signal.signal(signal.SIGINT, handler)


def failure(error: BaseException) -> Failure:
    """The status that an exception means, and its kind and message as one line."""
    try:
        lines = str(error).strip().splitlines()
    except BaseException:  # its own __str__ is broken; its kind is known
        lines = ["(its message cannot be read)"]
    message = lines[0][:LONGEST_TEXT] if lines else ""
    kind = type(error).__name__
    if isinstance(error, Unsupported):
        return Failure("unsupported", message)
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    full = isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_ALLOCATOR in message
    return Failure("out-of-memory" if full else "crashed", f"{kind}: {message}" if message else kind)
