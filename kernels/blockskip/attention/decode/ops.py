"""`blockskip::decode` for torch.library: what torch.compile and torch.export put into their graphs.

Eager calls do not come this way.
"""

from __future__ import annotations

import torch

from ..caches import check_kv_scale
from ..call import DecodeArguments
from ..checks import check_sinks, check_tensors
from . import eager


@torch.library.custom_op("blockskip::decode", mutates_args=())
def decode_op(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    kv_len: int | None,
    kv_len_tensor: torch.Tensor | None,
    window: int | None,
    scale: float | None,
    splits: int | None,
    impl: str,
    return_lse: bool,
    ring: bool = False,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    kv_start: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse); splits None is "auto"; lse is empty if it was not asked for."""
    length = kv_len if kv_len_tensor is None else kv_len_tensor
    chosen = "auto" if splits is None else splits
    found = eager.attend(
        DecodeArguments(
            q, k, v, length, window, scale, chosen, impl, return_lse, ring, sinks, softcap, kv_start, k_scale, v_scale
        )
    )  # fmt: skip
    out, lse = found if return_lse else (found, _no_lse(q))
    return out.contiguous(), lse


@decode_op.register_fake
def _(
    q, k, v, kv_len, kv_len_tensor, window, scale, splits, impl, return_lse, ring=False, sinks=None, softcap=None,
    kv_start=None, k_scale=None, v_scale=None,
):  # fmt: skip
    check_tensors(q, k, v, ("q", "k", "v"), float64=impl == "reference", float8=True)
    check_sinks(sinks, q)
    check_kv_scale("k_scale", k_scale, k)
    check_kv_scale("v_scale", v_scale, v)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    return out, torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) if return_lse else _no_lse(q)


def traced_decode(given: DecodeArguments):
    """`blockskip.decode` while torch.compile or torch.export traces."""
    (
        q, k, v, kv_len, window, scale, splits, impl, return_lse, ring, sinks, softcap, kv_start, k_scale, v_scale
    ) = given  # fmt: skip
    is_tensor = isinstance(kv_len, torch.Tensor)
    out, lse = torch.ops.blockskip.decode(
        q, k, v, None if is_tensor else kv_len, kv_len if is_tensor else None, window, scale,
        eager.check_splits(splits), impl, return_lse, ring, sinks, softcap, kv_start, k_scale,
        v_scale,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def _no_lse(q: torch.Tensor) -> torch.Tensor:
    return torch.empty((0,), dtype=torch.float32, device=q.device)
