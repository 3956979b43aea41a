"""Where the kernels run in tests: on CUDA where there is one, in Triton's interpreter elsewhere.

Whether a kernel is interpreted is decided when its module is imported; so it is imported here, with the variable set,
and the variable is set again for those tests alone whose conftest takes the fixtures: tests of the lab see a process
that does not interpret.
"""

import os
import sys

import pytest
import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"

if DEVICE == "cpu" and sys.platform == "linux":
    os.environ["TRITON_INTERPRET"] = "1"
    import quick_interpreter  # noqa: F401, I001 - before there are kernels
    import blockskip.attention.decode.launch
    import blockskip.attention.prefill.launch
    import blockskip.attention.varlen.launch
    import blockskip.linear.hopper.launch
    import blockskip.linear.launch
    import blockskip.pointwise.launch  # noqa: F401

    del os.environ["TRITON_INTERPRET"]


@pytest.fixture(autouse=True)
def interpreter(monkeypatch):
    if DEVICE == "cpu":
        monkeypatch.setenv("TRITON_INTERPRET", "1")


@pytest.fixture
def device():
    return DEVICE


@pytest.fixture(autouse=True)
def fresh_memory_holds_nan(monkeypatch):
    """What a kernel leaves unwritten of its outputs shows as NaN."""

    def filling(empty):
        def filled(*args, **kwargs):
            tensor = empty(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() and tensor.device.type != "meta" else tensor

        return filled

    monkeypatch.setattr(torch, "empty", filling(torch.empty))
    if sys.platform == "linux":
        from blockskip.launching import memory, ready

        # which goes past torch.empty
        monkeypatch.setattr(ready, "allocation", lambda *args: filling(memory.allocation(*args)))
