"""What holds of the text of every jitted function: names that Triton 3.6 has, and few parameters."""

import ast
from pathlib import Path

import blockskip
import pytest

PACKAGE = Path(blockskip.__file__).parent
# Names of `triton.language` that Triton 3.6 exports, of those that kernels use; `to_tensor`, for one, is younger.
IN_TRITON_3_6 = """
    abs arange atomic_add atomic_xchg bfloat16 broadcast_to cast cdiv constexpr cumsum debug_barrier div_rn dot exp2
    expand_dims float16 float32 float8e4nv fma full inline_asm_elementwise int16 int32 int64 int8 join load log2
    make_tensor_descriptor max maximum minimum num_programs permute pointer_type program_id range reshape rsqrt
    static_range store sum trans uint32 where zeros
"""


def modules(folder="."):
    for path in sorted((PACKAGE / folder).rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text(encoding="utf-8"))


def test_kernels_use_what_triton_3_6_has():
    used = {
        node.attr: f"{name}, line {node.lineno}"
        for name, tree in modules()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "tl"
    }
    assert len(used) > 20
    assert not {attribute: where for attribute, where in used.items() if attribute not in IN_TRITON_3_6.split()}


def is_jitted(function):
    """Whether it has the decorator @triton.jit or @gluon.jit, with options or without."""
    decorators = (one.func if isinstance(one, ast.Call) else one for one in function.decorator_list)
    return any(isinstance(one, ast.Attribute) and one.attr == "jit" for one in decorators)


def parameters(function):
    given = function.args
    return len(given.posonlyargs) + len(given.args) + len(given.kwonlyargs)


@pytest.mark.parametrize("folder", ["attention", "launching", "linear", "pointwise"])
def test_jitted_functions_have_twelve_parameters_at_most(folder):
    jitted = {
        f"{name}: {node.name}": parameters(node)
        for name, tree in modules(folder)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and is_jitted(node)
    }
    assert len(jitted) >= 8  # both kinds of decorators are found
    assert not {name: count for name, count in jitted.items() if count > 12}
