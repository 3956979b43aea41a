"""`blockskip::attention_varlen` for torch.library: what torch.compile and torch.export put into their graphs.

Eager calls do not come this way.
"""

from __future__ import annotations

import torch

from ...config import TileConfig
from ...mask import Mask, band
from . import eager
from .call import VarlenArguments, check


@torch.library.custom_op("blockskip::attention_varlen", mutates_args=())
def attention_varlen_op(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor | None,
    max_seqlen_q: int | None,
    max_seqlen_k: int | None,
    mask: str,
    scale: float | None,
    impl: str,
    config: list[int] | None,
    return_lse: bool,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse); lse is empty if it was not asked for."""
    given = VarlenArguments(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, Mask.from_spec(mask), scale, impl,
        None if config is None else TileConfig.of(config), return_lse, sinks, softcap,
    )  # fmt: skip
    found = eager.attend(given)
    return found if return_lse else (found, _no_lse(q))


@attention_varlen_op.register_fake
def _(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, mask, scale, impl, config, return_lse, sinks=None,
    softcap=None,
):  # fmt: skip
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if not return_lse:
        return out, _no_lse(q)
    return out, torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device=q.device)


def traced_varlen(given: VarlenArguments):
    """`blockskip.attention_varlen` while torch.compile or torch.export traces."""
    q, k, v, cu_q, cu_k, max_q, max_k, mask, scale, impl, config, return_lse, sinks, softcap = given
    spec = (band(None, None) if mask is None else mask).spec()
    if not isinstance(spec, str):
        check(given)  # masks that hold tensors are no bands: this says so
    out, lse = torch.ops.blockskip.attention_varlen(
        q, k, v, cu_q, cu_k, max_q, max_k, spec, scale, impl, None if config is None else list(TileConfig.of(config)),
        return_lse, sinks, softcap,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def _no_lse(q: torch.Tensor) -> torch.Tensor:
    return torch.empty((0,), dtype=torch.float32, device=q.device)
