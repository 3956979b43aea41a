"""A contender with Proton's records in its kernels: `python -m skiplab.replay.scoped`, a request in JSON on its input.

A process of its own: `blockskip.launching.scopes` are replaced before anything is compiled, and what is compiled here
is nobody else's.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

SCOPED = (
    "attention.prefill.kernel", "attention.prefill.hopper.attend", "attention.prefill.hopper.copy",
    "attention.decode.kernel", "attention.decode.hopper.kernel", "attention.decode.ragged", "linear.matvec",
    "linear.fused", "linear.hopper.multiply", "linear.hopper.copy",
)  # fmt: skip
"""The modules of blockskip whose kernels have scopes."""


def put_scopes_in() -> None:
    """Let our kernels' scopes be Proton's."""
    from triton.profiler import language

    for name in SCOPED:
        module = importlib.import_module(f"blockskip.{name}")
        for scope in ("enter_scope", "exit_scope"):
            setattr(module, scope, getattr(language, scope))


def recorded(request: dict[str, Any]) -> dict[str, str]:
    """Record a contender on a workload, and say in which file of the folder the timeline of which kernel is."""
    import torch

    from skiplab.contenders import with_config
    from skiplab.contenders.source import KernelSource, load_source
    from skiplab.operations import workload_of
    from skiplab.replay.proton import recorded_launches, timelines_of
    from skiplab.replay.whole import scope_every_program

    put_scopes_in()
    workload: Any = workload_of(request["axes"])
    if request["source"] is not None:
        load_source(KernelSource(request["name"], request["source"]))
        scope_every_program()
    entry = with_config(request["name"], request["config"] and tuple(request["config"]), workload.operation)
    arguments = entry.prepare(workload, workload.inputs("cuda", 0))
    call = entry.build(workload, arguments)
    with torch.no_grad():
        if request["source"] is not None:
            call(*arguments)  # what chooses among its configs by their times chooses before they are recorded
        timelines = timelines_of(recorded_launches(lambda: call(*arguments)))
    files = {kernel: f"{number}.json" for number, kernel in enumerate(timelines)}
    for kernel, file in files.items():
        timelines[kernel].perfetto(Path(request["folder"]) / file)
    return files


if __name__ == "__main__":
    print(json.dumps(recorded(json.load(sys.stdin))))
