"""What holds of the text of every jitted function: names that Triton 3.6 has, and few parameters."""

import ast
from pathlib import Path

import blockskip

PACKAGE = Path(blockskip.__file__).parent
# Names of `triton.language` that Triton 3.6 exports, of those that kernels use; `to_tensor`, for one, is younger.
IN_TRITON_3_6 = """
    arange atomic_add atomic_xchg broadcast_to cast cdiv constexpr debug_barrier div_rn dot exp2 expand_dims float32 fma
    full inline_asm_elementwise int32 int64 join load log2 make_tensor_descriptor max maximum minimum num_programs
    permute program_id range reshape static_range store sum trans uint32 where zeros
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
