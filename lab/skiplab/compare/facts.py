"""What differs between runs beside their times: device, versions, git state, kernels; and the axes of their points."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from skiplab.operations import OPERATIONS
from skiplab.store import Run

IDENTITY = ("torch", "triton", "cuda", "python", "threads", "cpu")


def differences(*runs: Run) -> dict[str, tuple[Any, ...]]:
    """What differs in device, software, git state and kernel sources: name -> its value in each run."""
    facts = [_facts(run) for run in runs]
    names = dict.fromkeys(name for one in facts for name in one)
    found = {name: tuple(one.get(name) for one in facts) for name in names}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def _facts(run: Run) -> dict[str, Any]:
    """The facts that `differences` compares. Kernel hashes are those of the rows: a continued run may have several."""
    header = run.header
    device = {f"device {name}": value for name, value in header["device"].items()}
    git = {f"git {name}": value for name, value in (header.get("git") or {}).items()}
    kernels = sorted({row["source_hash"] for row in run.rows if "source_hash" in row})
    sources = {"source_hash": ", ".join(kernels) or header.get("source_hash")}
    users: dict[str, set[str]] = {}
    for row in run.rows:
        if "kernel_hash" in row:
            users.setdefault(f"kernel {row['contender']}", set()).add(row["kernel_hash"])
    own = {name: ", ".join(sorted(hashes)) for name, hashes in users.items()}
    return {**device, **{name: header.get(name) for name in IDENTITY}, **git, **sources, **own}


def differing_axes(operation: str, axes: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """The operation's varying axes, and others in which these points differ, except axes that follow from them."""
    axes, known = list(axes), OPERATIONS[operation].varying
    names = dict.fromkeys(name for one in axes for name in one if name not in known)
    if OPERATIONS[operation].without_window is not None or all(_names_its_mask(one) for one in axes):
        names.pop("mask", None)
    if all(one.get("kv_len") == one.get("q_len") for one in axes):
        names.pop("kv_len", None)
    return (*known, *(name for name in names if len({str(one.get(name)) for one in axes}) > 1))


def _names_its_mask(axes: Mapping[str, Any]) -> bool:
    return axes.get("window") is not None or axes.get("mask") == "causal()"
