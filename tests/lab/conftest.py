"""What the lab's tests share."""

import signal

import pytest
from fake_clock import clock
from skiplab.contenders import Registry, base, contenders
from skiplab.measure import rotation
from skiplab.operations import OPERATIONS

__all__ = ["clock"]


@pytest.fixture(autouse=True)
def few_copies(monkeypatch):
    """Small inputs fill the last cache with tens of thousands of copies, and making those takes seconds a point."""
    monkeypatch.setitem(rotation.ROTATION_LIMIT, "cpu", 1 << 20)


@pytest.fixture(autouse=True)
def ctrl_c_is_heard():
    """A program that a script started in the background ignores it."""
    before = signal.getsignal(signal.SIGINT)
    if before is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def own_registry(monkeypatch):
    """A copy of the contenders there are, so that a test's kernels do not stay."""
    copy = Registry()
    for operation in OPERATIONS:
        for entry in contenders(operation).values():
            copy.add(entry)
    monkeypatch.setattr(base, "REGISTRY", copy)
