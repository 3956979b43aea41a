"""Records a launch in Triton's interpreter: `python -m skiplab.replay.recorder`, with a request in JSON on its input.

It watches from outside what any kernel does: each load's addresses tell which rows of which tensor are read; a trace
of the kernel's function shows its variables as they change. Our kernel also says which tile it applies the mask to.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, cast

import blockskip as bs
import numpy as np
import torch

from skiplab.contenders import contender
from skiplab.contenders.source import KernelSource, load_source
from skiplab.replay.steps import MASKED, UNMASKED
from skiplab.workload import Workload

HEAD_DIM = 16
"""Small: what a program visits does not depend on it."""
STATES = (("state", None), ("row_max", "row_sum"), ("m_i", "l_i"), ("m", "l"))
"""Names under which kernels keep a row's maximum and sum; `state` is ours: (products, maximum, sum)."""


class Recorder:
    """What the interpreter does, as steps of programs. tensors: the inputs by name, each [1, 1, rows, HEAD_DIM]."""

    def __init__(self, tensors: dict[str, torch.Tensor], watch: tuple[str, str] | None):
        self.programs: list[dict[str, Any]] = []
        self._spans = {
            name: (t.data_ptr(), t.numel() * t.element_size(), t.stride(2) * t.element_size())
            for name, t in tensors.items()
        }
        self._names = (*((watch,) if watch else ()), *STATES)
        self._seen: tuple[int, ...] = ()

    def loaded(self, index: tuple[int, int, int], addresses: np.ndarray, mask: np.ndarray) -> None:
        """A load of these addresses, where the mask is true."""
        live = np.asarray(addresses)[np.broadcast_to(np.asarray(mask, bool), np.shape(addresses))].astype(np.int64)
        for name, (begin, size, row) in self._spans.items():
            if live.size and begin <= live.min() < begin + size:
                self._add(
                    index, name, int((live.min() - begin) // row), int((live.max() - begin) // row), int(live.size)
                )

    def _add(self, index: tuple[int, int, int], name: str, first: int, last: int, numbers: int) -> None:
        program = self._program(index)
        if name == "q":
            known = program["first"] is not None
            program["first"] = min(program["first"], first) if known else first
            program["last"] = max(program["last"], last) if known else last
        elif name == "k":
            program["steps"].append({"first": first, "last": last, "kind": "", "loads": [], "max": [], "sum": []})
        if program["steps"]:
            program["steps"][-1]["loads"].append((name, first, last, numbers))

    def _program(self, index: tuple[int, int, int]) -> dict[str, Any]:
        if not self.programs or self.programs[-1]["index"] != index:
            self.programs.append({"index": index, "first": None, "last": None, "steps": []})
        return self.programs[-1]

    def marked(self, kind: int) -> None:
        """The tile before was masked (1) or not (2)."""
        if self.programs and self.programs[-1]["steps"]:
            self.programs[-1]["steps"][-1]["kind"] = UNMASKED if kind == 2 else MASKED

    def watched(self, local: dict[str, Any]) -> None:
        """The kernel's variables, after a line of it."""
        if not (self.programs and self.programs[-1]["steps"]):
            return
        found = self._state(local)
        if found is None or (seen := tuple(map(id, found))) == self._seen:
            return
        self._seen, step = seen, self.programs[-1]["steps"][-1]
        step["max"], step["sum"] = (_plain(one) for one in found)

    def _state(self, local: dict[str, Any]) -> tuple[Any, Any] | None:
        for first, second in self._names:
            if second is None and len(getattr(local.get(first), "values", local.get(first)) or ()) == 3:
                return tuple(getattr(local[first], "values", local[first]))[1:]
            if second is not None and first in local and second in local:
                return local[first], local[second]
        return None


def _plain(value: Any) -> list[float | None]:
    """The numbers of an interpreted tensor; None for what JSON does not have."""
    numbers = np.asarray(value.handle.data, float).reshape(-1)
    return [float(one) if np.isfinite(one) else None for one in numbers]


def recorded(request: dict[str, Any]) -> dict[str, Any]:
    """The record of one launch, as `steps.replay_of` reads it."""
    mask = bs.Mask.from_spec(request["mask"])
    workload = Workload(request["q_len"], request["kv_len"], mask, 1, 1, 1, HEAD_DIM, "float32")
    q, k, v = workload.inputs("cpu", 0)
    recorder = Recorder({"q": q, "k": k, "v": v}, request["watch"] and tuple(request["watch"]))
    call, label = _call(request, workload, (q, k, v))
    _observe(recorder)
    sys.settrace(_tracer(recorder))
    try:
        call()
    finally:
        sys.settrace(None)
    launched = [one for one in recorder.programs if one["first"] is not None]
    return {
        "programs": launched,
        "label": label,
        "source": "recorded in Triton's interpreter: what it does, not how fast",
    }


def _call(request: dict[str, Any], workload: Workload, inputs: Sequence[torch.Tensor]) -> tuple[Any, str]:
    """What is launched, and its name."""
    if request["source"] is None:
        named: Any = {"config": (request["block_m"], request["block_n"], 4, 2), "skip": request["skip"]}
        q, k, v = inputs
        return lambda: bs.attention(q, k, v, workload.mask, impl="triton", **named), "blockskip"
    load_source(KernelSource(request["name"], request["source"]))
    entry = contender(request["name"])
    return lambda: entry.build(workload, inputs)(*inputs), entry.label


def _observe(recorder: Recorder) -> None:
    """Tell the recorder of each load, and of each tile that our kernel marks."""
    from blockskip.attention.prefill import kernel
    from triton.runtime import interpreter

    builder: Any = interpreter.interpreter_builder
    load, mark = builder.create_masked_load, kernel.mark

    def loads(pointers: Any, mask: Any, *rest: Any) -> Any:
        recorder.loaded(builder.grid_idx, pointers.data, mask.data)
        return load(pointers, mask, *rest)

    def marks(visits: Any, batch: Any, head: Any, row: Any, tile: Any, kind: Any) -> Any:
        recorder.marked(int(np.asarray(getattr(getattr(kind, "handle", kind), "data", kind)).reshape(-1)[0]))
        return mark(visits, batch, head, row, tile, kind)

    builder.create_masked_load = loads
    kernel.mark = cast(Any, marks)


def _tracer(recorder: Recorder) -> Any:
    """A trace of the functions that the interpreter launches, not of what they call."""

    def inside(frame: Any, event: str, value: Any) -> Any:
        recorder.watched(frame.f_locals)
        return inside

    def called(frame: Any, event: str, value: Any) -> Any:
        caller = frame.f_back
        if caller is None or caller.f_code.co_name != "__call__":
            return None
        launch = getattr(caller.f_locals.get("self"), "fn", None)
        return inside if getattr(launch, "__code__", None) is frame.f_code else None

    return called


if __name__ == "__main__":
    print(json.dumps(recorded(json.load(sys.stdin))))
