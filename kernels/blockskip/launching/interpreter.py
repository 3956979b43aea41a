"""Triton's interpreter where its release and NumPy's do not agree. Imports triton.

Triton 3.6 makes an index, as of a loop's bound, of an array of one number by `int`, which NumPy refuses from 2.4 on:
"only 0-dimensional arrays can be converted to Python scalars". Triton 3.7 makes a number of the array first.
"""

from __future__ import annotations

import os
from typing import Any

import triton

FIRST_THAT_AGREES = (3, 7)


def disagrees(triton_version: str, numpy_version: str) -> bool:
    """Whether the interpreter of that Triton cannot count with that NumPy."""
    return _release(triton_version) < FIRST_THAT_AGREES and _release(numpy_version) >= (2, 4)


def agree(interpreter: Any) -> None:
    """Have that module of Triton's make an index of an array's only number."""
    patch = interpreter._patch_lang_tensor

    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patched


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


if os.environ.get("TRITON_INTERPRET") == "1" and _release(triton.__version__) < FIRST_THAT_AGREES:
    from triton.runtime import interpreter

    agree(interpreter)
