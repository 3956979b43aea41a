"""A decode step: split-K, what it is held against of ours, torch's kernels, FlexAttention and FlashInfer.

Ours take the whole cache, with its number of keys and the window. Peers that cannot are given a slice of the keys that
some query sees, so that they are not charged for reading dead keys.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import blockskip as bs
import torch
from blockskip.attention.call import DecodeArguments
from blockskip.attention.decode.eager import check_decode
from blockskip.attention.decode.plan import LONGEST_QUERY, plan_decode_kernel
from blockskip.config import TileConfig
from blockskip.gpu import Gpu
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

from skiplab.contenders.attention import (
    FLEX_BLOCK,
    backend_of,
    compiled_flex,
    needs_compiler,
    needs_cuda,
    needs_cuda_backend,
)
from skiplab.contenders.base import REGISTRY, Build, Contender, Planned, Solver
from skiplab.workload import DecodeWorkload

Inputs = Sequence[torch.Tensor]
REFERENCE_SCORES = 2**28
FLASHINFER_HEAD_DIMS = (64, 128, 256, 512)


def _decode(**options: Any) -> Build:
    """`decode`, and `attention` for more queries than it takes."""

    def build(workload: DecodeWorkload, inputs: Inputs) -> Solver:
        if workload.q_len > LONGEST_QUERY:
            return lambda q, k, v: bs.attention(q, k, v, workload.mask, kv_len=workload.kv_len, **options)
        return lambda q, k, v: bs.decode(q, k, v, kv_len=workload.kv_len, window=workload.window, **options)

    return build


def _needs_few_queries(workload: DecodeWorkload, device: str) -> str | None:
    if workload.q_len > LONGEST_QUERY:
        return f"decode takes up to {LONGEST_QUERY} queries with a number of splits, or tiles, of one's own"
    return needs_cuda(workload, device)


def _configured(config: tuple[int, ...]) -> Build:
    """Our split-K kernel with the caller's tiles, and the number of splits that its rule chooses for those."""
    tiles = TileConfig.of(config)

    def build(workload: DecodeWorkload, inputs: Inputs) -> Solver:
        from blockskip.attention.decode import launch

        gpu = Gpu.of(inputs[0].device)

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            given = DecodeArguments(q, k, v, workload.kv_len, workload.window, impl="triton")
            checked = check_decode(given)
            return launch.decode(checked, plan_decode_kernel(checked, gpu.capability, gpu.sms, config=tiles))[0]

        return Planned(call, {"config": list(config), "origin": "asked"})

    return build


def _prefill_kernel(workload: DecodeWorkload, inputs: Inputs) -> Solver:
    attention: Any = bs.attention
    return lambda q, k, v: attention(q, k, v, workload.mask, kv_len=workload.kv_len, skip="bounds", impl="triton")


def _live(workload: DecodeWorkload) -> slice:
    return slice(workload.kv_len - workload.live_keys, workload.kv_len)


def _sdpa(backend: SDPBackend | None = None) -> Build:
    """torch's SDPA on the live keys; a mask tensor only where several queries differ in what they see."""

    def build(workload: DecodeWorkload, inputs: Inputs) -> Solver:
        live, device = _live(workload), inputs[0].device
        options: dict[str, Any] = {"enable_gqa": True} if workload.group > 1 else {}
        if workload.q_len > 1:
            seen = workload.mask.dense(workload.q_len, workload.kv_len, workload.first_position, device=device)
            options["attn_mask"] = seen[:, live].contiguous()

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with backend_of(backend):
                return scaled_dot_product_attention(q, k[:, :, live], v[:, :, live], **options)

        return call

    return build


def _flex(workload: DecodeWorkload, inputs: Inputs) -> Solver:
    """On the keys up to kv_len; its BlockMask comes from our tile map."""
    tilemap = bs.TileMap.build(workload.mask, workload.q_len, workload.kv_len, FLEX_BLOCK, FLEX_BLOCK)
    block_mask = tilemap.to_block_mask(device=inputs[0].device)
    return compiled_flex(block_mask, workload.group > 1, inputs, slice(0, workload.kv_len))


def _rows_of_heads(workload: DecodeWorkload, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """q [heads, D] and the cache [slots, heads, D] of one request: FlashInfer wants whole, contiguous slices of it."""
    q, k, v = inputs
    return q[0, :, 0], k[0].transpose(0, 1).contiguous(), v[0].transpose(0, 1).contiguous()


def _flashinfer(tensor_cores: bool) -> Build:
    def build(workload: DecodeWorkload, inputs: Inputs) -> Solver:
        import flashinfer  # type: ignore[import-not-found]

        live = _live(workload)

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out = flashinfer.single_decode_with_kv_cache(q, k[live], v[live], use_tensor_cores=tensor_cores)
            return out[None, :, None]

        return call

    return build


def _needs_flashinfer(workload: DecodeWorkload, device: str) -> str | None:
    if importlib.util.find_spec("flashinfer") is None:
        return "FlashInfer is not installed: pip install flashinfer-python (CUDA)"
    if workload.batch > 1 or workload.q_len > 1:
        return "it is called for one request and one query here"
    if workload.dtype == "float32" or workload.head_dim not in FLASHINFER_HEAD_DIMS:
        return "FlashInfer takes bfloat16 and float16, with a head size of 64, 128, 256 or 512"
    return needs_cuda(workload, device)


def _needs_memory(workload: DecodeWorkload, device: str) -> str | None:
    scores = workload.batch * workload.q_heads * workload.q_len * workload.kv_len
    return None if scores <= REFERENCE_SCORES else f"dense in float32: too large beyond {REFERENCE_SCORES} scores"


for _entry in (
    Contender("blockskip", "blockskip", "our decode: on CUDA as many shares of the keys as fill the GPU", _decode(),
              configured=_configured),
    Contender("blockskip-one", "blockskip, one split", "our split-K kernel with a single share: one program a KV head",
              _decode(splits=1, impl="triton"), _needs_few_queries),
    Contender("blockskip-prefill", "blockskip, no splits",
              "our prefill kernel on the same cache: loop bounds, no shares",
              _prefill_kernel, needs_cuda),
    Contender("sdpa", "SDPA", "torch's SDPA, its own choice of kernel, on a slice of the live keys", _sdpa()),
    Contender("sdpa-flash", "SDPA flash", "torch's FlashAttention-2 on a slice of the live keys",
              _sdpa(SDPBackend.FLASH_ATTENTION), needs_cuda_backend),
    Contender("sdpa-efficient", "SDPA efficient", "torch's memory-efficient kernel on a slice of the live keys",
              _sdpa(SDPBackend.EFFICIENT_ATTENTION), needs_cuda_backend),
    Contender("sdpa-math", "SDPA math", "torch's SDPA written out in plain operations, on a slice of the live keys",
              _sdpa(SDPBackend.MATH)),
    Contender("sdpa-cudnn", "SDPA cuDNN", "cuDNN's attention through torch, on a slice of the live keys",
              _sdpa(SDPBackend.CUDNN_ATTENTION), needs_cuda_backend),
    Contender("flex", "FlexAttention", "torch's FlexAttention, compiled, with a BlockMask of 128 x 128 blocks",
              _flex, needs_compiler),
    Contender("flashinfer", "FlashInfer", "FlashInfer's single_decode_with_kv_cache on a slice of the live keys",
              _flashinfer(False), _needs_flashinfer, prepare=_rows_of_heads),
    Contender("flashinfer-tensor", "FlashInfer, tensor cores", "the same with use_tensor_cores, meant for large groups",
              _flashinfer(True), _needs_flashinfer, prepare=_rows_of_heads),
    Contender("reference", "reference", "our dense reference: obviously right, not fast",
              _decode(impl="reference"), _needs_memory, whole_cache=True),
):  # fmt: skip
    REGISTRY.add(_entry.of("decode"))
del _entry
