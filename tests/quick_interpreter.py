"""Triton's interpreter without most of its overhead: imported with TRITON_INTERPRET set, before there are kernels."""

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


patch_the_language_once()
