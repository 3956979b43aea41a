"""Compiles the matvec for a packed weight, to look at its machine code; nothing is run and no GPU is needed."""

from __future__ import annotations

from typing import Any

import blockskip as bs
import torch

from skiplab.anatomy import Anatomy, prepared_anatomy
from skiplab.machine.capability import capability_of
from skiplab.packed_weight.loads import Program
from skiplab.packed_weight.packed import Packed


def compiled(packed: Packed, program: Program, arch: Any, scalar: bool = False) -> Anatomy:
    """The matvec for one token as it would be launched on a GPU of that arch: compiled, not run. Imports triton.

    Raises ValueError where TRITON_INTERPRET is set: nothing is compiled then.
    """
    from blockskip.linear import launch
    from blockskip.linear.plan import MatvecConfig
    from blockskip.linear.rounding import Blocks

    from skiplab.contenders.ablations import FORMS, metadata_as_read

    n, k = 64, packed.in_features  # the kernel takes the number of rows as an argument
    weight = torch.zeros(n, k, dtype=torch.float32, device="cpu")
    w = bs.quantize(weight, packed.bits, packed.group_size, packed.symmetric, packed.metadata)
    config = MatvecConfig(program.block_n, program.blocks, program.num_warps)
    form = FORMS[
        "both" if packed.strided and scalar else "strided" if packed.strided else "scalar" if scalar else "none"
    ]
    codes = torch.empty((1, 2, k // 8), dtype=torch.int32, device="cpu")
    sums = torch.empty(1, k // 32, dtype=torch.float32, device="cpu")
    out = torch.empty(1, n, dtype=torch.bfloat16, device="cpu")
    capability = capability_of(arch)
    early = capability >= (9, 0)
    operands = launch.packed_codes(w), metadata_as_read(w, form), codes, Blocks(sums, sums), None, out
    one = launch.prepare_matvec(w, operands, config, early, form)
    return prepared_anatomy(capability, form.kernel, one, **config.options(early))
