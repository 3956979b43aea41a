"""Writes `configs/<device>.json`, which the kernels read: one operation's winners, keeping those of others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import NamedTemporaryFile

from blockskip.tuned import choose
from blockskip.tuned.files import CONFIGS, SCHEMA, Section, Tuned, read_tuned, user_folder

from skiplab.paths import file_name, inside, installed
from skiplab.store import Run
from skiplab.tuning.winners import entries, gpu_of


def configs_folder() -> Path:
    """Where winners go: the kernel package's folder in a checkout, the user's (`blockskip.tuned.files`) elsewhere."""
    return user_folder() / "configs" if installed() else CONFIGS


def write_configs(runs: Sequence[Run], folder: Path | None = None) -> Path:
    """Write the winners of these runs, all of one operation, device and versions, and return the file's path.

    They replace that operation's section; other operations stay. The file is complete at any time.
    ValueError for runs that do not belong together, and where no class has a winner.
    """
    _check_identity(runs)
    winners, header = entries(runs), runs[0].header
    if not winners:
        raise ValueError(
            f"{runs[0].run_id}: no configuration is right and timed on all workloads of its class; is it a tuning run?"
        )
    gpu = gpu_of(runs[0])
    folder = folder or configs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = inside(folder, file_name(gpu.name.removeprefix("NVIDIA "), ".json"))
    held = read_tuned(path) if path.exists() else Tuned(gpu.name, gpu.capability, {})
    names = ", ".join(run.path.name if run.path else run.run_id for run in runs)
    section = Section(header["torch"], header["triton"], names, winners)
    _replace(path, text_of(replace(held, sections={**held.sections, runs[0].operation: section})))
    choose.forget()
    return path


def text_of(tuned: Tuned) -> str:
    """The file's text, a line an entry."""
    capability = ".".join(map(str, tuned.capability))
    head = json.dumps({"schema": SCHEMA, "device": tuned.device, "capability": capability}, indent=2)
    sections = ",\n".join(_section_text(name, tuned.sections[name]) for name in sorted(tuned.sections))
    return f'{head[:-2]},\n  "operations": {{\n{sections}\n  }}\n}}\n'


def _section_text(operation: str, section: Section) -> str:
    texts = {"torch": section.torch, "triton": section.triton, "runs": section.runs}
    head = "".join(f"      {json.dumps(name)}: {json.dumps(text)},\n" for name, text in texts.items())
    lines = ",\n".join("        " + json.dumps(one.fields(), allow_nan=False) for one in section.entries)
    return f'    {json.dumps(operation)}: {{\n{head}      "entries": [\n{lines}\n      ]\n    }}'


def _replace(path: Path, text: str) -> None:
    """Replace the file atomically, once the new one can be read back."""
    with NamedTemporaryFile("w", dir=path.parent, suffix=".part", delete=False, encoding="utf-8") as file:
        part = Path(file.name)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    try:
        read_tuned(part)
        part.chmod(0o644)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _check_identity(runs: Iterable[Run]) -> None:
    first, *others = runs
    for run in (first, *others):
        if missing := [name for name in ("torch", "triton") if not run.header.get(name)]:
            raise ValueError(f"{run.run_id}: its header does not say {missing[0]}, which the configurations name")
    for name in ("device", "torch", "triton", "operation"):
        for run in others:
            now, then = (_said(one, name) for one in (run, first))
            if now != then:
                raise ValueError(f"{run.run_id}: {name} is {now}, and {then} in {first.run_id}; tune them apart")


def _said(run: Run, name: str) -> str | None:
    return {"device": run.device, "operation": run.operation}.get(name) or run.header.get(name)
