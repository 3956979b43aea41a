"""Ours and the peers behind one protocol: a contender builds a callable for a workload, untimed, and is then timed.

`@kernel` adds a user's own.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import blockskip as bs
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from skiplab.workload import OPERATIONS, Workload

Call = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Build = Callable[[Workload, Sequence[torch.Tensor]], Call]
FLEX_BLOCK = 128  # FlexAttention's default block, queries and keys


class Unsupported(Exception):
    """Raised by a contender's build or call: this workload is not for it; the message is the reason."""


@dataclass(frozen=True)
class Contender:
    """One way to do an operation.

    build(workload, inputs) -> f(q, k, v) -> out; packs, allocates, tunes and compiles, all of it untimed.
    supports(workload, device) -> None, or the reason why not, in words.
    skip: the work mode that it executes (none, mask, bounds, map, auto), None where its own tiles are not known.
    tile: (block_m, block_n) of the plan it walks, None for our kernels, which are asked (`bs.explain`).
    bool_mask: whether it reads the mask as a tensor of one byte a (query, key) pair.
    """

    name: str
    label: str
    summary: str
    build: Build
    supports: Callable[[Workload, str], str | None] = lambda workload, device: None
    operation: str = "attention"
    skip: str | None = None
    tile: tuple[int, int] | None = None
    bool_mask: bool = False
    config: tuple[int, ...] | None = None

    @property
    def module(self) -> str:
        """The module that defines `build`: a child process imports it to know a user's kernel."""
        return self.build.__module__


class Registry:
    """Contenders by operation and name, in the order in which they were added."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, str], Contender] = {}

    def add(self, contender: Contender) -> None:
        """Add it; a name that one of the lab's own has is refused with ValueError, a user's own may be redefined."""
        key = (contender.operation, contender.name)
        present = self._entries.get(key)
        if present is not None and present.module == __name__ and contender.module != __name__:
            raise ValueError(f"name: {contender.name!r} is one of the lab's own contenders; choose another name")
        self._entries[key] = contender

    def of(self, operation: str) -> dict[str, Contender]:
        """The operation's contenders by name."""
        return {name: entry for (kind, name), entry in self._entries.items() if kind == operation}


REGISTRY = Registry()


def contenders(operation: str = "attention") -> dict[str, Contender]:
    """All contenders of an operation, by name."""
    return REGISTRY.of(operation)


def contender(name: str, operation: str = "attention") -> Contender:
    """The contender of that name; ValueError lists the names there are."""
    known = contenders(operation)
    if name not in known:
        raise ValueError(f"contender: no {name!r}; there are {', '.join(known)}")
    return known[name]


def kernel(
    operation: str = "attention",
    *,
    name: str,
    supports: Callable[[Workload], bool | str | None] | None = None,
    label: str | None = None,
) -> Callable[[Build], Build]:
    """Register your own kernel: decorates `build(workload, inputs)`, which returns `f(q, k, v) -> out`.

    `supports(workload)` returns True (or None), or False, or the reason why not as text.
    """
    if operation not in OPERATIONS:
        raise ValueError(f"operation: got {operation!r}; allowed are {', '.join(OPERATIONS)}")

    def verdict(workload: Workload, device: str) -> str | None:
        answer = None if supports is None else supports(workload)
        if answer is None or answer is True:
            return None
        return answer if isinstance(answer, str) else f"{name} says that it does not support this workload"

    def register(build: Build) -> Build:
        summary = (build.__doc__ or "your own kernel").strip().splitlines()[0]
        REGISTRY.add(Contender(name, label or name, summary, build, verdict, operation))
        return build

    return register


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


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
def _backend(backend: SDPBackend | None) -> Iterator[None]:
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
            with _backend(backend):
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


def _needs_cuda(workload: Workload, device: str) -> str | None:
    return None if is_cuda(device) else "needs a CUDA device: it is a Triton kernel"


def _needs_cuda_band(workload: Workload, device: str) -> str | None:
    if not isinstance(workload.mask, bs.Band):
        return "loop bounds come from a band alone; this mask is none"
    return _needs_cuda(workload, device)


def _needs_cuda_backend(workload: Workload, device: str) -> str | None:
    return None if is_cuda(device) else "torch has this backend on CUDA alone; on a CPU see sdpa"


def _needs_causal(workload: Workload, device: str) -> str | None:
    return None if workload.is_causal else "its flag means plain causal from position 0; this mask is another"


def _needs_causal_backend(workload: Workload, device: str) -> str | None:
    return _needs_cuda_backend(workload, device) or _needs_causal(workload, device)


def _needs_compiler(workload: Workload, device: str) -> str | None:
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
              _blockskip("none", "triton"), _needs_cuda, skip="none"),
    Contender("blockskip-mask", "read mask, leave early", "our Triton kernel: reads each mask tile, skips the empty",
              _blockskip("mask", "triton"), _needs_cuda, skip="mask"),
    Contender("blockskip-bounds", "loop bounds", "our Triton kernel: loop limits computed from the band, no mask read",
              _blockskip("bounds", "triton"), _needs_cuda_band, skip="bounds"),
    Contender("blockskip-map", "tile map", "our Triton kernel: walks the tile map's runs",
              _blockskip("map", "triton"), _needs_cuda, skip="map"),
    Contender("sdpa", "dense + mask", "torch's SDPA, its own choice of kernel, with a bool mask tensor",
              _sdpa(), skip="none", tile=(128, 64), bool_mask=True),
    Contender("sdpa-causal", "SDPA is_causal", "torch's SDPA with is_causal: no mask tensor, plain causal alone",
              _sdpa(causal_flag=True), _needs_causal),
    Contender("sdpa-math", "SDPA math", "torch's SDPA written out in plain operations, with a bool mask tensor",
              _sdpa(SDPBackend.MATH), skip="none", tile=(128, 64), bool_mask=True),
    Contender("sdpa-flash", "SDPA flash", "torch's FlashAttention-2; takes no mask tensor, so plain causal alone",
              _sdpa(SDPBackend.FLASH_ATTENTION, True), _needs_causal_backend),
    Contender("sdpa-efficient", "SDPA efficient", "torch's memory-efficient kernel, is_causal or a mask tensor",
              _sdpa(SDPBackend.EFFICIENT_ATTENTION, True), _needs_cuda_backend),
    Contender("sdpa-cudnn", "SDPA cuDNN", "cuDNN's attention through torch, is_causal or a mask tensor",
              _sdpa(SDPBackend.CUDNN_ATTENTION, True), _needs_cuda_backend),
    Contender("flex", "FlexAttention", "torch's FlexAttention, compiled, with a BlockMask of 128 x 128 blocks",
              _flex, _needs_compiler, skip="map", tile=(FLEX_BLOCK, FLEX_BLOCK)),
    Contender("reference", "reference", "our dense reference: obviously right, not fast",
              _blockskip(impl="reference"), _needs_memory, skip="none", tile=(128, 64), bool_mask=True),
):  # fmt: skip
    REGISTRY.add(_entry)
del _entry
