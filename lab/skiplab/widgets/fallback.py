"""A picture and a line of text beside a live widget, for readers of a notebook without widgets."""

from __future__ import annotations

from typing import Any


def with_picture(bundle: Any, picture: bytes, text: str) -> Any:
    """A widget's mime bundle (or its pair with metadata) with a PNG and words added."""
    data, *metadata = bundle if isinstance(bundle, tuple) else (bundle,)
    data = {**(data or {}), "image/png": picture, "text/plain": text}
    return (data, *metadata) if metadata else data
