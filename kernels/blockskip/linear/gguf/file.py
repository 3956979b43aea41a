"""A whole GGUF file: its metadata, a list of its tensors, and each of them as torch or `linear` takes it."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..weight import QuantizedWeight
from .blocks import READERS, unpacked
from .header import GGUFTensor, read_header
from .kinds import KINDS

Loaded = torch.Tensor | QuantizedWeight | tuple[QuantizedWeight, ...]


@dataclass(frozen=True, eq=False)
class GGUFFile:
    """An open GGUF file; see `open_gguf`.

    metadata: by key, int, float, bool, str, a list of str, or a NumPy array of numbers or bools.
    tensors: by name, in the file's order: name, shape (N, K) as torch has it, kind, start and nbytes in the file.
    """

    path: Path
    version: int
    metadata: dict[str, Any] = field(repr=False)
    tensors: dict[str, GGUFTensor] = field(repr=False)
    _mapped: np.memmap = field(repr=False)

    def load(self, name: str) -> Loaded:
        """The tensor of that name, in memory of its own on the CPU.

        F16, F32, F64, BF16 and I8 to I64 come as torch tensors; a matrix of a kind that `from_gguf` reads as a
        QuantizedWeight; more dimensions of such a kind, as a mixture's experts have, as a tuple of the matrices in
        their order. Other kinds are listed in `tensors` and refused here (ValueError), as are names that the file does
        not hold.
        """
        tensor = self.tensors.get(name) if isinstance(name, str) else None
        if tensor is None:
            raise ValueError(f"name: given {name!r}; must be one of the {len(self.tensors)} names in .tensors")
        if (dtype := KINDS[tensor.kind].dtype) is not None:
            return torch.from_numpy(np.array(self._bytes(tensor))).view(dtype).view(tensor.shape)
        return self._quantised(tensor)

    def _quantised(self, tensor: GGUFTensor) -> QuantizedWeight | tuple[QuantizedWeight, ...]:
        if tensor.kind not in READERS:
            raise ValueError(
                f"name: tensor {tensor.name!r} is {tensor.kind}, which is not read; allowed are {', '.join(READERS)}"
            )
        if len(tensor.shape) < 2:
            raise ValueError(
                f"name: tensor {tensor.name!r} is {tensor.kind} {list(tensor.shape)}; a quantised one needs [N, K]"
            )
        *_, n, k = tensor.shape
        rows = prod(tensor.shape[:-1])
        whole = unpacked(self._bytes(tensor).reshape(rows, -1), tensor.kind, (rows, k))
        if len(tensor.shape) == 2:
            return whole
        return tuple(whole.rows(first, first + n) for first in range(0, rows, n))

    def _bytes(self, tensor: GGUFTensor) -> np.ndarray:
        """The tensor's part of the mapped file: uint8."""
        return self._mapped[tensor.start : tensor.start + tensor.nbytes]


def open_gguf(path: str | os.PathLike[str]) -> GGUFFile:
    """A GGUF file (version 2 or 3, little-endian) whose tensors are read when they are asked for, by `load`.

    The file is mapped, not read: it must stay as it is while the result is in use. Before anything is read every
    length, count and offset is checked: the counts against the file's size, each tensor's kind and dimensions, that it
    is aligned, inside the file, and overlaps no other. ValueError names the file, the tensor or key, what was found and
    what is allowed. Names, shapes and the order of rows are the file's: llama.cpp's converter permutes the rows of some
    models' q and k. Of a model in several files each is one by itself.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path: given {type(path).__name__}; a str or os.PathLike is needed")
    path = Path(path)
    if path.stat().st_size == 0:
        raise ValueError(f"path: {path}: is empty; a GGUF file is needed")
    mapped = np.memmap(path, np.uint8, "r")
    try:
        header = read_header(mapped.data)
    except ValueError as error:
        raise ValueError(f"path: {path}: {error}") from error
    return GGUFFile(path, header.version, header.metadata, header.tensors, mapped)
