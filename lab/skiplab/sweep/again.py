"""A run repeated: the sweep that its header describes, with the users' kernels that it was made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skiplab.contenders import contenders
from skiplab.contenders.source import source_of
from skiplab.operations import operation_of
from skiplab.store import Run, read_run
from skiplab.sweep.grid import AnySweep
from skiplab.sweep.modules import SWEEPS
from skiplab.sweep.running import run_sweep


def sweep_of(operation: str, parameters: dict[str, Any]) -> AnySweep:
    """The sweep that a run's header describes; ValueError for an unknown operation."""
    return SWEEPS[operation_of(operation).name].from_parameters(parameters)


def repeated(run: Run, device: str | None = None) -> AnySweep:
    """The sweep described by a run's header, on this device if one is named; ValueError names the file.

    It says which file a kernel is from that is not known here.
    """
    name = run.path.name if run.path else run.run_id
    command = run.header.get("command", "")
    if command.startswith("skiplab tune"):
        raise ValueError(f"{name}: is a tuning run; its own command repeats it: {command}")
    for kernel, facts in _kernels(run).items():
        if kernel not in contenders(run.operation):
            raise ValueError(f"{name}: needs the kernel {kernel!r}, {_needed(facts)}")
    try:
        wanted = sweep_of(
            run.operation, {**(run.header.get("parameters") or {}), **({"device": device} if device else {})}
        )
        wanted.workloads()
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"{name}, line 1: the header holds no sweep that can be run: {error}") from error
    return wanted


def other_kernels(run: Run) -> list[str]:
    """Of each user's kernel whose source is not the run's, a line that says so."""
    return [
        f"{kernel}: its source is {now}, and {facts['hash']} in the run"
        for kernel, facts in _kernels(run).items()
        if "hash" in facts and (now := _hash(kernel, run.operation)) != facts["hash"]
    ]


def rerun(run: Run | Path | str, *, device: str | None = None, path: Path | str | None = None, **how: Any) -> Run:
    """Repeat a run, or the run in a file, on this machine, and return the new one; `compare.compare` says what differs.

    device: the run's own kind by default. path, how: as `run_sweep`. ValueError says which file a kernel is from that
    is not known here.
    """
    old = run if isinstance(run, Run) else read_run(run)
    wanted = repeated(old, device)
    return run_sweep(wanted, path, topic="rerun", fresh=True, **how)


def _kernels(run: Run) -> Mapping[str, Mapping[str, str]]:
    """What the header says of users' kernels, by name, as `running.kernels_of` wrote it."""
    return run.header.get("kernels") or {}


def _needed(facts: Mapping[str, str]) -> str:
    if "from" not in facts:
        return "which was made inside a function, so that no file holds it: register it, then repeat the run"
    return f"source {facts.get('hash')}: add --from {facts['from']}, or run the cell that registers it"


def _hash(kernel: str, operation: str) -> str:
    source = source_of(contenders(operation)[kernel])
    return "not known" if source is None else source.hash
