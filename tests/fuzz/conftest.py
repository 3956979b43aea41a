"""Generated tests: a minute of the same examples in `make test`, as long as SKIPLAB_FUZZ_SECONDS says in `make fuzz`.

With that variable every test is repeated with new examples until its share of the time is over, or until it fails.
"""

import os
import time
from pathlib import Path

import pytest
from draws import FUZZ_SECONDS
from interpreter import fresh_memory_holds_nan, interpreter

__all__ = ["fresh_memory_holds_nan", "interpreter"]

HERE = Path(__file__).parent
SLOWEST_ROUND_S = 600


@pytest.fixture(autouse=True)
def small_problems(one_thread):
    """All of them are."""


def pytest_collection_modifyitems(items):
    ours = [item for item in items if HERE in item.path.parents]
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    for item in ours if FUZZ_SECONDS else ():
        share = FUZZ_SECONDS * workers / len(ours)
        item.stash[SHARE] = share
        item.add_marker(pytest.mark.timeout(share + SLOWEST_ROUND_S))


SHARE = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem):
    until = time.monotonic() + pyfuncitem.stash.get(SHARE, 0.0)
    result = yield
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    while time.monotonic() < until:
        pyfuncitem.obj(**arguments)
    return result
