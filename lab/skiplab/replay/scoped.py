"""Our kernels with Proton's records in them: `python -m skiplab.replay.scoped`, with a request in JSON on its input.

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

KERNELS = ("kernel", "hopper.attend", "hopper.copy")
"""The modules of the prefill kernels that have scopes."""


def put_scopes_in() -> None:
    """Let our kernels' scopes be Proton's."""
    from triton.profiler import language

    for name in KERNELS:
        module = importlib.import_module(f"blockskip.attention.prefill.{name}")
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
    """Run our kernel on a workload, and say where the trace is."""
    import blockskip as bs
    import torch

    from skiplab.operations import workload_of

    workload: Any = workload_of(request["axes"])
    q, k, v = workload.inputs("cuda", 0)
    config = request["config"] and tuple(request["config"])
    put_scopes_in()
    with torch.no_grad():
        trace = recorded_trace(
            lambda: bs.attention(q, k, v, workload.mask, impl="triton", config=config), Path(request["folder"])
        )
    return {"trace": str(trace)}


if __name__ == "__main__":
    print(json.dumps(traced(json.load(sys.stdin))))
