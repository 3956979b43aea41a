"""The command `skiplab sweep`."""

from __future__ import annotations

from typing import Annotated

from skiplab.cli import options
from skiplab.cli.sweep import HEADS, heads_of, measure, windows_of
from skiplab.sweep import Sweep, interleaved, mask_text
from skiplab.workload.packed import lengths_of


def sweep(
    contender: options.Contenders = None,
    kernels: options.From = None,
    q_len: Annotated[options.Texts, options.several(help="Prompt lengths, as 512,1024", default="512 to 4096")] = None,
    window: options.Windows = None,
    mask: options.Masks = None,
    lengths: options.PackedLengths = None,
    buffer: options.PromptBuffer = None,
    model: options.Model = None,
    batch: options.Batch = 1,
    q_heads: options.QueryHeads = HEADS["q_heads"],
    kv_heads: options.KeyHeads = HEADS["kv_heads"],
    head_dim: options.HeadDim = HEADS["head_dim"],
    dtype: options.Dtype = "bfloat16",
    kv_dtype: options.KeyDtypes = None,
    sinks: options.Sinks = False,
    device: options.DeviceOption = None,
    devices: options.Devices = None,
    cluster: options.Cluster = None,
    gpu: options.Gpu = None,
    seed: options.Seed = 0,
    budget: options.Budget = 5.0,
    interleave: options.Interleave = None,
    run: options.NewRun = None,
    report: options.Html = None,
    table: options.Tables = None,
    again: options.Again = None,
    fresh: options.Fresh = False,
) -> None:
    """Measure prefill over prompt lengths and windows or masks. Prints the table, writes the run and one HTML.

    Every result is compared with attention in float64 before and after it is timed. Interrupt it with Ctrl-C and give
    the same command again: it goes on.

    \b
    Examples, the second of packed prompts:
      skiplab sweep --q-len 512,1024 --window 256,causal
      skiplab sweep --lengths 512*32,64-4096:16384 \\
        --contender blockskip-varlen,flash-varlen,flex
    """
    where = options.where(device, devices, cluster, gpu)
    defaults = Sweep()
    masks = tuple(map(mask_text, options.words("--mask", mask))) or None
    packed = tuple(lengths_of(text, seed) for text in options.words("--lengths", lengths)) or None
    wanted = Sweep(
        options.words("--contender", contender) or defaults.contenders,
        options.numbers("--q-len", q_len) or (None if packed else defaults.q_len),
        windows_of(window) or (None if masks else defaults.window), batch, dtype=dtype, buffer=buffer, mask=masks,
        lengths=packed, device=where.device, seed=seed, budget_s=budget,
        interleave=interleaved(interleave, where.device), kv_dtype=options.words("--kv-dtype", kv_dtype) or None,
        sinks=sinks, **heads_of(model, q_heads, kv_heads, head_dim),
    )  # fmt: skip
    measure(wanted, where, run, report, table, again, fresh)


COMMAND = sweep
