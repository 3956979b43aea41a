"""Block-skip attention kernels: masks, tile maps, attention. Importing needs torch and numpy alone."""

from .attention.api import attention, explain, scaled_dot_product_attention
from .config import TileConfig
from .mask import (
    Band,
    Mask,
    band,
    causal,
    chunked,
    dense,
    dilated,
    document,
    mask_mod,
    prefix_lm,
    sink,
    sliding_window,
)
from .tilemap import TileMap
from .work import Work, attention_work

__version__ = "0.1.0"

__all__ = [
    "Band",
    "Mask",
    "TileConfig",
    "TileMap",
    "Work",
    "__version__",
    "attention",
    "attention_work",
    "band",
    "causal",
    "chunked",
    "dense",
    "dilated",
    "document",
    "explain",
    "mask_mod",
    "prefix_lm",
    "scaled_dot_product_attention",
    "sink",
    "sliding_window",
]
