"""Calls that may raise anything: the exception becomes a status and a line of text, unless the user interrupted."""

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
TRITON_NEEDS_GPU = "its Triton kernel needs a GPU, and torch sees none here"
NO_DRIVER = "0 active drivers"
"""What Triton's RuntimeError begins with where there is no GPU."""
NO_CUDA = ("Torch not compiled with CUDA", "Found no NVIDIA driver", "No CUDA GPUs are available")


@dataclass(frozen=True)
class Failure:
    """The outcome of a call without a result: unsupported, out-of-memory or crashed, and the reason in one line."""

    status: str
    text: str


def attempt(call: Callable[[], T], cancelled: Callable[[], bool] = lambda: False) -> T | Failure:
    """The call's result, or its Failure: a contender may raise anything, SystemExit and KeyboardInterrupt too.

    Re-raises the user's own Ctrl-C, even if the call swallowed it, and raises Cancelled if `cancelled()` is true.
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
    """Yields a list of what the SIGINT handler raises inside the block; any other KeyboardInterrupt is the call's own.

    Signals are handled in the main thread alone; in any other the list stays empty.
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
    """The Failure of an exception: its status, and its type and message in one line."""
    try:
        lines = str(error).strip().splitlines()
    except BaseException:  # its own __str__ is broken; its kind is known
        lines = ["(its message cannot be read)"]
    message = lines[0][:LONGEST_TEXT] if lines else ""
    kind = type(error).__name__
    if isinstance(error, Unsupported):
        return Failure("unsupported", message)
    if message.startswith(NO_DRIVER):
        return Failure("unsupported", TRITON_NEEDS_GPU)
    if message.startswith(NO_CUDA):
        return Failure("unsupported", f"it asks torch for a GPU, and there is none here: {message}")
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    full = isinstance(error, torch.OutOfMemoryError | MemoryError) or CPU_ALLOCATOR in message
    return Failure("out-of-memory" if full else "crashed", f"{kind}: {message}" if message else kind)
