"""A contender with Proton's records in its kernels: `python -m skiplab.replay.scoped`, a request in JSON on its input.

A process of its own: `blockskip.launching.scopes` are replaced before anything is compiled, and what is compiled here
is nobody else's.
"""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

SCOPED = (
    "attention.prefill.kernel", "attention.prefill.hopper.attend", "attention.prefill.hopper.copy",
    "attention.decode.kernel", "linear.matvec", "linear.fused", "linear.hopper.multiply", "linear.hopper.copy",
)  # fmt: skip
"""The modules of blockskip whose kernels have scopes."""


def put_scopes_in() -> None:
    """Let our kernels' scopes be Proton's."""
    from triton.profiler import language

    for name in SCOPED:
        module = importlib.import_module(f"blockskip.{name}")
        for scope in ("enter_scope", "exit_scope"):
            setattr(module, scope, getattr(language, scope))


def recorded_trace(call: Callable[[], Any], folder: Path) -> Path:
    """The Chrome trace that Proton writes of a call, in the folder."""
    import torch
    import triton.profiler as proton
    from triton.profiler import language
    from triton.profiler.mode import Default

    language.enable_semantic("triton")
    mode = Default(granularity="warp", optimizations="clock32,time_shift")  # type: ignore[arg-type]
    session = proton.start(str(folder / "timeline"), data="trace", backend="instrumentation", mode=mode)
    try:
        call()
        torch.cuda.synchronize()
    finally:
        proton.finalize(session)
        language.disable_semantic("triton")
    return next(folder.glob("timeline*.chrome_trace"))


def traced(request: dict[str, Any]) -> dict[str, str]:
    """Run a contender on a workload, and say where the trace is."""
    import torch

    from skiplab.contenders import with_config
    from skiplab.contenders.source import KernelSource, load_source
    from skiplab.operations import workload_of
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
        trace = recorded_trace(lambda: call(*arguments), Path(request["folder"]))
    return {"trace": str(trace)}


if __name__ == "__main__":
    print(json.dumps(traced(json.load(sys.stdin))))
