"""A kernel that only reads memory: the least time in which a GPU reads so many bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl


@dataclass(frozen=True)
class ReadProbe:
    """A launch: numbers in a block, blocks that one program reads, warps of a program."""

    block: int
    blocks: int
    warps: int

    def __call__(self, data: torch.Tensor) -> torch.Tensor:
        """Sums of data [n] int32, int32 that wraps: one for each program; n is a multiple of block * blocks."""
        share = self.block * self.blocks
        if data.numel() % share:
            raise ValueError(f"data: got {data.numel()} numbers; allowed are multiples of {share}")
        out = torch.empty(data.numel() // share, dtype=torch.int32, device=data.device)
        launch: Any = sum_kernel[(len(out),)]
        launch(data, out, share, self.block, num_warps=self.warps)
        return out


READ_PROBES = (ReadProbe(4096, 1, 4), ReadProbe(4096, 4, 4), ReadProbe(8192, 8, 8))
"""Few bytes want many programs, many bytes few: the fastest one counts."""


@triton.jit
def sum_kernel(data, out, SHARE: tl.constexpr, BLOCK: tl.constexpr):
    """out[p] = the sum of data[p * SHARE : (p + 1) * SHARE]."""
    program = tl.program_id(0)
    pointers = data + program.to(tl.int64) * SHARE + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.int32)
    for start in range(0, SHARE, BLOCK):
        total += tl.load(pointers + start)
    tl.store(out + program, tl.sum(total))
