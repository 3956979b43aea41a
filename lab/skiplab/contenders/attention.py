"""Attention of a prompt: our kernels and skip modes, torch's and FlexAttention."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import blockskip as bs
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from skiplab.contenders.base import REGISTRY, Build, Contender, Planned, Solver, Unsupported, is_cuda
from skiplab.workload import Workload

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask, FlexKernelOptions

OURS = ("float8", "sinks")
"""What our kernels take, of `base.NEEDS`."""
FLEX_BLOCK = 128  # FlexAttention's default block, queries and keys
FLEX_OPTIONS: tuple[FlexKernelOptions | None, ...] = (
    None,
    {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 2},
    {"BLOCK_M": 64, "BLOCK_N": 32, "num_warps": 8, "num_stages": 1},
    {"BLOCK_M": 32, "BLOCK_N": 32, "num_warps": 4, "num_stages": 1},
)
"""torch's own choice, then smaller tiles for GPUs that those do not fit on (documented in `FlexKernelOptions`)."""


def _blockskip(skip: str = "auto", impl: str = "auto", config: tuple[int, ...] | None = None) -> Build:
    def build(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
        attention: Any = bs.attention
        options = {"q_start": workload.q_start, "skip": skip, "impl": impl, "config": config}
        return by_name(workload, lambda q, k, v, **more: attention(q, k, v, workload.mask, **options, **more))

    return build


def by_name(workload: Any, call: Callable[..., torch.Tensor]) -> Solver:
    """f(q, k, v, the other inputs) of a function that takes these others by their names."""
    names = workload.input_names[3:]
    return lambda q, k, v, *more: call(q, k, v, **dict(zip(names, more, strict=True)))


def _configured(skip: str) -> Callable[[tuple[int, ...]], Build]:
    """The build of a contender with the same skip mode and the caller's tiles."""
    return lambda config: _blockskip(skip, config=config)


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
    """A context in which torch's SDPA uses that kernel alone (None: its own choice); Unsupported if torch lacks it."""
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


def _sdpa(backend: SDPBackend | None = None, causal_flag: bool = False, additive: bool = False) -> Build:
    """torch's SDPA with a mask tensor: bool, or `additive`, in the workload's dtype, which saves torch converting it in
    each call. With `causal_flag` plain causal is passed as `is_causal` instead, on the keys up to the last query."""

    def build(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
        q, k, _ = inputs
        options: dict[str, Any] = {"enable_gqa": True} if k.shape[1] < workload.q_heads else {}
        keys = slice(None)
        if causal_flag and workload.is_causal:
            options["is_causal"], keys = True, slice(0, workload.q_len)
        else:
            mask = dense_mask(workload, q.device)
            options["attn_mask"] = (
                torch.zeros_like(mask, dtype=q.dtype).masked_fill_(~mask, -torch.inf) if additive else mask
            )

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            with backend_of(backend):
                return scaled_dot_product_attention(q, k[:, :, keys], v[:, :, keys], **options)

        return call

    return build


def with_heads_repeated(workload: Any, inputs: Sequence[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    """q, k, v with a key/value head for each query head, for kernels without grouped heads."""
    q, k, v = inputs
    return q, k.repeat_interleave(workload.group, 1), v.repeat_interleave(workload.group, 1)


def compiled_flex(
    block_mask: BlockMask, gqa: bool, inputs: Sequence[torch.Tensor], keys: slice = slice(None)
) -> Solver:
    """FlexAttention, compiled for these inputs and keys; a Planned call where its default tiles do not fit the GPU.

    Sinks, where they stand behind q, k and v, weigh its result by its log-sum-exp: it knows none itself. At large head
    sizes torch's default tiles may want more shared memory than there is. Then the documented `kernel_options` are
    tried, largest first; any other error is the row's.
    """
    from torch.nn.attention.flex_attention import flex_attention

    def with_sinks(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: torch.Tensor, **how: Any) -> torch.Tensor:
        out, lse = flex_attention(q, k, v, return_lse=True, **how)  # pyright: ignore[reportAssignmentType]
        return (out * torch.sigmoid(lse - sinks[None, :, None])[..., None]).to(q.dtype)

    function: Any = with_sinks if len(inputs) > 3 else flex_attention

    def attempt(options: FlexKernelOptions | None) -> Solver:
        torch.compiler.reset()  # past eight shapes torch.compile stops compiling a function; each point starts afresh
        compiled = torch.compile(function, dynamic=False, fullgraph=True)

        def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *sinks: torch.Tensor) -> torch.Tensor:
            return compiled(
                q, k[:, :, keys], v[:, :, keys], *sinks, block_mask=block_mask, enable_gqa=gqa, kernel_options=options
            )

        call(*inputs)
        return call if options is None else Planned(call, {"kernel_options": options})

    for options in FLEX_OPTIONS[:-1]:
        try:
            return attempt(options)
        except Exception as error:  # torch wraps what Triton raised, differently from release to release
            if not _is_too_large(error):
                raise
    return attempt(FLEX_OPTIONS[-1])


def _is_too_large(error: Exception) -> bool:
    """Whether the error says that a kernel's tiles need more resources than a multiprocessor has."""
    text = str(error).lower()
    return any(words in text for words in ("out of resource", "no valid triton configs", "no choices to select"))


def _flex(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    """FlexAttention with a BlockMask from our tile map; its own construction takes L x L memory."""
    block_mask = workload.tilemap(FLEX_BLOCK, FLEX_BLOCK).to_block_mask(device=inputs[0].device)
    return compiled_flex(block_mask, workload.group > 1, inputs)


def needs_cuda(workload: Any, device: str) -> str | None:
    """Why a Triton kernel cannot run on that device."""
    return None if is_cuda(device) else "needs a CUDA device: it is a Triton kernel"


def _needs_cuda_band(workload: Workload, device: str) -> str | None:
    if is_cuda(device) and not isinstance(workload.mask, bs.Band):
        return "loop bounds come from a band alone; this mask is none"
    return needs_cuda(workload, device)


def needs_cuda_backend(workload: Any, device: str) -> str | None:
    """Why torch lacks that kernel on the device."""
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


def _needs_flex(workload: Workload, device: str) -> str | None:
    if workload.sinks and not is_cuda(device):
        return "sinks take its log-sum-exp, which torch.compile does not return on a CPU"
    return needs_compiler(workload, device)


def _needs_memory(workload: Workload, device: str) -> str | None:
    return None if workload.q_len * workload.keys <= 2**28 else "dense in float32: too large beyond 16384 x 16384"


for _entry in (
    Contender("blockskip", "blockskip", "our attention, the implementation and skip mode that it chooses itself",
              _blockskip(), skip="auto", configured=_configured("auto"), takes=OURS),
    Contender("blockskip-none", "blockskip, all tiles", "our Triton kernel: every tile, a dense mask read and applied",
              _blockskip("none", "triton"), needs_cuda, skip="none",
              configured=_configured("none"), takes=OURS),
    Contender("blockskip-mask", "blockskip, mask read", "our Triton kernel: reads each mask tile, skips the empty",
              _blockskip("mask", "triton"), needs_cuda, skip="mask",
              configured=_configured("mask"), takes=OURS),
    Contender("blockskip-bounds", "blockskip, loop bounds",
              "our Triton kernel: loop limits computed from the band, no mask read",
              _blockskip("bounds", "triton"), _needs_cuda_band, skip="bounds",
              configured=_configured("bounds"), takes=OURS),
    Contender("blockskip-map", "blockskip, tile map", "our Triton kernel: walks the tile map's runs",
              _blockskip("map", "triton"), needs_cuda, skip="map",
              configured=_configured("map"), takes=OURS),
    Contender("sdpa", "dense + mask", "torch's SDPA, its own choice of kernel, with a bool mask tensor",
              _sdpa(), skip="none", tile=(128, 64), bool_mask=True),
    Contender("sdpa-causal", "SDPA is_causal", "torch's SDPA with is_causal: no mask tensor, plain causal alone",
              _sdpa(causal_flag=True), _needs_causal),
    Contender("sdpa-math", "SDPA math", "torch's SDPA written out in plain operations, with a bool mask tensor",
              _sdpa(SDPBackend.MATH), skip="none", tile=(128, 64), bool_mask=True),
    Contender("sdpa-flash", "SDPA flash", "torch's FlashAttention-2; takes no mask tensor, so plain causal alone",
              _sdpa(SDPBackend.FLASH_ATTENTION, True), _needs_causal_backend),
    Contender("sdpa-efficient", "SDPA efficient", "torch's memory-efficient kernel, causal or masked; heads repeated",
              _sdpa(SDPBackend.EFFICIENT_ATTENTION, True, True), needs_cuda_backend, prepare=with_heads_repeated),
    Contender("sdpa-efficient-mask", "SDPA efficient + mask", "torch's memory-efficient kernel, masked; heads repeated",
              _sdpa(SDPBackend.EFFICIENT_ATTENTION, False, True), needs_cuda_backend, skip="none", tile=(128, 64),
              additive_mask=True, repeats_heads=True, prepare=with_heads_repeated),
    Contender("sdpa-cudnn", "SDPA cuDNN", "cuDNN's attention through torch, is_causal or a mask tensor",
              _sdpa(SDPBackend.CUDNN_ATTENTION, True), needs_cuda_backend),
    Contender("flex", "FlexAttention", "torch's FlexAttention, compiled, with a BlockMask of 128 x 128 blocks",
              _flex, _needs_flex, skip="map", tile=(FLEX_BLOCK, FLEX_BLOCK), takes=("sinks",)),
    Contender("reference", "reference", "our dense reference: obviously right, not fast",
              _blockskip(impl="reference"), _needs_memory, skip="none", tile=(128, 64), bool_mask=True, takes=OURS),
):  # fmt: skip
    REGISTRY.add(_entry)
del _entry
