"""Compiles our kernels for a GPU that need not be present: registers, spills, shared memory, instructions.

Triton compiles for any NVIDIA architecture, and its wheel brings the tools that read the result.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import blockskip as bs
import torch
from blockskip.gpu import HOPPER

if TYPE_CHECKING:
    from blockskip.config import TileConfig
    from blockskip.launching.dispatch import Launch
    from blockskip.linear.configs import FusedConfig, MatvecConfig
    from blockskip.linear.hopper.plan import HopperConfig

    from skiplab.workload import DecodeWorkload

INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)")
RESOURCES = re.compile(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)")


@dataclass(frozen=True)
class Anatomy:
    """One compiled kernel. `spill_bytes` is the stack that a thread's spilled registers take; 0 is what one wants."""

    capability: tuple[int, int]
    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: Counter
    ttgir: str
    ptx: str
    sass: str

    @property
    def wgmma(self) -> bool:
        """Whether matrix products run on Hopper's warp-group instructions."""
        return self.instructions["HGMMA"] > 0

    @property
    def row_layouts(self) -> tuple[str, ...]:
        """The layouts of the scores whose rows are reduced: equal layouts reduce in the same order and round alike."""
        named = dict(re.findall(r"^(#\w+) = (#ttg?\S*<.*>)", self.ttgir, re.MULTILINE))
        reduced = re.findall(r"\}\) : \(tensor<\d+x\d+xf32, (#\w+)>\)", self.ttgir)
        return tuple(named[name] for name in reduced)

    def __str__(self):
        common = ", ".join(f"{n} {name}" for name, n in self.instructions.most_common(6))
        return (
            f"sm_{self.capability[0]}{self.capability[1]}: {self.registers} registers, "
            f"{self.spill_bytes} bytes spilled, {self.shared_bytes} bytes of shared memory; {common}"
        )


def attention_anatomy(
    capability: tuple[int, int],
    *,
    head_dim: int = 128,
    dtype: torch.dtype = torch.bfloat16,
    mask: bs.Mask | None = None,
    skip: str = "auto",
    q_heads: int = 8,
    kv_heads: int = 8,
    length: int = 4096,
    config=None,
    record: bool = False,
    return_lse: bool = False,
    sinks: bool = False,
    softcap: float | None = None,
) -> Anatomy:
    """The prefill kernel as `blockskip.attention` would launch it on a GPU of `capability`, compiled and not run.

    Where the kernel depends on the number of work items of a program, one program has all of them.

    Raises ValueError where TRITON_INTERPRET is set (nothing is compiled then) or the device is not supported.
    """
    from blockskip.attention.call import AttentionCall
    from blockskip.attention.prefill import launch, plan
    from blockskip.config import TileConfig, prefill_config
    from blockskip.launching.primitives import interpreting

    if interpreting():
        raise ValueError("TRITON_INTERPRET: is set, so kernels are not compiled; unset it before Triton is imported")
    mask = bs.sliding_window(1024) if mask is None else mask
    q, out = (torch.empty((1, q_heads, length, head_dim), dtype=dtype, device="cpu") for _ in range(2))
    k, v = (torch.empty((1, kv_heads, length, head_dim), dtype=dtype, device="cpu") for _ in range(2))
    scale = head_dim**-0.5
    config = prefill_config(capability, head_dim, dtype) if config is None else TileConfig.of(config)
    logits = torch.empty(q_heads, dtype=dtype, device="cpu") if sinks else None
    call = AttentionCall(
        q, k, v, mask, scale, None, length, None, skip, "triton", config, return_lse, record,
        sinks=logits, softcap=softcap,
    )  # fmt: skip
    chosen = plan.plan_kernel(call, config, use_tma=plan.reads_by_tma(call, capability), capability=capability)
    heads, rows = kv_heads if chosen.packed else q_heads, -(-length // chosen.queries_per_tile)
    lse = torch.empty((1, q_heads, length), dtype=torch.float32, device="cpu") if return_lse else None
    visits = torch.empty((1, heads, 1, 1), dtype=torch.uint8, device="cpu") if record else None
    kernel, launched, options = launch.prepare(call, chosen, (q, k, v, out), lse, visits, (rows, heads, 1))
    with _pretend(capability):
        compiled = kernel.warmup(*launched.arguments, **launched.constants, **options, grid=launched.grid)
    return read(compiled, capability)


def decode_anatomy(
    capability: tuple[int, int],
    workload: DecodeWorkload,
    config: TileConfig,
    sinks: bool = False,
    softcap: float | None = None,
) -> Anatomy:
    """The split-K kernel of a decode step with these tiles, as in a CUDA graph on a GPU of `capability`; not run."""
    from blockskip.attention.call import DecodeCall
    from blockskip.attention.decode import launch, plan
    from blockskip.gpu import MULTIPROCESSORS_ASSUMED

    w, dtype = workload, workload.torch_dtype
    q, out = (torch.empty((w.batch, w.q_heads, w.q_len, w.head_dim), dtype=dtype, device="cpu") for _ in range(2))
    k, v = (torch.empty((w.batch, w.kv_heads, w.slots, w.head_dim), dtype=dtype, device="cpu") for _ in range(2))
    logits = torch.empty(w.q_heads, dtype=dtype, device="cpu") if sinks else None
    call = DecodeCall(
        q, k, v, w.head_dim**-0.5, w.kv_len, None, w.window, None, "triton", False, False, logits, softcap
    )  # fmt: skip
    chosen = replace(plan.plan_decode_kernel(call, capability, MULTIPROCESSORS_ASSUMED, config=config), fused=False)
    parts = launch.allocate_parts(call, chosen)
    launched = launch.prepare(call, chosen, (q, k, v, out), None, parts, capability >= HOPPER)
    return _compiled(
        capability, launch.decode_kernel, launched, num_warps=config.num_warps, num_stages=config.num_stages
    )


def linear_anatomy(
    capability: tuple[int, int],
    weight: bs.QuantizedWeight,
    rows: int,
    dtype: torch.dtype,
    config: MatvecConfig | FusedConfig | HopperConfig | None,
    splits: int = 1,
) -> Anatomy:
    """The kernel of a quantised linear layer that has these sizes, as it is launched on a GPU of `capability`; not run.

    weight: one on the meta device will do.
    """
    from blockskip.linear import launch
    from blockskip.linear.configs import FusedConfig, MatvecConfig
    from blockskip.linear.format import Metadata
    from blockskip.linear.rounding import Blocks

    tensors = {name: torch.empty_like(t, device="cpu") for name, t in weight.named_tensors().items()}
    w: Any = replace(weight, **cast(Any, tensors))
    (n, k), early = w.shape, capability >= HOPPER
    x, out = (torch.empty((rows, width), dtype=dtype, device="cpu") for width in (k, n))
    if isinstance(config, MatvecConfig):
        codes = torch.empty((rows, 2, k // 8), dtype=torch.int32, device="cpu")
        sums = torch.empty((rows, k // 32), dtype=torch.float32, device="cpu")
        operands = launch.packed_codes(w), Metadata.of(w), codes, Blocks(sums, sums), None, out
        launched = launch.prepare_matvec(w, operands, config, early)
        return _compiled(capability, launch.matvec, launched, **config.options(early))
    if isinstance(config, FusedConfig):
        kind = torch.float32 if splits > 1 else dtype
        launched = launch.prepare_fused(x, w, None, torch.empty((splits, rows, n), dtype=kind, device="cpu"), config)
        options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
        return _compiled(capability, launch.fused, launched, **options)
    return _tiles_anatomy(capability, w, x, out, config)


def _tiles_anatomy(capability, w, x, out, config) -> Anatomy:
    from blockskip.launching.dispatch import as_launched
    from blockskip.launching.ready import allocate
    from blockskip.linear.hopper import launch

    shares, data = allocate(launch._memory(x, w.shape[0], config)[1:], x.device), w.data.view(torch.int32)
    launched = launch.prepare_product(x, data, w.scale, w.zero, None, out, shares, config, w.group_size)
    launched = launched._replace(arguments=tuple(map(as_launched, launched.arguments)))
    return _compiled(capability, launch.product, launched, num_warps=4, launch_pdl=True)


def _compiled(capability: tuple[int, int], kernel, launched: Launch, **options) -> Anatomy:
    from blockskip.launching.primitives import interpreting

    if interpreting():
        raise ValueError("TRITON_INTERPRET: is set, so kernels are not compiled; unset it before Triton is imported")
    with _pretend(capability):
        compiled = kernel.warmup(*launched.arguments, **launched.constants, **options, grid=launched.grid)
    return read(compiled, capability)


def read(kernel, capability: tuple[int, int]) -> Anatomy:
    """The anatomy of a compiled Triton kernel."""
    cubin = kernel.asm["cubin"]
    resources = RESOURCES.search(_cuobjdump(cubin, "-res-usage"))
    if resources is None:
        raise ValueError("kernel: cuobjdump reported no resources for it")
    registers, stack, _, local = map(int, resources.groups())
    sass = _disassembled(cubin)
    counts = Counter(INSTRUCTION.findall(sass))
    return Anatomy(
        capability,
        registers,
        max(stack, local),
        kernel.metadata.shared,
        counts,
        kernel.asm["ttgir"],
        kernel.asm["ptx"],
        sass,
    )


def _disassembled(cubin: bytes) -> str:
    """SASS, kept in Triton's own cache: taking a kernel apart costs more than finding it compiled there."""
    import triton
    from triton.runtime.cache import get_cache_manager

    kept = get_cache_manager(hashlib.sha256(triton.__version__.encode() + cubin).hexdigest())
    if (path := kept.get_file("kernel.sass")) is not None:
        return Path(path).read_text()
    sass = _cuobjdump(cubin, "-sass")
    kept.put(sass, "kernel.sass", binary=False)
    return sass


def _cuobjdump(cubin: bytes, option: str) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        return subprocess.run([tool, option, file.name], capture_output=True, text=True, check=True).stdout


class _PretendDriver:
    """The part of a Triton driver that compiling needs."""

    def __init__(self, capability: tuple[int, int]):
        from triton.backends.compiler import GPUTarget

        number = capability[0] * 10 + capability[1]
        self.target = GPUTarget("cuda", number, 32)
        self.device = -number

    def get_current_target(self):
        return self.target

    def get_current_device(self) -> int:
        """A device number that no GPU has: Triton caches compiled kernels and their target by it."""
        return self.device

    def get_current_stream(self, device=None) -> int:
        return 0


@contextlib.contextmanager
def _pretend(capability: tuple[int, int]) -> Iterator[None]:
    """Triton compiles for this GPU inside the block."""
    from triton.runtime import driver

    before = driver._active
    driver.set_active(cast(Any, _PretendDriver(capability)))
    try:
        yield
    finally:
        driver._active = before
