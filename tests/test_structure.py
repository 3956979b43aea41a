"""DESIGN's tree is the tree there is, no two classes share a name, and operations are named where they belong."""

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest
from skiplab.operations import OPERATIONS
from skiplab.sweep import SWEEPS

ROOT = Path(__file__).parents[1]
PACKAGES = {"kernels/blockskip": "blockskip", "lab/skiplab": "skiplab"}
SOURCES = sorted(path for root in PACKAGES for path in (ROOT / root).rglob("*.py"))
OF_EACH_OPERATION = {"Axes", "TuningClass"}
"""Classes that each operation has one of, in the file of its name."""
OF_EACH_HOPPER_KERNEL = {"Buffers", "Barriers", "HopperConstants"}
ABOUT_ONE_OPERATION = {
    "bench/", "claims/", "contenders/flash.py", "contenders/huggingface.py", "contenders/humming.py",
    "contenders/ladder.py", "contenders/varlen.py", "figures/ladder.py", "floors.py", "ladder.py", "results/ladder.py",
    "measure/truth.py", "occupancy.py", "results/cpu.py", "results/declared.py", "results/shapes.py",
    "results/topics.py", "results/ahead.py",
    "replay/", "results/pages.py", "results/reasons.py", "results/whole_model.py",
    "store/llama_bench.py", "store/noted.py", "store/published.py", "throughput.py",
    "widgets/mask/", "widgets/model/", "widgets/splits/", "workload/models.py",
}  # fmt: skip
"""Modules of the lab that have one or two operations for their subject, and nothing to do for another one."""
PUBLIC_NAMES = {"__init__.py", "figures/__init__.py", "sweep/__init__.py", "workload/__init__.py"}
OTHER_MEANINGS = {
    "cli/command.py", "figures/interactive.py", "figures/static.py", "model/rope.py", "widgets/sweep/form.py",
    "widgets/sweep/settings.py",
}  # fmt: skip
"""`linear` is a kind of axis there, or of rotary embeddings; `model` a field, or what a widget calls its state."""


def described() -> dict[str, set[str]]:
    """The modules that DESIGN's tree names, by their folder; a file an operation is one for each."""
    tree = re.search(r"## The tree\n+```\n(.*?)```", (ROOT / "DESIGN.md").read_text(), re.DOTALL)
    assert tree
    found, folders = defaultdict(set), [(-1, "")]
    for line in tree[1].splitlines():
        indent = len(line) - len(line.lstrip())
        folder = re.match(r"\s*([\w/]+/)(\s|$)", line)
        if folder or indent <= folders[-1][0]:
            while indent <= folders[-1][0]:
                folders.pop()
        if folder:
            folders.append((indent, folders[-1][1] + folder[1]))
        here = folders[-1][1]
        found[here] |= {name for name in re.findall(r"(?<![\w/.])(\w+\.py)\b", line) if not name.startswith("_")}
        if "a file an operation" in line:
            found[here] |= {f"{name}.py" for name in OPERATIONS}
    return dict(found)


def there() -> dict[str, set[str]]:
    found = defaultdict(set)
    for path in SOURCES:
        folder = f"{path.parent.relative_to(ROOT).as_posix()}/"
        found[folder] |= {path.name} - {"__init__.py", "__main__.py"}
    return dict(found)


@pytest.mark.parametrize("folder", sorted(there()))
def test_every_module_stands_in_design_and_is_where_it_says(folder):
    assert described().get(folder) == there()[folder]


def test_every_folder_in_design_is_there():
    named = [folder for folder in described() if folder]
    assert len(named) > len(there()) and all((ROOT / folder).is_dir() for folder in named)


def test_no_two_classes_share_a_name():
    places = defaultdict(list)
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef):
                places[node.name].append(path.relative_to(ROOT).as_posix())
    shared = {name: paths for name, paths in places.items() if len(paths) > 1}
    assert set(shared) == OF_EACH_OPERATION | OF_EACH_HOPPER_KERNEL
    assert all({Path(path).stem for path in shared[name]} <= set(OPERATIONS) for name in OF_EACH_OPERATION)
    assert all({Path(path).parent.name for path in shared[name]} == {"hopper"} for name in OF_EACH_HOPPER_KERNEL)


def test_a_module_of_the_lab_names_no_operation_but_its_own():
    """Those it reads of the table; so an operation more changes none of them."""
    naming = set()
    classes = {one.workload.__name__ for one in OPERATIONS.values()} | {one.__name__ for one in SWEEPS.values()}
    for path in SOURCES:
        if "skiplab" not in path.parts or path.stem in OPERATIONS or path.parent.name == "operations":
            continue
        nodes = list(ast.walk(ast.parse(path.read_text())))
        texts = {node.value for node in nodes if isinstance(node, ast.Constant)}
        imported = {
            alias.name for node in nodes if isinstance(node, ast.ImportFrom | ast.Import) for alias in node.names
        }
        if (texts | imported) & {*OPERATIONS, *classes}:
            naming.add(path.relative_to(ROOT / "lab/skiplab").as_posix())
    allowed = PUBLIC_NAMES | OTHER_MEANINGS
    assert {name for name in naming - allowed if not name.startswith(tuple(ABOUT_ONE_OPERATION))} == set()
    for one in ABOUT_ONE_OPERATION:  # nothing stands here that has become general
        assert any(name.startswith(one) for name in naming), f"{one} names none"
