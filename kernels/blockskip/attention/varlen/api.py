"""The public calls for packed sequences: the contract."""

from __future__ import annotations

from typing import Any

import torch

from ...config import TileConfig
from ...mask import Mask
from .call import VarlenArguments, check
from .eager import attend
from .ops import traced_varlen
from .plan import VarlenPlan, make_varlen_plan


def attention_varlen(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor | None = None,
    max_seqlen_q: int | None = None,
    max_seqlen_k: int | None = None,
    *,
    mask: Mask | None = None,
    scale: float | None = None,
    impl: str = "auto",
    config: TileConfig | tuple[int, int, int, int] | None = None,
    return_lse: bool = False,
    sinks: torch.Tensor | None = None,
    softcap: float | None = None,
) -> Any:
    """`attention` for sequences of different lengths, packed behind each other without padding. Inference only.

    Shapes: q [total_q, Hq, D]; k, v [total_k, Hkv, D]; Hq a multiple of Hkv (GQA); D from 8 to 512; any strides, 0 too,
    such as slices of one tensor [total, 3, H, D]. Dtypes: float16, bfloat16, float32, the same for all; scores, softmax
    and sums are float32. torch.autocast is off inside.

    cu_seqlens_q, cu_seqlens_k: int32 [sequences + 1] on q's device: sequence i has the queries cu_seqlens_q[i] ..
        cu_seqlens_q[i + 1] - 1, and keys likewise; both begin with 0 and never fall. None for the keys takes the
        queries'. They are never read back (a CUDA graph replays with new values), and must stay as they are until the
        call has ended on the device. The kernels bound their values to the tensors' rows; where they fall, some rows
        of the result are left unwritten. Sequences may be empty.
    max_seqlen_q, max_seqlen_k: the longest sequence's numbers of queries and keys; None takes all rows. Tiles are
        chosen by them, nothing else: a longer sequence is computed all the same.
    mask: a band, such as causal() or sliding_window(w); None is all. It counts in positions of each sequence, whose
        last query stands at its last key (bottom-right, as in FlashAttention from 2.1 on): of a sequence with n queries
        and m keys query i stands at m - n + i.
    scale, config, sinks, softcap: as of `attention`.
    impl: reference | tiled | triton; auto takes triton on CUDA, tiled elsewhere. reference reads the lengths back.
    return_lse: also return lse float32 [Hq, total_q], the natural log of the sum of exponentials; -inf for a query that
        sees nothing. With sinks it includes the head's, which is then all that a query that sees nothing has.

    Returns out [total_q, Hq, D], contiguous, in q's dtype, or (out, lse). A query that sees no key gets 0; so do the
    rows behind the last sequence. What lies behind the last sequence may hold NaN, or anything, and no sequence's
    numbers, NaN or infinite ones too, reach another's results. Raises TypeError for dtypes and kinds, ValueError for
    shapes, ranges, unknown options and what an implementation or a device cannot do.
    """
    given = VarlenArguments(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, mask, scale, impl, config, return_lse, sinks,
        softcap,
    )  # fmt: skip
    return traced_varlen(given) if torch.compiler.is_compiling() else attend(given)


def explain_varlen(
    q, k, v, cu_seqlens_q, cu_seqlens_k=None, max_seqlen_q=None, max_seqlen_k=None, *, mask=None, scale=None,
    impl="auto", config=None, return_lse=False, sinks=None, softcap=None,
) -> VarlenPlan:  # fmt: skip
    """What `attention_varlen` with the same arguments will do, as a VarlenPlan whose str() is legible."""
    given = VarlenArguments(
        q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, mask, scale, impl, config, return_lse, sinks,
        softcap,
    )  # fmt: skip
    return make_varlen_plan(check(given))
