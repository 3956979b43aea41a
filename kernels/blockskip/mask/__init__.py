"""Masks: which keys a query may see.

`base` holds the algebra, `kinds` what each kind keeps, `build` the public constructors.
"""

from .base import And, Mask, Not, Or, bound
from .build import (
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
from .kinds import Band, Chunked, Dense, Dilated, Document, MaskMod, PrefixLM, Sink

__all__ = [
    "And",
    "Band",
    "Chunked",
    "Dense",
    "Dilated",
    "Document",
    "Mask",
    "MaskMod",
    "Not",
    "Or",
    "PrefixLM",
    "Sink",
    "band",
    "bound",
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
