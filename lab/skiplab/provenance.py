"""The provenance of numbers: a hash of the kernels' sources, the checkout's git state, versions, the time."""

from __future__ import annotations

import hashlib
import os
import subprocess
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import blockskip as bs


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Twelve hexadecimal digits of a hash of the kernel package's sources: points of other kernels are other points."""
    digest = hashlib.sha256()
    root = Path(bs.__file__).parent
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.json")]):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def triton_version() -> str | None:
    """The installed Triton's version; None without one."""
    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def git_state() -> dict[str, Any]:
    """The commit of this checkout, and whether tracked files differ from it; {} outside of a checkout of this project.

    An installed package may lie inside another project's repository, whose commit says nothing of ours.
    """
    here = Path(__file__).resolve()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", here.name)  # fails where the file is not tracked, in site-packages say
        if git("rev-parse", "--show-prefix") != "lab/skiplab/":
            return {}
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.CalledProcessError):
        return {}
