"""Kernel tests run on CUDA where there is one, in Triton's interpreter elsewhere: whichever, the same tests."""

import pytest
from interpreter import device, fresh_memory_holds_nan, interpreter

__all__ = ["device", "fresh_memory_holds_nan", "interpreter"]


@pytest.fixture
def launched(monkeypatch):
    """Launches as they would be, each with what its kernel was compiled for; none of them is done."""
    # imported here: Triton reads TRITON_INTERPRET, which `interpreter` sets, when it is imported
    from blockskip.launching.dispatch import CompiledKernel, Dispatcher, traits

    done = []

    def find(self, kernel, launch, **options):
        named = kernel.fn.__name__, launch.grid, launch.constants, options, [*map(traits, launch.arguments)]
        return CompiledKernel(lambda *arguments, stream=None: done.append((*named, arguments)), ())

    monkeypatch.setattr(Dispatcher, "find", find)
    return done
