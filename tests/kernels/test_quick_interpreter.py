"""The interpreter's short cut: the language is patched once a launch, and is itself again afterwards."""

import blockskip as bs
import pytest
import torch

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="nothing is interpreted where there is a GPU")


def test_a_launch_patches_the_language_once_for_each_module_and_puts_it_back(monkeypatch):
    import triton.language as tl
    from triton.runtime import interpreter

    patched, patch = [], interpreter._patch_builtin
    monkeypatch.setattr(interpreter, "_patch_builtin", lambda of, *more: patched.append(of) or patch(of, *more))
    q, k, v = (torch.randn(1, 2, 70, 16) for _ in range(3))
    outs = [bs.attention(q, k, v, bs.causal(), impl="triton", config=(16, 16, 1, 1)) for _ in range(2)]
    assert torch.equal(*outs)
    modules = 6  # of which the kernel calls functions: those of the package, and Triton's own
    assert 2 <= patched.count(tl) <= 2 * modules
    assert tl.core.is_builtin(tl.load)
