"""Tensors name their dtype and device: nothing depends on torch's defaults, which are the user's to set."""

import ast
from pathlib import Path

import pytest
from torch.utils._device import _device_constructors

ROOT = Path(__file__).parents[1]
FACTORIES = {f.__name__ for f in _device_constructors()} | {"normal", "from_file"}
SOURCES = [path for folder in ("kernels", "lab") for path in sorted((ROOT / folder).rglob("*.py"))]


def offences(source: str) -> list[int]:
    """Lines that take one of torch's factories without naming both dtype and device, there or in a `partial`."""
    tree = ast.parse(source)
    names = {alias.asname or alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             and node.module == "torch" for alias in node.names if alias.name in FACTORIES}  # fmt: skip

    def is_factory(node: ast.AST) -> bool:
        of_torch = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "torch"
        return (of_torch and node.attr in FACTORIES) or (isinstance(node, ast.Name) and node.id in names)

    complete = {
        id(taken)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and {"dtype", "device"} <= {keyword.arg for keyword in node.keywords}
        for taken in (node.func, *node.args)
    }
    return [node.lineno for node in ast.walk(tree) if is_factory(node) and id(node) not in complete]


def test_the_rule_finds_what_it_is_for():
    assert offences("torch.zeros(3, dtype=torch.bool)\ntorch.arange(3, device='cpu')\nmap(torch.tensor, x)") == [
        1,
        2,
        3,
    ]
    assert offences("from torch import full\nfull((), 1)\n") == [2]
    assert not offences("torch.zeros(3, dtype=d, device=e)\npartial(torch.arange, dtype=d, device=e)\nx.zeros()\n")


@pytest.mark.parametrize("folder", ["kernels", "lab"])
def test_every_tensor_names_its_dtype_and_device(folder):
    found = {str(path.relative_to(ROOT)): offences(path.read_text()) for path in SOURCES if folder in path.parts}
    assert len(found) > 40
    assert not {path: lines for path, lines in found.items() if lines}


def test_other_defaults_change_no_bit_and_spoil_nothing_for_later(fresh_process):
    """A device of no memory as the default: a tensor that was made there cannot be computed with."""
    outputs = []
    for word in ("usual", "others"):
        run = fresh_process(str(ROOT / "tests" / "defaults.py"), word)
        assert run.returncode == 0, run.stderr[-2000:]
        outputs.append(run.stdout)
    assert outputs[0] == outputs[1] and int(outputs[0].split()[0]) > 250
