"""A decode step: split-K, what it is held against of ours, torch's kernels, FlexAttention and FlashInfer.

Ours take the whole cache, with its number of keys and the window. Peers that cannot are given a slice of the keys that
some query sees, so that they are not charged for reading dead keys.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import replace
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
    by_name,
    compiled_flex,
    needs_compiler,
    needs_cuda,
    needs_cuda_backend,
)
from skiplab.contenders.base import REGISTRY, Build, Contender, Planned, Solver
from skiplab.workload import DecodeWorkload

Inputs = Sequence[torch.Tensor]
OURS = ("float8", "ragged")
"""What our kernels take, of `base.NEEDS`."""
REFERENCE_SCORES = 2**28
FLASHINFER_HEAD_DIMS = (64, 128, 256, 512)
PAGE, WORKSPACE = 16, 128 << 20
"""FlashInfer's pages, in keys, and the bytes that it is lent: as in its documentation."""
TENSOR_CORES = 4
"""Query heads to a key head from which FlashInfer's documentation advises tensor cores."""


def _decode(**options: Any) -> Build:
    """`decode`, and `attention` for more queries than it takes."""

    def build(workload: DecodeWorkload, inputs: Inputs) -> Solver:
        if workload.q_len > LONGEST_QUERY:
            how = {"mask": workload.mask, **options}
            return by_name(workload, lambda q, k, v, **more: bs.attention(q, k, v, **_known(workload, how, more)))
        how = {"window": workload.window, **options}
        return by_name(workload, lambda q, k, v, **more: bs.decode(q, k, v, **_known(workload, how, more)))

    return build


def _known(workload: DecodeWorkload, how: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments: the number of keys, unless it is among the inputs."""
    return {"kv_len": workload.kv_len, **how, **inputs}


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

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **more: Any) -> torch.Tensor:
            given = DecodeArguments(q, k, v, window=workload.window, impl="triton", **_known(workload, {}, more))
            checked = check_decode(given)
            return launch.decode(checked, plan_decode_kernel(checked, gpu.capability, gpu.sms, config=tiles))[0]

        return Planned(by_name(workload, call), {"config": list(config), "origin": "asked"})

    return build


def _prefill_kernel(workload: DecodeWorkload, inputs: Inputs) -> Solver:
    attention: Any = bs.attention
    how = {"mask": workload.mask, "skip": "bounds", "impl": "triton"}
    return by_name(workload, lambda q, k, v, **more: attention(q, k, v, **_known(workload, how, more)))


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


def _pages(workload: DecodeWorkload, inputs: Inputs) -> tuple[torch.Tensor, ...]:
    """q [batch, heads, D] and the cache as pages [pages, PAGE, heads, D], with zeros where there is no key."""
    q, k, v = inputs[:3]
    padding = (0, 0, 0, -workload.slots % PAGE)
    whole = (torch.nn.functional.pad(x.nan_to_num(nan=0.0), padding).transpose(1, 2) for x in (k, v))
    return q[:, :, 0].contiguous(), *(x.reshape(-1, PAGE, *x.shape[2:]).contiguous() for x in whole)


def _flashinfer_batch(workload: DecodeWorkload, inputs: Inputs) -> Solver:
    """It plans by lengths that the host knows, which is not timed; a call then runs that plan."""
    import flashinfer  # type: ignore[import-not-found]

    counts = torch.tensor(workload.key_counts, dtype=torch.int32, device="cpu")
    pages, room = (counts + PAGE - 1) // PAGE, -(-workload.slots // PAGE)
    first = torch.cat([torch.zeros(1, dtype=torch.int32, device="cpu"), pages.cumsum(0, dtype=torch.int32)])
    each = [torch.arange(count, dtype=torch.int32, device="cpu") + i * room for i, count in enumerate(pages.tolist())]
    workspace = torch.empty(WORKSPACE, dtype=torch.uint8, device=inputs[0].device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        workspace, "NHD", use_tensor_cores=workload.group >= TENSOR_CORES
    )
    placed = (x.to(workspace.device) for x in (first, torch.cat(each), (counts - 1) % PAGE + 1))
    wrapper.plan(
        *placed, workload.q_heads, workload.kv_heads, workload.head_dim, PAGE,
        window_left=-1 if workload.window is None else workload.window - 1, q_data_type=workload.torch_dtype,
    )  # fmt: skip
    return lambda q, k, v: wrapper.run(q, (k, v))[:, :, None]


def _needs_flashinfer_batch(workload: DecodeWorkload, device: str) -> str | None:
    alone = replace(workload, batch=1, ragged=None)
    return _needs_flashinfer(alone, device)


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
              configured=_configured, takes=OURS),
    Contender("blockskip-one", "blockskip, one split", "our split-K kernel with a single share: one program a KV head",
              _decode(splits=1, impl="triton"), _needs_few_queries, takes=OURS),
    Contender("blockskip-prefill", "blockskip, no splits",
              "our prefill kernel on the same cache: loop bounds, no shares",
              _prefill_kernel, needs_cuda, takes=OURS),
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
    Contender("flashinfer-batch", "FlashInfer, batch",
              "FlashInfer's BatchDecodeWithPagedKVCacheWrapper, planned by lengths that the host knows",
              _flashinfer_batch, _needs_flashinfer_batch, prepare=_pages, takes=("ragged",)),
    Contender("reference", "reference", "our dense reference: obviously right, not fast",
              _decode(impl="reference"), _needs_memory, whole_cache=True, takes=OURS),
):  # fmt: skip
    REGISTRY.add(_entry.of("decode"))
del _entry
