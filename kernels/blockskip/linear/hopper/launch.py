"""From a plan to the launches of the product of a weight in tiles. Imports triton."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

from ...launching.dispatch import Launch, TmaTensor
from ...launching.ready import Ready, Step
from ...launching.repeated import ALIGNMENT
from ...launching.view import overlaps
from ..packing import TILE_COLUMNS, TILE_ROWS
from .constants import ProductConstants
from .kernel import product
from .plan import HopperConfig, tiles_of
from .share import TAGGED_ROWS, THREADS
from .unpack import SUMMED_ROWS


def ready_product(group_size: int, config: HopperConfig, inputs: Sequence, results: list) -> Ready:
    """The launch that makes [x w^T + bias] of inputs (x [M, K], bias, w's codes as int32, *Metadata), w in tiles."""
    x, _, words, *_ = inputs
    memory = _memory(x, words.numel() * 8 // x.shape[1], config)
    return Ready(inputs, memory, partial(_steps, config, group_size), results=results)


def readable(x: torch.Tensor) -> torch.Tensor:
    """Activations [M, K] as the kernel reads them: dense, and where the copy engine can begin."""
    return aligned(x.reshape(-1, x.shape[-1]).contiguous())


def aligned(t: torch.Tensor) -> torch.Tensor:
    """The tensor where the copy engine can begin."""
    return t if t.data_ptr() % ALIGNMENT == 0 else t.clone()


REGISTERS = {2: 240, 3: 152}
"""Registers a thread, but for those of the first warp group, which has what is left; by row_groups."""


def _memory(x: torch.Tensor, out_features: int, config: HopperConfig) -> list:
    """Of the result, and of the shares of tiles where there are any."""
    out = (x.shape[0], out_features), x.dtype
    if not _has_shares(x.shape[0], out_features, config):
        return [out, None, None]
    tagged = config.block_m <= TAGGED_ROWS.value
    sums = (config.programs, config.block_n, config.block_m * (2 if tagged else 1)), torch.float32
    return [out, sums, None if tagged else ((config.programs, config.row_groups, THREADS.value), torch.int64)]


def _has_shares(rows: int, out_features: int, config: HopperConfig) -> bool:
    """Whether some tile's steps are shared by several programs."""
    return tiles_of(config, rows, out_features) % config.programs != 0


def _steps(config: HopperConfig, group_size: int, inputs, made) -> Iterator[Step]:
    x, bias, data, scale, _, zero, _ = inputs
    out, sums, flags = made
    options = {"num_warps": 4} | ({"launch_pdl": True} if overlaps(x.device) else {})
    yield Step(product, prepare_product(x, data, scale, zero, bias, out, (sums, flags), config, group_size), options)


def prepare_product(x, data, scale, zero, bias, out, shares, config: HopperConfig, group_size: int) -> Launch:
    """The launch of the product, by four warps a group; data: int32, eight codes each."""
    size = x.element_size()
    groups = TILE_COLUMNS // group_size
    columns = config.block_k // 8
    metadata = (TmaTensor.lines(t, TILE_ROWS, (groups, TILE_ROWS), 0) if t is not None else None for t in (scale, zero))
    results = TmaTensor.lines(out, out.shape[1], (config.block_m, TILE_ROWS), 128)
    arguments = (
        TmaTensor.lines(x, x.shape[1], (config.block_m, config.block_k), min(128, config.block_k * size)),
        TmaTensor.lines(data, TILE_COLUMNS // 8, (TILE_ROWS, columns), min(128, columns * 4)),
        *metadata,
        bias,
        out if config.block_m <= SUMMED_ROWS.value else results,
        *shares,
        *out.shape,
    )
    constants = ProductConstants(
        STEPS=x.shape[1] // config.block_k,
        BLOCK_M=config.block_m,
        BLOCK_K=config.block_k,
        GROUP=group_size,
        STAGES=config.stages,
        ROW_GROUPS=config.row_groups,
        SYMMETRIC=zero is None,
        BLOCKS=out.shape[0] > config.block_m,
        REGISTERS=REGISTERS[config.row_groups],
    )
    return Launch(arguments, {"CONSTANTS": constants}, (config.programs,))
