"""The anatomy of kernels: what the compiler made of them, for any compute capability, without a GPU.

    from skiplab.anatomy import kernel_anatomy
    print(kernel_anatomy(my_kernel, "*bf16", "*bf16", "i32", arch="sm_90", BLOCK=128, num_warps=4).told())

Triton compiles for any NVIDIA architecture, and its wheel brings the tools that read the result (tools.py, elf.py).
compiled.py: Anatomy; sass.py: machine code, its loops and the lines they came from; occupancy.py: what a multiprocessor
holds; launches.py: any kernel, by its arguments or by a call that launches it; pretended.py: a GPU for such a call,
where there is none; named.py: a contender's kernels; and a file for each operation whose kernels are ours. `skiplab
anatomy NAME` is the same on the command line.
"""

from skiplab.anatomy.attention import attention_anatomy
from skiplab.anatomy.compiled import Anatomy, disassemble, read
from skiplab.anatomy.decode import decode_anatomy
from skiplab.anatomy.launches import (
    anatomy_table,
    kernel_anatomies,
    kernel_anatomy,
    launched_anatomies,
    prepared_anatomy,
)
from skiplab.anatomy.linear import linear_anatomy
from skiplab.anatomy.named import contender_anatomies
from skiplab.anatomy.pretended import pretended_gpu
from skiplab.anatomy.target import compiling_for
from skiplab.machine.capability import capability_of

__all__ = [
    "Anatomy", "anatomy_table", "attention_anatomy", "capability_of", "compiling_for", "contender_anatomies",
    "decode_anatomy", "disassemble", "kernel_anatomies", "kernel_anatomy", "launched_anatomies", "linear_anatomy",
    "prepared_anatomy", "pretended_gpu", "read",
]  # fmt: skip
