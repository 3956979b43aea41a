"""A packed weight as numba's code finds it: where its rows lie, and which of them a thread does."""

# pyright: reportCallIssue=false
# njit's types are without two of its options.

from __future__ import annotations

import numpy as np
from numba import njit, types

WEIGHT = np.dtype(
    [
        (name, np.int64)
        for name in (
            "data", "scale", "scale_step", "shift", "shift_step",
            "data_stride", "scale_stride", "scale_step_stride", "shift_stride", "shift_step_stride",
            "outputs", "inputs", "x", "x_stride", "rows", "out", "out_stride",
        )
    ]
)  # fmt: skip
"""What the code is given: addresses, bytes from row to row, and sizes. x, rows: of activations, where there are any."""

inlined = njit(forceinline=True, no_cpython_wrapper=True, no_cfunc_wrapper=True, error_model="numpy")
thread_number, thread_count = (
    types.ExternalFunction(name, types.int32()) for name in ("omp_get_thread_num", "omp_get_num_threads")
)


@inlined
def share_of_team(outputs):
    """Which of the weight's rows this thread does, of a team that may be smaller than was asked for."""
    share = (outputs - 1) // thread_count() + 1
    first = thread_number() * share
    return first, min(outputs, first + share)
