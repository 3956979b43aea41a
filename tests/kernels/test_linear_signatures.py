"""Jitted functions of `linear` take at most a dozen parameters; what belongs together travels together."""

import ast
from pathlib import Path

import blockskip
import pytest

MOST = 12
PACKAGE = Path(blockskip.__file__).parent / "linear"


def parameters(source):
    """Of each jitted function: its name and how many parameters it has, constants included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and any(".jit" in ast.unparse(one) for one in node.decorator_list):
            arguments = node.args
            yield node.name, len(arguments.posonlyargs + arguments.args + arguments.kwonlyargs)


@pytest.mark.parametrize("name", ["rounding", "matvec", "fused", "dequantize"])
def test_at_most_a_dozen_parameters(name):
    found = dict(parameters((PACKAGE / f"{name}.py").read_text(encoding="utf-8")))
    assert found and max(found.values()) <= MOST, found


def test_every_module_of_kernels_is_looked_at():
    """Hopper's is a package of its own, whose kernels are counted with it."""
    with_kernels = {path.stem for path in PACKAGE.glob("*.py") if ".jit" in path.read_text(encoding="utf-8")}
    assert with_kernels == {"rounding", "matvec", "fused", "dequantize"}


def test_a_long_signature_is_seen():
    names = ", ".join(f"a{i}" for i in range(MOST + 1))
    source = f"@triton.jit(do_not_specialize=['a1'])\ndef kernel({names}): pass\n@gluon.jit\ndef other(a, *, b): pass"
    assert dict(parameters(source)) == {"kernel": MOST + 1, "other": 2}
