"""Notebooks run in warm kernels."""

import pytest


@pytest.fixture(autouse=True)
def kernels(warm_kernels):
    """All of them do."""
