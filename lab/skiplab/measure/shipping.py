"""A point and the user's kernel as bytes, by value where a child process could not import it."""

from __future__ import annotations

import io
import linecache
import sys
from typing import Any

import cloudpickle


def dumps(value: Any) -> bytes:
    """Bytes that `pickle.loads` reads in another process; raises what pickling raises.

    Functions and classes of a notebook, of a script's main module, or from inside a function go by value.
    """
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return file.getvalue()


class _Pickler(cloudpickle.Pickler):
    """A cloudpickle Pickler that also takes Triton kernels, by source: they hold a lock and compiled code."""

    def reducer_override(self, obj: Any) -> Any:
        jit = sys.modules.get("triton.runtime.jit")
        if jit is None or not isinstance(obj, jit.JITFunction):
            return super().reducer_override(obj)
        if _is_importable(obj):
            return obj.__name__
        options = {
            "version": obj.version, "do_not_specialize": obj.do_not_specialize,
            "do_not_specialize_on_alignment": obj.do_not_specialize_on_alignment, "debug": obj.debug,
            "noinline": obj.noinline, "repr": obj._repr, "launch_metadata": obj.launch_metadata,
        }  # fmt: skip
        file = obj.fn.__code__.co_filename
        return _kernel, (type(obj), obj.fn, options, file, linecache.getlines(file))


def _is_importable(kernel: Any) -> bool:
    module = sys.modules.get(kernel.__module__)
    return kernel.__module__ != "__main__" and getattr(module, kernel.__name__, None) is kernel


def _kernel(kind: Any, function: Any, options: dict[str, Any], file: str, lines: list[str]) -> Any:
    """A Triton kernel from its function; the source of a notebook's cell is put where `inspect` finds it."""
    function.__code__ = function.__code__.replace(co_filename=file)  # cloudpickle may leave it out
    linecache.cache.setdefault(file, (sum(map(len, lines)), None, lines, file))
    return kind(function, **options)
