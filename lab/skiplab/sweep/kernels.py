"""What a run says of users' kernels: the hash of each one's source, and the file that a command needs."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skiplab.contenders import contender
from skiplab.contenders.source import source_of, sources_of
from skiplab.measure import Point


def kernels_of(sweep: Any, folder: Path) -> dict[str, dict[str, str]]:
    """The users' kernels of a sweep: `hash` and `from` of each, by name; {} for one that is made inside a function.

    Those of a notebook are written to `folder`, so that there is a file to name.
    """
    entries = [contender(name, sweep.operation) for name in getattr(sweep, "contenders", ())]
    sources = sources_of(entries)
    for source in sources.values():
        source.keep(folder)
    users = (entry.name for entry in entries if not entry.is_own)
    return {
        name: {"hash": sources[name].hash, "from": sources[name].origin(folder)} if name in sources else {}
        for name in users
    }


def with_origins(command: str, kernels: Mapping[str, Mapping[str, str]]) -> str:
    """The command with `--from` for the files of its kernels."""
    files = dict.fromkeys(one["from"] for one in kernels.values() if one)
    return " ".join([command, *(f"--from {shlex.quote(file)}" for file in files)])


def kernel_hash(point: Point) -> str:
    """The hash of a user's kernel; '' for the lab's own, and for one without a source."""
    source = source_of(contender(point.contender, point.workload.operation))
    return "" if source is None else source.hash
