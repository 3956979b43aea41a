"""Time that passes where a test says so."""

import time
from types import SimpleNamespace

import pytest
from skiplab.measure import samples, timing


class Clock:
    """Time that passes where somebody says so; who let it pass, in order."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def passes(self, name, seconds):
        self.calls.append(name)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    one = Clock()
    module = SimpleNamespace(
        perf_counter=lambda: one.now, perf_counter_ns=lambda: round(one.now * 1e9), sleep=time.sleep
    )
    for user in (samples, timing):
        monkeypatch.setattr(user, "time", module)
    return one
