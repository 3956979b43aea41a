"""Kernel tests run on CUDA where there is one, in Triton's interpreter elsewhere: whichever, the same tests."""

from interpreter import device, fresh_memory_holds_nan, interpreter

__all__ = ["device", "fresh_memory_holds_nan", "interpreter"]
