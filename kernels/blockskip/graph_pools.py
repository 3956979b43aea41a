"""Memory that is kept from call to call, allocated outside the memory pools of CUDA graphs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

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
    calling, default_device = torch.cuda.current_stream(device), torch.get_default_device()

    def run() -> T:
        # what a thread has of its own: its device, its stream, whether gradients are kept, where new tensors go
        with torch.cuda.device(calling.device), torch.no_grad(), torch.device(default_device):
            torch.cuda.current_stream().wait_stream(calling)
            made = make()
            torch.cuda.current_stream().synchronize()  # the calling stream reads what was made, and others later
            return made

    with ThreadPoolExecutor(1) as pool:
        made = pool.submit(run).result()
    _keep_for(made, calling)
    return made


def _keep_for(made: Any, stream: torch.cuda.Stream) -> None:
    """The allocator does not hand the memory of these tensors on while the stream may still read it."""
    if isinstance(made, torch.Tensor) and made.is_cuda:
        made.record_stream(stream)
    elif isinstance(made, tuple | list):
        for one in made:
            _keep_for(one, stream)
