"""`blockskip::attention` for torch.library: what torch.compile and torch.export put into their graphs.

The mask travels as its spec: text, and tensors where it holds some. Eager calls do not come this way.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from ..config import TileConfig
from ..mask import Mask, band, mask_of
from . import eager
from .caches import check_kv_scale
from .call import AttentionArguments
from .checks import check_sinks, check_tensors


@torch.library.custom_op("blockskip::attention", mutates_args=())
def attention_op(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: str,
    mask_tensors: list[torch.Tensor],
    scale: float | None,
    q_start: int | None,
    kv_len: int | None,
    kv_len_tensor: torch.Tensor | None,
    skip: str,
    impl: str,
    config: list[int] | None,
    return_lse: bool,
    ring: bool = False,
    route: str = "measured",
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
    kv_start: torch.Tensor | None = None,
    k_scale: torch.Tensor | None = None,
    v_scale: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(out, lse); lse is empty if it was not asked for."""
    length = kv_len if kv_len_tensor is None else kv_len_tensor
    given = AttentionArguments(
        q, k, v, _mask(mask, mask_tensors), scale, q_start, length, skip, impl,
        None if config is None else TileConfig.of(config), return_lse, False, ring, route, sinks, softcap,
        kv_start, k_scale, v_scale,
    )  # fmt: skip
    found = eager.attend(given)
    out, lse = found if return_lse else (found, _no_lse(q))
    return out.contiguous(), lse


@attention_op.register_fake
def _(
    q, k, v, mask, mask_tensors, scale, q_start, kv_len, kv_len_tensor, skip, impl, config, return_lse, ring=False,
    route="measured", sinks=None, softcap=None, kv_start=None, k_scale=None, v_scale=None,
):  # fmt: skip
    check_tensors(q, k, v, ("q", "k", "v"), float64=impl == "reference", float8=True)
    check_sinks(sinks, q)
    check_kv_scale("k_scale", k_scale, k)
    check_kv_scale("v_scale", v_scale, v)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) if return_lse else _no_lse(q)
    return out, lse


def traced_attention(given: AttentionArguments):
    """`blockskip.attention` while torch.compile or torch.export traces."""
    (
        q, k, v, mask, scale, q_start, kv_len, skip, impl, config, return_lse, record, ring, route, sinks, softcap,
        kv_start, k_scale, v_scale,
    ) = given  # fmt: skip
    if record:
        raise ValueError("record: True is not available while torch.compile traces; call attention eagerly")
    spec = (band(None, None) if mask is None else mask).spec()
    text, tensors = (spec, []) if isinstance(spec, str) else spec
    is_tensor = isinstance(kv_len, torch.Tensor)
    out, lse = torch.ops.blockskip.attention(
        q, k, v, text, tensors, scale, q_start, None if is_tensor else kv_len, kv_len if is_tensor else None,
        skip, impl, None if config is None else list(TileConfig.of(config)), return_lse, ring, route, sinks, softcap,
        kv_start, k_scale, v_scale,
    )  # fmt: skip
    return (out, lse) if return_lse else out


def _mask(text: str, tensors: list[torch.Tensor]) -> Mask:
    return mask_of(tensors[0], text, tensors) if tensors else _mask_of_text(text)


_mask_of_text = lru_cache(maxsize=64)(Mask.from_spec)
"""A graph knows its masks by their text, so they, and what they own, live here."""


def _no_lse(q: torch.Tensor) -> torch.Tensor:
    return torch.empty((0,), dtype=torch.float32, device=q.device)
