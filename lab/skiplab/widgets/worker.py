"""Background jobs of a widget: one at a time, on a thread, cancelled by a flag; a new job replaces the old."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

IsCancelled = Callable[[], bool]

MEASURING = threading.Lock()
"""Held while anything is timed: two measurements at once would measure each other."""


class Stages:
    """`cancelled`, asked all the time, that says each second what runs, and for how long it has: see `begin`."""

    def __init__(self, cancelled: IsCancelled, say: Callable[[str], None]):
        self._cancelled, self._say = cancelled, say
        self._words, self._began, self._told = "", 0.0, 0

    def begin(self, words: str) -> None:
        """What runs from now on."""
        self._words, self._began, self._told = words, time.monotonic(), -1
        self()

    def __call__(self) -> bool:
        seconds = int(time.monotonic() - self._began)
        if self._words and seconds > self._told and not self._cancelled():
            self._told = seconds
            self._say(f"{self._words}; {seconds} s so far")
        return self._cancelled()


class BackgroundWorker:
    """Runs jobs `work(cancelled)`; `failed(error)` hears of an exception, `ended()` is called after every job.

    A job that waits for its turn, or that is asked to stop, sees `cancelled()` turn true and should return soon.
    """

    def __init__(self, failed: Callable[[Exception], None], ended: Callable[[], None]):
        self._failed, self._ended = failed, ended
        self._change = threading.Lock()
        self._flag = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a job runs or waits, and was not asked to stop."""
        return self._thread is not None and self._thread.is_alive() and not self._flag.is_set()

    def submit(self, work: Callable[[IsCancelled], None]) -> None:
        """Ask the current job to stop, and run this one after it."""
        with self._change:
            self._flag.set()
            self._flag = flag = threading.Event()
            self._thread = threading.Thread(target=self._run, args=(work, flag), daemon=True, name="skiplab-measure")
            self._thread.start()

    def cancel(self) -> None:
        """Ask the current job to stop."""
        self._flag.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the current job has ended; False when it has not within the time."""
        if self._thread is not None:
            self._thread.join(timeout_s)
        return self._thread is None or not self._thread.is_alive()

    def _run(self, work: Callable[[IsCancelled], None], flag: threading.Event) -> None:
        with MEASURING:
            try:
                if not flag.is_set():
                    work(flag.is_set)
            except Exception as error:  # shown in the widget's panel: a thread has nobody else to tell
                self._failed(error)
            finally:
                if flag is self._flag:
                    self._ended()
