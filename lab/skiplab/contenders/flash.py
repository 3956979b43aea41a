"""Peers that support sliding windows, or causal masks: FlashAttention 2, 3, 4, FlashInfer, FFPA, torch's efficient.

All place the last query at the last key. They are given the keys up to the last query, a view, and take them
[batch, length, heads, D], which is a view as well: no layout conversion is timed.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import blockskip as bs
import torch

from skiplab.contenders.attention import needs_cuda, needs_cuda_backend, with_heads_repeated
from skiplab.contenders.base import REGISTRY, Contender, Solver
from skiplab.contenders.decode import FLASHINFER_HEAD_DIMS
from skiplab.workload import DecodeWorkload, Workload

Attend = Callable[..., torch.Tensor]
FA3_PACKAGES = {"flash_attn_interface": "flash_attn_config", "fa3_fwd_interface": "fa3_fwd_config"}
"""FlashAttention-3's module, as upstream and as the wheel fa3-fwd name it, and what it was built with."""
FFPA_QUERIES = 512
BOTTOM_RIGHT = 2  # torch's efficient kernel: causal, the last query at the last key


def window_of(workload: Workload) -> int | None:
    """The window, where it is shorter than the keys up to the last query; None for plain causal."""
    window = workload.window
    return None if window is None or window >= last_key(workload) else window


def last_key(workload: Workload) -> int:
    """Number of keys up to the last query, included."""
    return workload.first_position + workload.q_len


def by_length(workload: Workload, attend: Attend) -> Solver:
    """Wrap a function on [batch, length, heads, D] as a call on q, k, v [batch, heads, length, D], and what follows."""
    keys = slice(0, last_key(workload))

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        q, k, v = q.transpose(1, 2), k[:, :, keys].transpose(1, 2), v[:, :, keys].transpose(1, 2)
        return attend(q, k, v, *more).transpose(1, 2)

    return call


def _flash2(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    forward, window, scale = torch.ops.aten._flash_attention_forward, window_of(workload), workload.head_dim**-0.5
    sides = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    lengths = workload.q_len, last_key(workload)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return forward(q, k, v, None, None, *lengths, 0.0, window is None, False, scale=scale, **sides)[0]

    return by_length(workload, attend)


def _efficient(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    forward, scale = torch.ops.aten._efficient_attention_forward, workload.head_dim**-0.5
    none, window = (None,) * 5, window_of(workload)

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return forward(q, k, v, *none, 0.0, BOTTOM_RIGHT, False, scale=scale, window_size=window)[0]

    return by_length(workload, attend)


def sides(window: int | None, unlimited: Any) -> tuple[Any, Any]:
    """FlashAttention's window_size: keys to the left and to the right of a query's own."""
    return (unlimited, unlimited) if window is None else (window - 1, 0)


def _flash3(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    function, window = fa3().flash_attn_func, window_of(workload)
    options = {"causal": window is None, "window_size": sides(window, -1)}
    return by_length(workload, lambda q, k, v: first(function(q, k, v, **options)))


def _flash4(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    from flash_attn.cute import flash_attn_func  # type: ignore[import-not-found]

    window = window_of(workload)
    options = {"causal": window is None, "window_size": sides(window, None)}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *sinks: torch.Tensor) -> torch.Tensor:
        return first(flash_attn_func(q, k, v, **options, **({"learnable_sink": sinks[0]} if sinks else {})))

    return by_length(workload, attend)


def _flash3_decode(workload: DecodeWorkload, inputs: Sequence[torch.Tensor]) -> Solver:
    """On a slice of the live keys, or with each sequence's number of them; it chooses the number of splits itself."""
    function = fa3().flash_attn_with_kvcache
    live = slice(workload.kv_len - workload.live_keys, workload.kv_len)

    def call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *lengths: torch.Tensor) -> torch.Tensor:
        q, k, v = q.transpose(1, 2), k[:, :, live].transpose(1, 2), v[:, :, live].transpose(1, 2)
        counts = {"cache_seqlens": lengths[0]} if lengths else {}
        return first(function(q, k, v, causal=True, **counts)).transpose(1, 2)

    return call


def _zeros_behind(workload: DecodeWorkload, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Where sequences have different lengths: caches with zeros behind them, for it promises nothing of NaN there."""
    if workload.ragged is None:
        return inputs
    q, k, v, *lengths = inputs
    return q, k.nan_to_num(nan=0.0), v.nan_to_num(nan=0.0), *lengths


def _flashinfer(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    """One request: q [length, heads, D]. Its layout HND takes a head count for a length on sm_90 (0.7.2): not used."""
    import flashinfer  # type: ignore[import-not-found]

    window = window_of(workload)
    options = {"causal": True, "kv_layout": "NHD", "window_left": -1 if window is None else window - 1}

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return flashinfer.single_prefill_with_kv_cache(q[0], k[0], v[0], **options)[None]

    return by_length(workload, attend)


def _ffpa(workload: Workload, inputs: Sequence[torch.Tensor]) -> Solver:
    """With its CuTe DSL kernel where it has one, which its published times on Hopper are of."""
    from ffpa_attn import ffpa_attn_func  # type: ignore[import-not-found]

    device, keys = inputs[0].device, slice(0, last_key(workload))
    own = workload.head_dim == 512 and device.type == "cuda" and torch.cuda.get_device_capability(device)[0] == 9
    options = {"is_causal": True, "enable_gqa": workload.group > 1, **({"forward_backend": "cutedsl"} if own else {})}
    return lambda q, k, v: ffpa_attn_func(q, k[:, :, keys], v[:, :, keys], **options)


def first(result: Any) -> torch.Tensor:
    """The output of a call that may return it alone, or in a tuple with the log-sum-exp."""
    return result[0] if isinstance(result, tuple) else result


def fa3() -> Any:
    """FlashAttention-3's module, which must be installed."""
    return importlib.import_module(next(name for name in FA3_PACKAGES if importlib.util.find_spec(name)))


def _fa3_lacks() -> set[str] | None:
    """The features that the installed build lacks, as `LOCAL` and `FP16`; None without FlashAttention-3."""
    name = next((name for name in FA3_PACKAGES if importlib.util.find_spec(name)), None)
    if name is None:
        return None
    flags = importlib.import_module(FA3_PACKAGES[name]).CONFIG["build_flags"]
    return {flag.removeprefix("FLASHATTENTION_DISABLE_") for flag, left_out in flags.items() if left_out}


def not_bottom_right(workload: Workload, device: str) -> str | None:
    """Why these kernels do not support the mask."""
    if workload.mask != bs.causal() and workload.window is None:
        return "it knows causal masks and windows; this mask is another"
    if last_key(workload) > workload.keys:
        return "it places the last query at the last key; here queries stand behind it"
    return None


def not_for_flash(workload: Any) -> str | None:
    """FlashAttention's common limits."""
    if workload.dtype == "float32":
        return "FlashAttention has no float32"
    if workload.head_dim > 256 or workload.head_dim % 8:
        return "FlashAttention takes head sizes up to 256, multiples of 8"
    return None


def _needs_flash2(workload: Workload, device: str) -> str | None:
    return not_bottom_right(workload, device) or not_for_flash(workload) or needs_cuda_backend(workload, device)


def _needs_efficient(workload: Workload, device: str) -> str | None:
    return not_bottom_right(workload, device) or needs_cuda_backend(workload, device)


def _needs_hopper(workload: Any, device: str) -> str | None:
    if needs_cuda(workload, device) or not torch.cuda.is_available():
        return needs_cuda(workload, device)
    major = torch.cuda.get_device_capability(device)[0]
    return None if major == 9 else f"FlashAttention-3 runs on compute capability 9.x alone; this is {major}.x"


def needs_fa3(workload: Any, device: str) -> str | None:
    """Why FlashAttention-3 is not here, or not for this dtype, head size or device."""
    lacks = _fa3_lacks()
    if lacks is None:
        return "FlashAttention-3 is not installed: pip install fa3-fwd (CUDA, compute capability 9.x)"
    if workload.dtype == "float16" and "FP16" in lacks:
        return "the installed FlashAttention-3 was built without float16"
    return not_for_flash(workload) or _needs_hopper(workload, device)


def needs_fa3_windows(window: int | None) -> str | None:
    """Why FlashAttention-3, as it is installed, has no such window; a window of None is none."""
    if window is not None and "LOCAL" in (_fa3_lacks() or ()):
        return "the installed FlashAttention-3 was built without windows (FLASHATTENTION_DISABLE_LOCAL)"
    return None


def _needs_flash3(workload: Workload, device: str) -> str | None:
    reason = not_bottom_right(workload, device) or needs_fa3(workload, device)
    return reason or needs_fa3_windows(window_of(workload))


def _needs_flash3_decode(workload: DecodeWorkload, device: str) -> str | None:
    if workload.q_len > 1 and workload.window is not None:
        return "several queries see different keys of a window, and it is given one slice of keys"
    if workload.ragged is not None and workload.window is not None:
        return "sequences of different lengths see different keys of a window, and it is given one slice of keys"
    return needs_fa3(workload, device)


def needs_fa4_package() -> str | None:
    """Why FlashAttention-4 is not here."""
    package = importlib.util.find_spec("flash_attn")
    if package is None or importlib.util.find_spec("flash_attn.cute") is None:
        return "FlashAttention-4 is not installed: pip install flash-attn-4 (CUDA)"
    return None


def _needs_flash4(workload: Workload, device: str) -> str | None:
    missing = needs_fa4_package() or not_bottom_right(workload, device)
    return missing or not_for_flash(workload) or needs_cuda(workload, device)


def _needs_ffpa(workload: Workload, device: str) -> str | None:
    if importlib.util.find_spec("ffpa_attn") is None:
        return "FFPA is not installed: pip install ffpa-attn (CUDA)"
    if workload.mask != bs.causal() or workload.first_position < 0:
        return "it is called for causal masks here; this mask is another"
    if workload.dtype == "float32" or workload.head_dim <= 256 or workload.q_len < FFPA_QUERIES:
        return f"FFPA leaves float32, head sizes up to 256 and fewer than {FFPA_QUERIES} queries to torch"
    return needs_cuda(workload, device)


def _needs_flashinfer(workload: Workload, device: str) -> str | None:
    if importlib.util.find_spec("flashinfer") is None:
        return "FlashInfer is not installed: pip install flashinfer-python (CUDA, with nvcc and ninja)"
    if workload.batch > 1 or workload.dtype == "float32" or workload.head_dim not in FLASHINFER_HEAD_DIMS:
        return "it takes one request here, in bfloat16 or float16, with a head size of 64, 128, 256 or 512"
    if workload.first_position < 0:
        return "FlashInfer takes no more queries than keys"
    return not_bottom_right(workload, device) or needs_cuda(workload, device)


for _entry in (
    Contender("flash-window", "FlashAttention-2",
              "torch's FlashAttention-2 (aten._flash_attention_forward) with its window",
              _flash2, _needs_flash2),
    Contender("efficient-window", "SDPA efficient, window", "torch's memory-efficient kernel with its own window",
              _efficient, _needs_efficient, prepare=with_heads_repeated),
    Contender("fa3", "FlashAttention-3", "FlashAttention-3 where it is installed, with its window if built with one",
              _flash3, _needs_flash3),
    Contender("fa4", "FlashAttention-4", "FlashAttention-4 (CuTe DSL) where it is installed, with its window",
              _flash4, _needs_flash4, takes=("sinks",)),
    Contender("flashinfer", "FlashInfer", "FlashInfer's single_prefill_with_kv_cache, its own choice of kernel",
              _flashinfer, _needs_flashinfer),
    Contender("ffpa", "FFPA", "FFPA (ffpa-attn), for head sizes above 256, where it is installed", _ffpa, _needs_ffpa),
):  # fmt: skip
    REGISTRY.add(_entry)
for _entry in (
    Contender("fa3", "FlashAttention-3", "FlashAttention-3's flash_attn_with_kvcache on a slice of the live keys",
              _flash3_decode, _needs_flash3_decode, takes=("ragged",), prepare=_zeros_behind),
    Contender("fa4", "FlashAttention-4", "FlashAttention-4 (CuTe DSL) on the keys that there are, with its window",
              _flash4, _needs_flash4),
    Contender("flashinfer-prefill", "FlashInfer, prefill kernel",
              "FlashInfer's single_prefill_with_kv_cache on the keys that there are", _flashinfer, _needs_flashinfer),
):  # fmt: skip
    REGISTRY.add(_entry.of("decode"))
del _entry
