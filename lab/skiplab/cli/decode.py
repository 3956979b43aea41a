"""The command `skiplab decode`."""

from __future__ import annotations

from typing import Annotated

import typer
from blockskip.attention.decode.plan import MOST_QUERIES

from skiplab.cli import options
from skiplab.cli.sweep import HEADS, heads_of, measure, windows_of
from skiplab.sweep import DecodeSweep, interleaved


def decode(
    contender: options.Contenders = None,
    kernels: options.From = None,
    kv_len: Annotated[
        options.Texts, options.several(help="Keys in the cache, as 256,4096", default="256 to 16384")
    ] = None,
    window: options.Windows = None,
    q_len: Annotated[int, typer.Option(help=f"New tokens in one step, 1 to {MOST_QUERIES}.")] = 1,
    buffer: Annotated[int | None, typer.Option(help="Slots of the cache. Default: as many as keys.")] = None,
    model: options.Model = None,
    batch: options.Batch = 1,
    q_heads: options.QueryHeads = HEADS["q_heads"],
    kv_heads: options.KeyHeads = HEADS["kv_heads"],
    head_dim: options.HeadDim = HEADS["head_dim"],
    dtype: options.Dtype = "bfloat16",
    kv_dtype: options.KeyDtypes = None,
    ragged: options.Ragged = None,
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
    """Measure decode steps over keys and windows. Prints the table, writes the run and one HTML.

    As `skiplab sweep`, for 1 to 128 new tokens over a cache.

    \b
    Examples, the second of a cache in 8 bits beside one in 16, with its error
    in decibel, the third of a batch whose lengths differ:
      skiplab decode --kv-len 4096,16384 --window 1024
      skiplab decode --kv-dtype bfloat16,float8_e4m3fn
      skiplab decode --batch 16 --ragged 0.25 --contender blockskip,flex
    """
    where = options.where(device, devices, cluster, gpu)
    defaults = DecodeSweep()
    wanted = DecodeSweep(
        options.words("--contender", contender) or defaults.contenders,
        options.numbers("--kv-len", kv_len) or defaults.kv_len, windows_of(window) or defaults.window,
        q_len, batch, dtype=dtype, buffer=buffer, device=where.device, seed=seed,
        budget_s=budget, interleave=interleaved(interleave, where.device),
        kv_dtype=options.words("--kv-dtype", kv_dtype) or None, ragged=ragged,
        **heads_of(model, q_heads, kv_heads, head_dim),
    )  # fmt: skip
    measure(wanted, where, run, report, table, again, fresh)


COMMAND = decode
