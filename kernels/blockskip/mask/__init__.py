"""Masks: which keys a query may see.

`base` holds the algebra, `kinds` and `contents` what each kind keeps, `build` the public constructors, `kept` what is
made of masks and stays for later calls.
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
    mask_of,
    prefix_lm,
    sink,
    sliding_window,
)
from .contents import Dense, MaskMod
from .kept import SHARED, kept_by_mask
from .kinds import Band, Chunked, Dilated, Document, PrefixLM, Sink

__all__ = [
    "SHARED",
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
    "kept_by_mask",
    "mask_mod",
    "mask_of",
    "prefix_lm",
    "sink",
    "sliding_window",
]
