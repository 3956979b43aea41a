"""Block-skip attention and quantised linear kernels. Importing needs torch and numpy alone."""

from .attention.api import attention, explain, scaled_dot_product_attention
from .attention.caches import quantize_kv
from .attention.decode.api import decode, explain_decode
from .attention.varlen.api import attention_varlen, explain_varlen
from .config import TileConfig
from .linear.activations import RoundedActivations
from .linear.api import explain_linear, linear, round_activations
from .linear.gguf.blocks import from_gguf
from .linear.gguf.file import GGUFFile, GGUFTensor, open_gguf
from .linear.module import QuantizedLinear
from .linear.quantize import quantize
from .linear.swap import quantize_
from .linear.torchao import from_torchao
from .linear.weight import QuantizedWeight
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
    "GGUFFile",
    "GGUFTensor",
    "Mask",
    "QuantizedLinear",
    "QuantizedWeight",
    "RoundedActivations",
    "TileConfig",
    "TileMap",
    "Work",
    "__version__",
    "attention",
    "attention_varlen",
    "attention_work",
    "band",
    "causal",
    "chunked",
    "decode",
    "dense",
    "dilated",
    "document",
    "explain",
    "explain_decode",
    "explain_linear",
    "explain_varlen",
    "from_gguf",
    "from_torchao",
    "linear",
    "mask_mod",
    "open_gguf",
    "prefix_lm",
    "quantize",
    "quantize_",
    "quantize_kv",
    "round_activations",
    "scaled_dot_product_attention",
    "sink",
    "sliding_window",
]
