"""Block-skip attention kernels: masks, tile maps, attention. Importing needs torch and numpy alone."""

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
    "TileMap",
    "Work",
    "__version__",
    "attention_work",
    "band",
    "causal",
    "chunked",
    "dense",
    "dilated",
    "document",
    "mask_mod",
    "prefix_lm",
    "sink",
    "sliding_window",
]
