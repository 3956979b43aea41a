"""Triton 3.6's interpreter counts with NumPy 2.4, which refuses what it does: `int` of an array of one number."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from blockskip.launching.interpreter import agree, disagrees


class Tensor:
    """As the interpreter's: an array of one number behind a handle."""

    def __init__(self, number: int) -> None:
        self.handle = SimpleNamespace(data=np.array([number]))


class Scope:
    """Sets attributes, as the interpreter's does while a kernel runs."""

    def set_attr(self, owner, name, value) -> None:
        setattr(owner, name, value)


def of_triton_3_6(tensor, scope) -> None:
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data))
    scope.set_attr(tensor, "__repr__", lambda self: repr(self.handle.data))


def test_an_array_of_one_number_is_an_index():
    module = SimpleNamespace(_patch_lang_tensor=of_triton_3_6)
    agree(module)
    module._patch_lang_tensor(Tensor, Scope())
    assert list(range(Tensor(2), Tensor(7), Tensor(3))) == [2, 5]
    assert repr(Tensor(4)) == "array([4])"  # the rest is as it was
    with pytest.raises(ValueError, match="size 1"):
        several = Tensor(0)
        several.handle.data = np.arange(2)
        range(several)


@pytest.mark.parametrize(("triton", "numpy", "wanted"), [
    ("3.6.0", "2.4.6", True),
    ("3.6.0", "2.3.5", False),
    ("3.7.1", "2.4.6", False),
    ("3.10.0", "2.10.0", False),
    ("3.6.0+git1", "2.10.0rc1", True),
])  # fmt: skip
def test_which_releases_disagree(triton, numpy, wanted):
    assert disagrees(triton, numpy) is wanted
