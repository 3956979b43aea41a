"""Memory that is kept from call to call, allocated outside the memory pools of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")


def outside_graph_pools(make: Callable[[], T], device: torch.device) -> T:
    """What `make` gives, its new tensors on `device` allocated outside any pool that the calling thread allocates from.

    torch.compile's mode "reduce-overhead" runs a function once with the pool of its CUDA graph before it captures it,
    and raises a RuntimeError for each tensor there that outlives the run and is no result. A thread of its own does not
    allocate from that pool. While a graph is being captured `make` runs in the calling thread: it must allocate from
    the graph's pool then, or refuse.
    """
    if device.type != "cuda" or torch.cuda.is_current_stream_capturing():
        return make()
    calling = torch.cuda.current_stream(device)

    def run() -> T:
        with torch.cuda.device(device):
            torch.cuda.current_stream().wait_stream(calling)
            made = make()
            torch.cuda.current_stream().synchronize()  # the calling stream reads what was made, and others later
            return made

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(run).result()
