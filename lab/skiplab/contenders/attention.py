"""Attention of a prompt: our kernels and skip modes, torch's and FlexAttention."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import blockskip as bs
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from skiplab.contenders.base import REGISTRY, Build, Call, Contender, Unsupported, contender, is_cuda
from skiplab.workload import Workload

FLEX_BLOCK = 128  # FlexAttention's default block, queries and keys


def _blockskip(skip: str = "auto", impl: str = "auto", config: tuple[int, ...] | None = None) -> Build:
    def build(workload: Workload, inputs: Sequence[torch.Tensor]) -> Call:
        attention: Any = bs.attention
        options = {"q_start": workload.q_start, "skip": skip, "impl": impl, "config": config}
        return lambda q, k, v: attention(q, k, v, workload.mask, **options)

    return build


def with_config(name: str, config: tuple[int, ...] | None) -> Contender:
    """The contender with a tile config of the caller's; only our own kernels take one."""
    found = contender(name)
    if config is None:
        return found
    skips = {"blockskip": "auto", **{f"blockskip-{skip}": skip for skip in ("none", "mask", "bounds", "map")}}
    if name not in skips:
        raise ValueError(f"config: {name} takes none; only {', '.join(skips)} do")
    return replace(found, build=_blockskip(skips[name], config=config), config=config)


def dense_mask(workload: Workload, device: torch.device) -> torch.Tensor:
    """The mask as torch's SDPA takes it: bool [q_len, kv_len], or [batch or 1, q_heads or 1, q_len, kv_len]."""
    by_batch, by_head = workload.mask.varies
    batches, heads = workload.batch if by_batch else 1, workload.q_heads if by_head else 1

    def one(batch: int, head: int) -> torch.Tensor:
        return workload.mask.dense(workload.q_len, workload.keys, workload.q_start, batch, head, device)

    if batches == heads == 1:
        return one(0, 0)
    return torch.stack([torch.stack([one(batch, head) for head in range(heads)]) for batch in range(batches)])


@contextmanager
def backend_of(backend: SDPBackend | None) -> Iterator[None]:
    """torch's SDPA with that kernel alone, None for its own choice; Unsupported where it has none."""
    if backend is None:
        yield
        return
    try:
        with sdpa_kernel(backend):
            yield
    except RuntimeError as error:
        if "No available kernel" in str(error):
            raise Unsupported(f"torch has no {backend.name} kernel for this shape, dtype and mask") from error
        raise


def _sdpa(backend: SDPBackend | None = None, causal_flag: bool = False) -> Build:
    """torch's SDPA; with `causal_flag` a plain causal mask is passed as `is_causal`, not as a tensor."""

    def build(workload: Workload, inputs: Sequence[torch.Tensor]) -> Call:
        by_flag = causal_flag and workload.is_causal
        options: dict[str, Any] = {"is_causal": True} if by_flag else {
            "attn_mask": dense_mask(workload, inputs[0].device)
        }  # fmt: skip
        if workload.group > 1:
            options["enable_gqa"] = True

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with backend_of(backend):
                return scaled_dot_product_attention(q, k, v, **options)

        return call

    return build


def _flex(workload: Workload, inputs: Sequence[torch.Tensor]) -> Call:
    """FlexAttention, compiled for this shape and mask; its BlockMask comes from our tile map (its own takes L x L)."""
    from torch.nn.attention.flex_attention import flex_attention

    # Past eight shapes torch.compile stops compiling a function; each point starts afresh.
    torch.compiler.reset()
    block_mask = workload.tilemap(FLEX_BLOCK, FLEX_BLOCK).to_block_mask(device=inputs[0].device)
    compiled = torch.compile(flex_attention, dynamic=False, fullgraph=True)
    gqa = workload.group > 1

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return compiled(q, k, v, block_mask=block_mask, enable_gqa=gqa)

    call(*inputs)
    return call


def needs_cuda(workload: Any, device: str) -> str | None:
    """Why a Triton kernel cannot run on that device."""
    return None if is_cuda(device) else "needs a CUDA device: it is a Triton kernel"


def _needs_cuda_band(workload: Workload, device: str) -> str | None:
    if not isinstance(workload.mask, bs.Band):
        return "loop bounds come from a band alone; this mask is none"
    return needs_cuda(workload, device)


def needs_cuda_backend(workload: Any, device: str) -> str | None:
    """Why torch has not that kernel on the device."""
    return None if is_cuda(device) else "torch has this backend on CUDA alone; on a CPU see sdpa"


def _needs_causal(workload: Workload, device: str) -> str | None:
    return None if workload.is_causal else "its flag means plain causal from position 0; this mask is another"


def _needs_causal_backend(workload: Workload, device: str) -> str | None:
    return needs_cuda_backend(workload, device) or _needs_causal(workload, device)


def needs_compiler(workload: Any, device: str) -> str | None:
    """Why FlexAttention cannot be compiled for it here."""
    if any(workload.mask.varies):
        return "its BlockMask comes from one tile map, and this mask differs between batches or heads"
    if is_cuda(device) or any(shutil.which(compiler) for compiler in ("g++", "c++", "clang++")):
        return None
    return "torch.compile needs a C++ compiler on a CPU: install g++ (Debian: apt install g++)"


def _needs_memory(workload: Workload, device: str) -> str | None:
    return None if workload.q_len * workload.keys <= 2**28 else "dense in float32: too large beyond 16384 x 16384"


for _entry in (
    Contender("blockskip", "block-skip", "our attention, the implementation and skip mode that it chooses itself",
              _blockskip(), skip="auto"),
    Contender("blockskip-none", "visit all tiles", "our Triton kernel: every tile, a dense mask read and applied",
              _blockskip("none", "triton"), needs_cuda, skip="none"),
    Contender("blockskip-mask", "read mask, leave early", "our Triton kernel: reads each mask tile, skips the empty",
              _blockskip("mask", "triton"), needs_cuda, skip="mask"),
    Contender("blockskip-bounds", "loop bounds", "our Triton kernel: loop limits computed from the band, no mask read",
              _blockskip("bounds", "triton"), _needs_cuda_band, skip="bounds"),
    Contender("blockskip-map", "tile map", "our Triton kernel: walks the tile map's runs",
              _blockskip("map", "triton"), needs_cuda, skip="map"),
    Contender("sdpa", "dense + mask", "torch's SDPA, its own choice of kernel, with a bool mask tensor",
              _sdpa(), skip="none", tile=(128, 64), bool_mask=True),
    Contender("sdpa-causal", "SDPA is_causal", "torch's SDPA with is_causal: no mask tensor, plain causal alone",
              _sdpa(causal_flag=True), _needs_causal),
    Contender("sdpa-math", "SDPA math", "torch's SDPA written out in plain operations, with a bool mask tensor",
              _sdpa(SDPBackend.MATH), skip="none", tile=(128, 64), bool_mask=True),
    Contender("sdpa-flash", "SDPA flash", "torch's FlashAttention-2; takes no mask tensor, so plain causal alone",
              _sdpa(SDPBackend.FLASH_ATTENTION, True), _needs_causal_backend),
    Contender("sdpa-efficient", "SDPA efficient", "torch's memory-efficient kernel, is_causal or a mask tensor",
              _sdpa(SDPBackend.EFFICIENT_ATTENTION, True), needs_cuda_backend),
    Contender("sdpa-cudnn", "SDPA cuDNN", "cuDNN's attention through torch, is_causal or a mask tensor",
              _sdpa(SDPBackend.CUDNN_ATTENTION, True), needs_cuda_backend),
    Contender("flex", "FlexAttention", "torch's FlexAttention, compiled, with a BlockMask of 128 x 128 blocks",
              _flex, needs_compiler, skip="map", tile=(FLEX_BLOCK, FLEX_BLOCK)),
    Contender("reference", "reference", "our dense reference: obviously right, not fast",
              _blockskip(impl="reference"), _needs_memory, skip="none", tile=(128, 64), bool_mask=True),
):  # fmt: skip
    REGISTRY.add(_entry)
del _entry
