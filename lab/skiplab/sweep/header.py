"""A run's first line, and its file's name: what is measured, where, with which versions."""

from __future__ import annotations

import os
import platform
import re
import sys
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import torch

from skiplab.machine import Machine, describe
from skiplab.paths import runs_directory, slug
from skiplab.provenance import git_state, now, source_hash, triton_version
from skiplab.sweep.grid import AnySweep
from skiplab.sweep.kernels import kernels_of, with_origins


@dataclass(frozen=True)
class Site:
    """Where points are measured, as a run's header says it: a device, and the software beside it."""

    device: Mapping[str, Any]
    cpu: str
    python: str
    torch: str
    triton: str | None
    cuda: str | None
    threads: int
    source_hash: str


def site_of(device: str) -> Site:
    """The site of a device of this machine, in this process."""
    return Site(
        describe(device), describe("cpu")["name"], platform.python_version(), torch.__version__, triton_version(),
        torch.version.cuda, torch.get_num_threads(), source_hash(),
    )  # fmt: skip


def run_header(
    sweep: AnySweep, topic: str, machine: Machine, site: Site | None = None, folder: Path | None = None
) -> dict[str, Any]:
    """The header of a run file; without host names and user paths. site: by default the sweep's device here.

    folder: the run file's, as of `kernels_of`; by default that of the user's runs.
    """
    kernels = kernels_of(sweep, folder or runs_directory())
    site = site or site_of(sweep.device)
    day = datetime.now(UTC).date().isoformat()
    return {
        "run_id": f"{day}-{slug(site.device['name'])}-{slug(topic)}-{uuid.uuid4().hex[:6]}",
        "argv": [Path(sys.argv[0]).name, *map(_anonymous, sys.argv[1:])],
        "operation": sweep.operation, "command": with_origins(sweep.command(), kernels), "seed": sweep.seed,
        "parameters": asdict(cast(Any, sweep)),
        "git": git_state(),
        "source_hash": site.source_hash, "python": site.python, "torch": site.torch, "triton": site.triton,
        "cuda": site.cuda, "device": site.device, "threads": site.threads, "cpu": site.cpu,
        "roof": machine.roof(), "start": now(), **({"kernels": kernels} if kernels else {}),
    }  # fmt: skip


def _anonymous(word: str) -> str:
    """A word of the command line without paths and without a cluster's host."""
    word = re.sub(r"ray://.*", "ray:", word)
    return Path(word).name if os.sep in word else word


def default_path(sweep: AnySweep, topic: str, site: Site | None = None, folder: Path | None = None) -> Path:
    """`<date>-<device>-<topic>-<parameters>.jsonl` in `runs_directory()`: the same sweep has a name a day."""
    day = datetime.now(UTC).date().isoformat()
    device = slug((site.device if site else describe(sweep.device))["name"])
    return (folder or runs_directory()) / f"{day}-{device}-{slug(topic)}-{sweep.key}.jsonl"
