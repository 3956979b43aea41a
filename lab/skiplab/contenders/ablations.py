"""Ablations of the matvec: one design choice removed at a time, to show what it gains. Imports triton.

They differ from the shipped kernel in its `blockskip.linear.launch.MatvecForm` alone; the kernel's body is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import blockskip as bs
import torch
import triton
import triton.language as tl
from blockskip.launching.primitives import interpreting, wide
from blockskip.linear.format import Metadata
from blockskip.linear.launch import SHIPPED, MatvecForm, packed_codes, readable, ready_matvec
from blockskip.linear.matvec import UNALIGNED, load_some, matvec, repeated
from blockskip.linear.plan import MatvecConfig


@triton.jit
def load_strided_metadata(
    table, n0, rows, b0, N, ALL: tl.constexpr, GROUP: tl.constexpr, BLOCKS: tl.constexpr, HALF: tl.constexpr
):
    """As `blockskip.linear.matvec.load_metadata`, of a table [groups, N]: each number comes from another cache line."""
    SHARE: tl.constexpr = 1 if GROUP == 16 else GROUP // 32  # pyright: ignore[reportAssignmentType]
    COUNT: tl.constexpr = (BLOCKS + SHARE - 1) // SHARE
    g = (b0 // SHARE + tl.arange(0, COUNT))[None, :]
    if GROUP == 16:
        g = g * 2 + HALF
    at = table + wide(n0) + rows[:, None] + g.to(tl.int64) * N
    return repeated(load_some(at, g < ALL * 32 // GROUP, ALL % BLOCKS != 0), BLOCKS)


matvec_of_4_byte_loads = triton.jit(do_not_specialize_on_alignment=[*UNALIGNED, "codes"])(matvec.fn)
"""The same kernel told nothing of where the activations begin: it loads 4 bytes of them at a time instead of 16."""

FORMS: Mapping[str, MatvecForm] = MappingProxyType(
    {
        "none": SHIPPED,
        "strided": SHIPPED._replace(load_metadata=load_strided_metadata),
        "scalar": SHIPPED._replace(kernel=matvec_of_4_byte_loads),
        "both": MatvecForm(matvec_of_4_byte_loads, load_strided_metadata),
    }
)
"""What is left out, by its name in contenders and in the explorer of packed weights."""


def metadata_as_read(w: bs.QuantizedWeight, form: MatvecForm) -> Metadata:
    """The weight's metadata as this form reads it: [N, groups], or [groups, N] in memory of its own."""
    shipped = Metadata.of(w)
    if form.load_metadata is not load_strided_metadata:
        return shipped
    return Metadata(*(None if t is None else t.T.contiguous() for t in shipped))  # pyright: ignore[reportArgumentType]


def product(
    x: torch.Tensor, w: bs.QuantizedWeight, metadata: Metadata, config: MatvecConfig, form: MatvecForm
) -> torch.Tensor:
    """`blockskip.linear` of up to eight rows [M, K] by this form; metadata: `metadata_as_read(w, form)`."""
    given = x.dtype
    if interpreting():  # its kernels take no bfloat16, neither do ours then
        x, w = x.float(), readable(w)
        metadata = Metadata(*(t.float() if t is not None and t.dtype == torch.bfloat16 else t for t in metadata))  # pyright: ignore[reportArgumentType]
    ready = ready_matvec(x, w, None, metadata, config, form)
    return ready(x, None, packed_codes(w), *metadata)[0].to(given)
