"""Axes -> points -> measurements; a run that is interrupted goes on where it stopped."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import blockskip as bs
import torch

from skiplab.grid import DEFAULT_CONTENDERS, AnySweep, DecodeSweep, LinearSweep, usable
from skiplab.grid import Sweep as Sweep
from skiplab.machine import Machine, default_device, describe, this_machine
from skiplab.measure import Child, Measurement, Point, measure
from skiplab.measure.serving import bars_of_one_process
from skiplab.store import Run, RunWriter, runs_directory, slug
from skiplab.timing import THROTTLE_RETRIES, Cancelled


@lru_cache(maxsize=1)
def source_hash() -> str:
    """Twelve letters of a hash over the kernel package's sources: other kernels, other points."""
    digest = hashlib.sha256()
    root = Path(bs.__file__).parent
    for path in sorted([*root.rglob("*.py"), *root.rglob("*.json")]):
        digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def run_header(sweep: AnySweep, topic: str, machine: Machine) -> dict[str, Any]:
    """What a run file says of itself before its first row; no host name, no user's path."""
    identity = describe(sweep.device)
    day = datetime.now(UTC).date().isoformat()
    return {
        "run_id": f"{day}-{slug(identity['name'])}-{slug(topic)}-{uuid.uuid4().hex[:6]}",
        "argv": [Path(sys.argv[0]).name, *(_without_path(word) for word in sys.argv[1:])],
        "operation": sweep.operation, "command": sweep.command(), "parameters": asdict(sweep), "seed": sweep.seed,
        "git": git_state(),
        "source_hash": source_hash(), "python": platform.python_version(), "torch": torch.__version__,
        "triton": triton_version(), "cuda": torch.version.cuda, "device": identity,
        "threads": torch.get_num_threads(), "cpu": describe("cpu")["name"],
        "roof": machine.roof(), "start": now(),
    }  # fmt: skip


def _without_path(word: str) -> str:
    return Path(word).name if os.sep in word else word


def now() -> str:
    """The time, ISO 8601, UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def triton_version() -> str | None:
    """The installed Triton's version; None without one."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("triton")
    except PackageNotFoundError:
        return None


def git_state() -> dict[str, Any]:
    """Commit of this checkout and whether tracked files differ from it; {} where this file is in no checkout of ours.

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


def default_path(sweep: AnySweep, topic: str) -> Path:
    """`data/runs/<date>-<device>-<topic>-<parameters>.jsonl`: the same sweep on the same day goes on."""
    day = datetime.now(UTC).date().isoformat()
    device = slug(describe(sweep.device)["name"])
    return runs_directory() / f"{day}-{device}-{slug(topic)}-{sweep.key}.jsonl"


def run_sweep(
    sweep: AnySweep,
    path: Path | str | None = None,
    *,
    topic: str | None = None,
    on_start: Callable[[Run], None] | None = None,
    on_measurement: Callable[[Measurement], None] | None = None,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
    isolate: bool = True,
    again: Collection[str] = (),
    retries: int = THROTTLE_RETRIES,
) -> Run:
    """Measure every point that the run file does not hold yet, and return the run.

    ValueError, and the file stays as it is, where it is no run, one of other parameters, or being written by another.
    Cancelled, or interrupted by Ctrl-C, it keeps what was measured under an end that says so; the same call goes on.

    path: the JSONL file, continued if it exists; None is `default_path` with the topic (default: the operation).
    on_start: called with what the file holds already, once it is repaired, before the first point is measured.
    on_measurement: called after each row is on the disk.
    cancelled: asked several times a second; what has been measured is kept.
    isolate: measure in a child process, which a crash or a timeout ends; without it everything happens in this one.
    again: statuses and flags (`crashed`, `busy`) whose points are measured once more; a point's later row counts.
    retries: how often the samples of a throttled GPU are taken again, after a pause.
    """
    from tqdm.auto import tqdm

    bars_of_one_process()
    topic = topic or sweep.operation
    path = Path(path) if path is not None else default_path(sweep, topic)
    if not usable(sweep.device):
        raise ValueError(f"device: torch sees no {sweep.device} here; cpu is always there")
    points = sweep.points()  # before there is a file: a sweep that cannot be leaves none
    machine = this_machine(sweep.device, sweep.dtype)
    with RunWriter(path, run_header(sweep, topic, machine)) as writer:
        if on_start is not None:
            on_start(writer.run)
        settled = writer.settled(again)
        points = [point for point in points if row_key(point) not in settled]
        bar = tqdm(points, unit="point", disable=not progress, desc="measured")
        with ending(writer), Child() if isolate and points else nullcontext() as child, bar:
            take = child.measure if child is not None else measure
            for point in bar:
                bar.set_postfix_str(f"{point.contender}, {point.workload.size}", refresh=True)
                if cancelled():
                    raise Cancelled
                limits = {"machine": machine, "retries": retries, "cancelled": cancelled}
                taken = take(point, sweep.seed, sweep.budget_s, **limits)
                writer.append({**taken.row(), "key": row_key(point), "source_hash": source_hash()})
                if on_measurement is not None:
                    on_measurement(taken)
        return replace(writer.run, source="measured")


@contextmanager
def ending(writer: RunWriter) -> Iterator[None]:
    """Notes the run's end when the block is left, as interrupted by Cancelled, which ends here, or by Ctrl-C."""
    try:
        yield
    except Cancelled:
        writer.finish(now(), interrupted=True)
    except KeyboardInterrupt:
        writer.finish(now(), interrupted=True)
        raise
    else:
        writer.finish(now())


def row_key(point: Point) -> str:
    """What resuming looks for: the point, and the kernels' sources (device and versions are the header's)."""
    return f"{point.key} | {source_hash()}"


def sweep(
    contenders: Sequence[str] = DEFAULT_CONTENDERS,
    *,
    q_len: Iterable[int] = (512, 1024, 2048, 4096),
    window: Iterable[int | None] | None = None,
    mask: Iterable[bs.Mask | str] | bs.Mask | str | None = None,
    device: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    **shape: Any,
) -> Run:
    """Measure contenders over prompt lengths and windows, or masks; `run.plot()` draws it, `run.frame()` is the table.

    window: None for those of `Sweep`, where no mask is given. mask: each by its text, or one that has a text alone (a
    mask made of tensors or of a function has none: ValueError). shape: batch, q_heads, kv_heads, head_dim, dtype,
    buffer, seed, budget_s, as in `Sweep`.
    """
    masks = [mask] if isinstance(mask, str | bs.Mask) else mask
    texts = None if masks is None else tuple(map(mask_text, masks))
    windows = Sweep.window if window is None and texts is None else window
    wanted = Sweep(
        tuple(contenders), tuple(q_len), None if windows is None else tuple(windows), mask=texts,
        device=device or default_device(), **shape,
    )  # fmt: skip
    return run_sweep(wanted, path, isolate=isolate, progress=progress)


def mask_text(mask: bs.Mask | str) -> str:
    """The text of a mask that says all of it; ValueError for text that is none, and for masks that text cannot hold."""
    if not isinstance(mask, str | bs.Mask):
        raise ValueError(f"mask: got {mask!r}; allowed are blockskip's masks, and their texts")
    try:
        spec = bs.Mask.from_spec(mask).spec() if isinstance(mask, str) else mask.spec()
    except ValueError as error:
        raise ValueError(f"mask: got {mask!r}: {error}") from None
    if not isinstance(spec, str):
        raise ValueError(f"mask: got {spec[0]!r}, which holds tensors; a run file can only hold masks that are text")
    return spec


def sweep_decode(
    contenders: Sequence[str] = DecodeSweep.contenders,
    *,
    kv_len: Iterable[int] = DecodeSweep.kv_len,
    window: Iterable[int | None] = DecodeSweep.window,
    device: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    **shape: Any,
) -> Run:
    """As `sweep`, of decode steps over numbers of keys and windows. shape: the other fields of `DecodeSweep`."""
    wanted = DecodeSweep(tuple(contenders), tuple(kv_len), tuple(window), device=device or default_device(), **shape)
    return run_sweep(wanted, path, isolate=isolate, progress=progress)


def sweep_linear(
    contenders: Sequence[str] = LinearSweep.contenders,
    *,
    shape: Iterable[tuple[int, int]] = LinearSweep.shape,
    rows: Iterable[int] = LinearSweep.rows,
    device: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    **fields: Any,
) -> Run:
    """As `sweep`, of quantised linear layers over shapes (out_features, in_features) and rows of activations.

    fields: the other fields of `LinearSweep`.
    """
    layers = tuple((int(n), int(k)) for n, k in shape)
    wanted = LinearSweep(tuple(contenders), layers, tuple(rows), device=device or default_device(), **fields)
    return run_sweep(wanted, path, isolate=isolate, progress=progress)
