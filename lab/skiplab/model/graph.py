"""A step of a decoder as a CUDA graph: one launch in the place of hundreds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def captured(run: Callable[[Tensor], Tensor], ids: Tensor, lengths: Tensor) -> Callable[[Tensor], Tensor]:
    """`run`, which reads ids and moves `lengths` on, as a graph: f(ids) -> logits, in memory of their own.

    It runs once before it is captured, which compiles and plans, and what that moved is put back.
    """
    given, before = ids.clone(), lengths.clone()
    with torch.cuda.device(ids.device):
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            run(given)
        torch.cuda.current_stream().wait_stream(stream)
        lengths.copy_(before)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = run(given)

    def replay(ids: Tensor) -> Tensor:
        given.copy_(ids)
        graph.replay()
        return logits.clone()

    return replay
