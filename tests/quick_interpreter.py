"""Triton's interpreter without most of its overhead: imported with TRITON_INTERPRET set, before there are kernels."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from triton.language import core
from triton.runtime import interpreter


def patch_the_language_once() -> None:
    """A launch patches Triton's language once for each module whose functions it calls, not at each of their calls.

    Triton does the latter, which looks through hundreds of names a call: half the time of a small problem.
    """
    patch, launch = interpreter._patch_lang, interpreter.GridExecutor.__call__
    patched = set()

    def patch_lang(fn):
        if (module := id(fn.__globals__)) in patched:
            return interpreter._LangPatchScope()
        patched.add(module)
        return patch(fn)

    def call(self, *args, **kwargs):
        patched.clear()
        try:
            return launch(self, *args, **kwargs)
        finally:
            patched.clear()

    interpreter._patch_lang, interpreter.GridExecutor.__call__ = patch_lang, call


def leave_out_what_is_dropped() -> None:
    """Sums of integers are not computed again in 64 bits to see an overflow: without `debug`, nothing looks at that."""
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    builder.options = replace(builder.options, sanitize_overflow=False)


def keep_types() -> None:
    """What follows from a type or a shape alone is made once: making it for each value takes a fifth of the time."""
    block_init, np_dtype = core.block_type.__init__, interpreter._get_np_dtype
    blocks: dict[Any, dict[str, Any]] = {}
    shapes: dict[Any, tuple[Any, Any]] = {}

    def init_block(self, element_ty, shape) -> None:
        key = element_ty.name, *[int(size) for size in shape]
        if key not in blocks:
            block_init(self, element_ty, shape)
            blocks[key] = vars(self).copy()
        vars(self).update(blocks[key], element_ty=element_ty)

    def init_tensor(self, handle, type) -> None:
        sizes = (*type.shape,) if type.is_block() else ()
        if sizes not in shapes:
            shaped = core.tensor.__new__(core.tensor)
            tensor_init(shaped, handle, type)
            shapes[sizes] = shaped.numel, shaped.shape
        self.handle, self.type, self.dtype = handle, type, type.scalar
        self.numel, self.shape = shapes[sizes]

    tensor_init = core.tensor.__init__
    core.block_type.__init__, core.tensor.__init__ = init_block, init_tensor
    interpreter._get_np_dtype = kept(np_dtype)


def kept(dtype_of: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`dtype_of` of each kind of element, looked up by its name."""
    found: dict[str, Any] = {}

    def look_up(type) -> Any:
        name = type.scalar.name
        if name not in found:
            found[name] = dtype_of(type)
        return found[name]

    return look_up


patch_the_language_once()
leave_out_what_is_dropped()
keep_types()
