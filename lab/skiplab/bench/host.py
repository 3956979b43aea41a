"""What a call costs the host: microseconds and Python function calls, of a known kind and of a new one.

    skiplab bench host [--calls 10000]

With CUDA the kernels are launched: the time until the call returns, a few calls at a time, so that the launch queue
never fills. Without, a launch of a compiled kernel does nothing, and the thread's own time is taken: the library's
share, without Triton's and the driver's. Python function calls are counted, not timed: a busy machine does not change
them.
"""

from __future__ import annotations

import cProfile
import importlib
import itertools
import json
import os
import pstats
import statistics
import time
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import blockskip as bs
import torch
import torch.nn.functional as F
import triton
from blockskip.gpu import HOPPER
from blockskip.launching.repeated import REPEATED

from skiplab.bench.record import machine, options

AT_ONCE = 50
"""Calls between two waits for the GPU; its queue holds some thousand launches."""


class NoLaunch:
    """Stands in for a compiled kernel: a launcher, as Triton has, above a function that does nothing."""

    metadata, function, packed_metadata = SimpleNamespace(global_scratch_size=0), None, None

    def __init__(self, arguments: tuple) -> None:
        self.run = Launcher()
        self.described = [i for i, one in enumerate(arguments) if type(one).__name__ == "TensorDescriptor"]

    def __getitem__(self, grid):
        return self.run


class Launcher:
    """As Triton's of compiled kernels."""

    def __init__(self) -> None:
        self.global_scratch_size = self.profile_scratch_size = 0
        self.launch = lambda *given: None

    def __call__(self, x, y, z, stream, function, *rest) -> None:
        self.launch(x, y, z, stream, function, *rest)


def encoding(compiled: NoLaunch) -> tuple[NoLaunch, dict[int, Callable]]:
    """In the place of `blockskip.launching.dispatch.encoding`."""
    return compiled, dict.fromkeys(compiled.described, lambda given: [None, *given.shape, *given.strides])


def launch_nothing() -> None:
    """Replace compiled kernels by stand-ins from here on; they accept CPU tensors."""
    import blockskip.attention.decode.launch
    import blockskip.attention.prefill.launch
    import blockskip.linear.launch  # noqa: F401  # imported before the variable is set: not for the interpreter

    # weights in tiles take Hopper's kernel, and torch computes nothing either
    setattr(importlib.import_module("blockskip.linear.plan"), "capability_of", lambda device: HOPPER)  # noqa: B010
    F.linear = lambda x, weight, bias=None: x
    os.environ["TRITON_INTERPRET"] = "1"  # what the library asks of tensors that are not on CUDA
    setattr(importlib.import_module("blockskip.launching.dispatch"), "encoding", encoding)  # noqa: B010
    triton.JITFunction.run = lambda self, *arguments, grid, warmup, **named: NoLaunch(arguments)
    torch.cuda.current_device = lambda: 0


def calls_of(device: str) -> dict[str, Callable]:
    """name -> call: bf16 problems so small that the host takes most of the time."""

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, dtype=torch.bfloat16, device=device)

    q, k, v = draw(1, 32, 1, 128), draw(1, 8, 2048, 128), draw(1, 8, 2048, 128)
    prompt = draw(1, 32, 64, 128)
    window = bs.sliding_window(1024)
    sinks = window | (bs.sink(4) & bs.causal())
    length = torch.full((), 2000, dtype=torch.int32, device=device)
    grown, seen, mapped = (
        itertools.cycle(range(1025, 2049)) for _ in range(3)
    )  # a token loop: another kv_len each time
    rows = bs.quantize(draw(1024, 1024)).packed("rows")
    tiles = rows.packed("tiles")
    one, some, many = draw(1, 1, 1024), draw(1, 16, 1024), draw(1, 512, 1024)
    impl = "triton"
    ours = {
        "attention, 64 queries": lambda: bs.attention(prompt, k, v, window, impl=impl),
        "attention, 64 queries, tile map": lambda: bs.attention(prompt, k, v, sinks, impl=impl),
        "attention, 1 query": lambda: bs.attention(q, k, v, window, impl=impl),
        "decode": lambda: bs.decode(q, k, v, impl=impl),
        "decode, kv_len on the device": lambda: bs.decode(q, k, v, kv_len=length, impl=impl),
        "decode, a growing kv_len": lambda: bs.decode(q, k, v, kv_len=next(grown), impl=impl),
        "attention, 1 query, a growing kv_len": lambda: bs.attention(q, k, v, window, kv_len=next(seen), impl=impl),
        "attention, 1 query, tile map, a growing kv_len": lambda: bs.attention(
            q, k, v, sinks, kv_len=next(mapped), impl=impl
        ),
        "decode, one split": lambda: bs.decode(q, k, v, splits=1, impl=impl),
        "linear, 1 row": lambda: bs.linear(one, rows, impl=impl),
        "linear, 16 rows": lambda: bs.linear(some, rows, impl=impl),
        "linear, 512 rows": lambda: bs.linear(many, rows, impl=impl),
        "linear, weight in tiles, 1 row": lambda: bs.linear(one, tiles, impl=impl),
        "linear, weight in tiles, 16 rows": lambda: bs.linear(some, tiles, impl=impl),
        "linear, weight in tiles, 512 rows": lambda: bs.linear(many, tiles, impl=impl),
    }
    if device == "cpu":  # torch's would compute there
        return ours
    weight = draw(1024, 1024)
    return ours | {
        "torch's SDPA, 1 query": lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        "torch's linear, 1 row": lambda: F.linear(one, weight),
        "torch's linear, 512 rows": lambda: F.linear(many, weight),
    }


def new_kind(call: Callable) -> Callable:
    """Forget the prepared launches, then call: as the first call of its kind, with compiled kernels kept."""

    def first():
        REPEATED.clear()
        return call()

    return first


def microseconds(call: Callable, count: int, wait: Callable[[], None]) -> float:
    """Of a call, the median over batches of `AT_ONCE`; the thread's own time where there is no GPU to wait for."""
    clock = time.perf_counter_ns if torch.cuda.is_available() else time.thread_time_ns
    samples = []
    for _ in range(max(1, count // AT_ONCE)):
        wait()
        start = clock()
        for _ in range(AT_ONCE):
            call()
        samples.append((clock() - start) / AT_ONCE / 1e3)
    wait()
    return statistics.median(samples)


def python_calls(call: Callable) -> int:
    """Python functions that a call enters, itself left out; those written in C are not counted."""
    profile = cProfile.Profile(builtins=False)
    profile.enable()
    call()
    profile.disable()
    return pstats.Stats(profile).total_calls - 1  # pyright: ignore[reportAttributeAccessIssue]


def measure(name: str, call: Callable, count: int, wait: Callable[[], None]) -> dict:
    """A row; the first calls, which compile, are not among those measured."""
    for _ in range(3):
        call()
    row = {"call": name, "us": microseconds(call, count, wait), "python_calls": python_calls(call)}
    if not name.startswith("torch"):
        row["new_kind_us"] = microseconds(new_kind(call), count // 10, wait)
        row["new_kind_python_calls"] = python_calls(new_kind(call))
    return row


def main(arguments: Sequence[str]) -> None:
    parser = options("host", __doc__)
    parser.add_argument("--calls", type=int, default=10_000, help="of each; a tenth of them of a new kind")
    parser.add_argument("--json", action="store_true", help="one JSON line a row instead of a table")
    chosen = parser.parse_args(arguments)
    on_cuda = torch.cuda.is_available()
    device, wait = ("cuda", torch.cuda.synchronize) if on_cuda else ("cpu", lambda: None)
    if not on_cuda:
        launch_nothing()
    with torch.inference_mode():
        rows = [measure(name, call, chosen.calls, wait) for name, call in calls_of(device).items()]
    if chosen.json:
        print(*map(json.dumps, rows), sep="\n")
        return
    where = machine()
    what = f"launched on {torch.cuda.get_device_name()}" if on_cuda else "CPU tensors, launches replaced by nothing"
    print(f"Host time of a call, measured on {where['cpu']}, load {where['load']}; kernels: {what}.")
    print(f"{'':47} {'us':>8} {'calls':>6}   new kind {'us':>8} {'calls':>6}")
    for row in rows:
        new = f"{row['new_kind_us']:17.1f} {row['new_kind_python_calls']:6}" if "new_kind_us" in row else ""
        print(f"{row['call']:47} {row['us']:8.1f} {row['python_calls']:6}   {new}")
