"""From a plan to the launches of the product of a weight in tiles. Imports triton."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from ...launching.dispatch import Launch, TmaTensor
from ...launching.ready import Ready, Step
from ...launching.repeated import ALIGNMENT
from ...launching.view import overlaps
from ..packing import TILE_COLUMNS, TILE_ROWS
from ..weight import QuantizedWeight
from .combine import COLUMNS, combine
from .kernel import product
from .plan import HopperConfig

MOST_COMBINED_ROWS = 16
"""Rows of activations that one program of `combine` adds up."""


def ready_product(x, w: QuantizedWeight, bias: torch.Tensor | None, config: HopperConfig) -> Callable:
    """f(x, w, bias) -> x w^T + bias, for tensors of the same kinds as these; w in tiles, x [M, K]."""
    return partial(_product, Ready(_inputs(x, w, bias), _memory(x, w, config), partial(_steps, config, w.group_size)))


def _product(ready: Ready, x, w: QuantizedWeight, bias) -> torch.Tensor:
    return ready(*_inputs(x, w, bias))[0]


def _inputs(x, w: QuantizedWeight, bias) -> tuple[torch.Tensor | None, ...]:
    return tuple(None if t is None else _readable(t) for t in (x, bias, w.data, w.scale, w.zero))


def _readable(t: torch.Tensor) -> torch.Tensor:
    """The tensor dense, and where the copy engine can begin."""
    t = t.contiguous()
    return t if t.data_ptr() % ALIGNMENT == 0 else t.clone()


def _memory(x, w: QuantizedWeight, config: HopperConfig) -> list:
    """Of the result, and of the shares of tiles where there are any."""
    blocks = cdiv(x.shape[0], config.block_m)
    shares = (blocks, config.programs, 2, config.block_n, config.block_m), torch.float32
    return [((x.shape[0], w.shape[0]), x.dtype), shares if _has_shares(w.shape[0], config) else None]


def _has_shares(out_features: int, config: HopperConfig) -> bool:
    """Whether some tile's steps are shared by several programs."""
    return config.k_groups == 1 and cdiv(out_features, config.block_n) % config.programs != 0


def _steps(config: HopperConfig, group_size: int, inputs, made) -> Iterator[Step]:
    x, bias, data, scale, zero = inputs
    out, shares = made
    overlap = overlaps(x.device)
    options = {"num_warps": 4} | ({"launch_pdl": True} if overlap else {})
    yield Step(product, prepare_product(x, data, scale, zero, bias, out, shares, config, group_size), options)
    if shares is not None:
        yield Step(combine, prepare_combine(x.shape[1], bias, out, shares, config, overlap), options)


def prepare_product(x, data, scale, zero, bias, out, shares, config: HopperConfig, group_size: int) -> Launch:
    """The launch of the product, by four warps a group."""
    size = x.element_size()
    groups = TILE_COLUMNS // group_size
    columns = config.block_k // 8
    metadata = (TmaTensor(t, TILE_ROWS, (groups, TILE_ROWS), 0) if t is not None else None for t in (scale, zero))
    arguments = (
        TmaTensor(x, x.shape[1], (config.block_m, config.block_k), min(128, config.block_k * size)),
        TmaTensor(data.view(torch.int32), TILE_COLUMNS // 8, (TILE_ROWS, columns), min(128, columns * 4)),
        *metadata,
        bias,
        out,
        shares,
        *out.shape,
    )
    constants = {
        "STEPS": x.shape[1] // config.block_k,
        "BLOCK_M": config.block_m,
        "BLOCK_K": config.block_k,
        "GROUP": group_size,
        "STAGES": config.stages,
        "ROW_GROUPS": config.row_groups,
        "K_GROUPS": config.k_groups,
    }
    return Launch(arguments, constants, (cdiv(out.shape[0], config.block_m), config.programs))


def prepare_combine(in_features: int, bias, out, shares, config: HopperConfig, overlap: bool) -> Launch:
    """The launch that adds up what several programs did of a tile; with `overlap` it goes with `launch_pdl`."""
    rows = min(MOST_COMBINED_ROWS, config.block_m)
    constants = {
        "STEPS": in_features // config.block_k,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
        "ROWS": rows,
        "OVERLAP": overlap,
    }
    parts = cdiv(out.shape[1], config.block_n) * (config.block_n // COLUMNS.value)
    grid = (parts, config.block_m // rows, cdiv(out.shape[0], config.block_m))
    return Launch((shares, bias, out, *out.shape, config.programs), constants, grid)


def cdiv(a: int, b: int) -> int:
    return -(-a // b)
