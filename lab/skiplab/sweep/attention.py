"""The sweep of a prompt's attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import blockskip as bs
from blockskip.arguments import integer

from skiplab.store import Run
from skiplab.sweep.grid import AnySweep, interleaved
from skiplab.sweep.running import own_device, run_sweep
from skiplab.workload import Workload
from skiplab.workload.packed import lengths_of, packed_mask

DEFAULT_CONTENDERS = ("blockskip", "sdpa", "sdpa-causal", "flex")


@dataclass(frozen=True)
class Sweep(AnySweep):
    """Prefill: every prompt length x every window or mask x every contender, for one head shape, dtype and device.

    A window of None is plain causal. mask: texts that `Mask.from_spec` reads, instead of windows; None: the windows.
    buffer: slots of a cache at whose start each prompt is, with later slots masked off; None for as many as tokens.
    lengths: of prompts that are packed behind each other, instead of q_len: each entry is those of one workload.
    interleave: whether the samples of a workload's contenders are taken in turn; None, as in older files: no.
    kv_dtype: those of keys and values, an axis; None for `dtype`. sinks: whether each query head has one.
    TypeError or ValueError names the field, what was given and what is allowed.
    """

    contenders: tuple[str, ...] = DEFAULT_CONTENDERS
    q_len: tuple[int, ...] | None = (512, 1024, 2048, 4096)
    window: tuple[int | None, ...] | None = (256, 512, 1024, None)
    batch: int = 1
    q_heads: int = 8
    kv_heads: int = 8
    head_dim: int = 128
    dtype: str = "bfloat16"
    buffer: int | None = None
    device: str = "cpu"
    seed: int = 0
    budget_s: float = 5.0
    mask: tuple[str, ...] | None = None
    lengths: tuple[tuple[int, ...], ...] | None = None
    interleave: bool | None = None
    kv_dtype: tuple[str, ...] | None = None
    sinks: bool = False
    operation: ClassVar[str] = "attention"
    verb: ClassVar[str] = "sweep"

    def __post_init__(self) -> None:
        self._check_axis("mask")
        self._check_axis("lengths")
        self._check_axis("kv_dtype")
        if (self.q_len is None) == (self.lengths is None):
            words = f"got {self.lengths!r} with the prompt lengths {self.q_len!r}"
            raise ValueError(f"lengths: {words}; a sweep runs over prompts or over packed ones: one must be None")
        if self.lengths is not None:
            self._check_packed(self.lengths)
        if self.buffer is not None:
            integer("buffer", self.buffer, 1)
        super().__post_init__()
        if (self.window is None) == (self.mask is None):
            words = f"got {self.window!r} with the mask {self.mask!r}"
            raise ValueError(f"window: {words}; a sweep runs over windows or over masks: one of the two must be None")
        if self.buffer is not None and self.mask is not None:
            raise ValueError(f"buffer: got {self.buffer} with the mask {self.mask!r}; it goes with windows alone")
        if self.buffer is not None and self.q_len is not None and self.buffer < max(self.q_len):
            raise ValueError(f"buffer: got {self.buffer}; allowed is at least the longest prompt, {max(self.q_len)}")

    def _check_packed(self, lengths: tuple[tuple[int, ...], ...]) -> None:
        for one in lengths:
            if not isinstance(one, tuple) or not one:
                raise TypeError(f"lengths: given {one!r}; a tuple of prompts' lengths is needed for each workload")
            for length in one:
                integer("lengths", length, 1)
        if self.batch != 1 or self.buffer is not None or self.mask is not None:
            words = f"got batch {self.batch}, buffer {self.buffer} and mask {self.mask!r}"
            raise ValueError(f"lengths: {words} with packed prompts; they are one batch, without buffer, under windows")

    def workloads(self) -> list[Workload]:
        prompts = self.q_len if self.lengths is None else self.lengths
        axes = product(prompts or (), self.mask or self.window or (), self.kv_dtype or (None,))
        return [self.workload(*one) for one in axes]

    def workload(self, q_len: int | tuple[int, ...], window: int | str | None, kv_dtype: str | None = None) -> Workload:
        """The sweep's workload at one prompt length, or those of packed prompts, and a window or a mask's text."""
        if isinstance(window, str):
            mask = bs.Mask.from_spec(window)
        else:
            mask = bs.causal() if window is None else bs.sliding_window(window)
        if isinstance(q_len, tuple):
            mask, q_len = packed_mask(q_len, mask), sum(q_len)
        start = None if self.buffer is None else 0
        return Workload(
            q_len, self.buffer, mask, self.batch, self.q_heads, self.kv_heads, self.head_dim, self.dtype, start,
            kv_dtype, self.sinks,
        )  # fmt: skip


def sweep(
    contenders: Sequence[str] = DEFAULT_CONTENDERS,
    *,
    q_len: Iterable[int] | None = None,
    window: Iterable[int | None] | None = None,
    mask: Iterable[bs.Mask | str] | bs.Mask | str | None = None,
    lengths: Iterable[str | Iterable[int]] | None = None,
    device: str | None = None,
    devices: Sequence[str] = (),
    cluster: str | None = None,
    gpu: str | None = None,
    path: Path | str | None = None,
    isolate: bool = True,
    progress: bool = True,
    interleave: bool | None = None,
    **shape: Any,
) -> Run:
    """Measure contenders over prompt lengths and windows, or masks; `run.plot()` draws it, `run.frame()` is the table.

    path: the run file; None: one in `skiplab.paths.runs_directory()`, named by date, device and parameters. A run that
    was interrupted goes on; beside a finished one it is measured again, into `<name>-2`. What is done is printed.
    devices: several of this machine, as ("cuda:0", "cuda:1"), in the place of `device`. cluster: a Ray cluster, `auto`
    or ray://host:10001; gpu: which of its GPUs, by a part of their name. All as in `run_sweep`.
    interleave: whether the samples of a workload's contenders are taken in turn, so that all see the same clocks; None:
    on a GPU.
    window: None for those of `Sweep`, if no mask is given. mask: by text, or a Mask that has a text (one made of
    tensors or of a function has none: ValueError). lengths: of packed prompts, for each workload as numbers or as text,
    such as "64-4096:16384" (see `workload.packed.lengths_of`), in the place of q_len. shape: batch, q_heads, kv_heads,
    head_dim, dtype, kv_dtype, sinks, buffer, seed, budget_s, as in `Sweep`.
    """
    masks = [mask] if isinstance(mask, str | bs.Mask) else mask
    texts = None if masks is None else tuple(map(mask_text, masks))
    windows = Sweep.window if window is None and texts is None else window
    packed = (
        None
        if lengths is None
        else tuple(lengths_of(one, shape.get("seed", 0)) if isinstance(one, str) else tuple(one) for one in lengths)
    )
    prompts = Sweep.q_len if q_len is None and packed is None else q_len
    device = own_device(device, devices, cluster)
    wanted = Sweep(
        tuple(contenders), None if prompts is None else tuple(prompts), None if windows is None else tuple(windows),
        mask=texts, lengths=packed, device=device, interleave=interleaved(interleave, device), **shape,
    )  # fmt: skip
    return run_sweep(
        wanted, path, isolate=isolate, progress=progress, anew=True, devices=devices, cluster=cluster, gpu=gpu
    )


def mask_text(mask: bs.Mask | str) -> str:
    """The complete text of a mask; ValueError for text that is no mask, and for masks that text cannot express."""
    if not isinstance(mask, str | bs.Mask):
        raise ValueError(f"mask: got {mask!r}; allowed are blockskip's masks, and their texts")
    try:
        spec = bs.Mask.from_spec(mask).spec() if isinstance(mask, str) else mask.spec()
    except ValueError as error:
        raise ValueError(f"mask: got {mask!r}: {error}") from None
    if not isinstance(spec, str):
        raise ValueError(f"mask: got {spec[0]!r}, which holds tensors; a run file can only hold masks that are text")
    return spec


SWEEP = Sweep
