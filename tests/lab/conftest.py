"""What the lab's tests share."""

import pytest
from skiplab import timing


@pytest.fixture(autouse=True)
def few_copies(monkeypatch):
    """Small inputs fill the last cache with tens of thousands of copies, and making those takes seconds a point."""
    monkeypatch.setitem(timing.ROTATION_LIMIT, "cpu", 1 << 20)
