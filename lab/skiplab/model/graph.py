"""A decoder's step, or a short prompt, as a CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def captured(run: Callable[[Tensor], Tensor], ids: Tensor, lengths: Tensor) -> Callable[[Tensor], Tensor]:
    """`run`, which reads ids and advances `lengths`, as a graph: f(ids) -> logits, in new memory.

    It is run once before the capture, to compile and plan, and `lengths` are then restored.
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
