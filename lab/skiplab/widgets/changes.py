"""Changes: what users change in an explorer's controls, one change after the other, whichever thread it comes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any


class Changes:
    """Tells a user's change of a control from one that the explorer itself makes when it sets its controls.

    JupyterLab runs callbacks on several threads. A change that comes while another thread shows a state waits until
    that is done; what `setting()` changes on its own thread is not heard.
    """

    def __init__(self) -> None:
        self._lock, self._setting = RLock(), False  # the flag is read and written under the lock alone

    @contextmanager
    def setting(self) -> Iterator[None]:
        """Controls are set in here; nobody hears of it, and changes on other threads wait."""
        with self._lock:
            before, self._setting = self._setting, True
            try:
                yield
            finally:
                self._setting = before

    def heard(self, take: Callable[[Any], None]) -> Callable[[Any], None]:
        """For `observe`: calls `take(value)` with the new value of a user's change.

        By then the control may hold another value: what was shown meanwhile has set it back.
        """

        def changed(change: Any) -> None:
            with self._lock:
                if not self._setting:
                    take(change["new"])

        return changed
