"""Batch-invariant products in PyTorch: each row has the same bits whatever other rows there are.

A library chooses its kernel, and with it the order of sums, by the number of rows. Here all products have equally many:
rows come in blocks of a fixed number, the last one filled up with zeros, each in new memory and so aligned alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

ROWS = 8
"""Rows of a block on a CPU, where one row then costs little more than it would alone."""


def blocks_of(x: torch.Tensor, rows: int = ROWS) -> torch.Tensor:
    """x [M, K] as [blocks, rows, K]."""
    blocks = x.new_zeros((-(-x.shape[0] // rows), rows, x.shape[1]))
    blocks.view(-1, x.shape[1])[: x.shape[0]] = x
    return blocks


def products(blocks: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """[blocks * rows, N]: weight [N, K] times each block, + bias."""
    out = blocks.new_empty((*blocks.shape[:2], weight.shape[0]))
    for block, result in zip(blocks, out, strict=True):
        result.copy_(F.linear(block, weight, bias))
    return out.flatten(0, 1)
