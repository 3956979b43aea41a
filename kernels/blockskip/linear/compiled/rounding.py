"""Activations to int8 as the product takes them, in numba: the codes of `activations.round_to_int8`, bit for bit.

A row of K activations is K * 13 / 8 bytes: the two planes of codes, int8 [2, K / 2]; the step of each block, float32
[K / 32]; and for each block what its four lanes make of its codes: float32 [K / 32, 4], sums of eight.
"""

# pyright: reportCallIssue=false, reportPrivateImportUsage=false
# numba gives an intrinsic its first argument.

from __future__ import annotations

import numpy as np
from numba import carray

from . import blocks, vectors

ROUNDING = np.dtype([(name, np.int64) for name in ("x", "steps", "rows", "inputs", "to", "to_stride")])
"""What the rounding is given: addresses, sizes, and bytes from row to row. steps: of int8 x, else unused."""


def make_rounding(KIND, BITS, SOURCES):
    """f(pointer to ROUNDING) of constants alone, to be compiled. KIND: of x, dense [rows, K], by torch's name.

    BITS: of the weight, in whose order codes lie. SOURCES: what numba's cache knows it by.
    """
    SIZE = {"float32": 4, "int8": 1}.get(KIND, 2)
    GIVEN = KIND == "int8"

    def rounding(given):
        _, at = SOURCES, carray(given, 1)[0]
        plane, count = at.inputs // 2, at.inputs // 32
        for index in range(at.rows * count):
            row, block = index // count, index % count
            to = at.to + row * at.to_stride
            if GIVEN:
                step, codes = blocks.float_at(at.steps + 4 * index), blocks.given_codes(at.x + 32 * index)
            else:
                values = blocks.load_block(at.x + 32 * SIZE * index, KIND)
                step = blocks.largest(values) / np.float32(127)
                codes = blocks.codes_of(values, step) if 0 < step < np.inf else blocks.no_codes()
            blocks.store_planes(codes, BITS, to + 16 * block, to + plane + 16 * block)
            vectors.store_float(to + 2 * plane + 4 * block, step)
            blocks.store_lane_sums(codes, BITS, to + 2 * plane + plane // 4 + 16 * block)

    return rounding
