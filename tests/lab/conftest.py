import pytest
from skiplab.contenders import Registry, base, contenders
from skiplab.workload import OPERATIONS


@pytest.fixture
def own_registry(monkeypatch):
    """A copy of the contenders there are, so that a test's kernels do not stay."""
    copy = Registry()
    for operation in OPERATIONS:
        for entry in contenders(operation).values():
            copy.add(entry)
    monkeypatch.setattr(base, "REGISTRY", copy)
