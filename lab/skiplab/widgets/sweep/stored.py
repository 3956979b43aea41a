"""The run files that a sweep panel offers, each by a name of its own that begins with what tells it apart."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from skiplab.paths import is_shipped, slug
from skiplab.store import operation_in


def stored(folders: Iterable[Path], operation: str) -> list[tuple[str, str]]:
    """Name and path of each run file in the folders that has a point of the operation, or cannot be read."""
    paths = list(dict.fromkeys(path.resolve() for folder in folders for path in sorted(folder.glob("*.jsonl"))))
    mine = [path for path in paths if operation_in(path) in (operation, None) and not is_empty_run(path)]
    names = [run_name(path) for path in mine]
    again = Counter(names)
    return [
        (name if again[name] == 1 else f"{name}, {path.stem} in {path.parent}", str(path))
        for name, path in zip(names, mine, strict=True)
    ]


def run_name(path: Path) -> str:
    """`recorded 2026-11-27: decode-qwen (H100 80GB HBM3)`: when and of what first, for a narrow list cuts its end.

    A file that is not named so, or whose header cannot be read, goes by its own name.
    """
    source = "recorded" if is_shipped(path) else "measured"
    try:
        with path.open(encoding="utf-8") as file:
            device = str(json.loads(file.readline())["device"]["name"])
    except (ValueError, TypeError, LookupError, RecursionError):  # `read_run` will say what is wrong with the file
        return f"{source}: {path.stem}"
    day, rest = path.stem[:10], path.stem[11:].removeprefix(f"{slug(device)}-")
    dated = rest and day.replace("-", "").isdecimal()
    brief = device.removeprefix("NVIDIA ")
    return f"{source} {day}: {rest} ({brief})" if dated else f"{source}: {path.stem} ({brief})"


def is_empty_run(path: Path) -> bool:
    """Whether a run file holds a header and no point, as one does that was cancelled at once."""
    with path.open(encoding="utf-8", errors="replace") as file:
        first, second = file.readline(), file.readline()
    return '"record": "header"' in first and (not second or '"record": "end"' in second)
