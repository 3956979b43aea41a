"""Which tiles may be good on a GPU, without one: by arithmetic, then by what they compile to, many at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from itertools import product

import torch
from blockskip.config import WARP_SPECIALIZED_ROWS, can_specialize_warps, power_of_two
from blockskip.gpu import shared_bytes

from skiplab.measure.child import POLL_S
from skiplab.measure.serving import bars_of_one_process, begin_child
from skiplab.measure.timing import Cancelled
from skiplab.workload import Workload

NUMBERS = range(32, 201)
"""Float32 accumulators and scores a thread may hold: fewer leave it idle, more leave no registers for the rest."""
COMPILE_S = 120.0
"""Seconds that compiling one kernel may take."""

Config = tuple[int, ...]
"""(block_m, block_n, num_warps, num_stages)."""


def candidates(
    capability: tuple[int, int], head_dim: int, dtype: torch.dtype, length: str, only: Iterable[Config] | None = None
) -> list[Config]:
    """Configurations that may be good on such a GPU, by arithmetic: registers, shared memory, product instructions.

    length: the class of the calls; only `short` ones, for which there are programs to be won, take tiles below what a
    warp group's product needs (64 rows on sm_90). only: of these alone, whatever the arithmetic says.
    """
    if only is not None:
        return list(only)
    block_d, element_bytes = max(16, power_of_two(head_dim)), dtype.itemsize
    warp_groups = (9, 0) <= capability < (12, 0) and element_bytes == 2
    sizes = product((16, 32, 64, 128, 256), (16, 32, 64, 128), (4, 8, 12, 16), (1, 2, 3, 4))
    own = can_specialize_warps(capability, head_dim, dtype)

    def good(block_m: int, block_n: int, num_warps: int, num_stages: int) -> bool:
        specialised = num_warps == 12  # two groups of four, and one that copies ahead: two stages at least
        if specialised and not (own and block_m == WARP_SPECIALIZED_ROWS and block_n >= 64 and num_stages >= 2):
            return False
        numbers = block_m * (block_d + block_n) / (32 * (8 if specialised else num_warps))
        # q once; in one stage values take the keys' place; products outside warp groups take a stage from registers
        stages = num_stages if warp_groups else max(1, num_stages - 1)
        keys = block_n if num_stages == 1 else 2 * stages * block_n
        shared = (block_m + keys) * block_d * element_bytes
        # products of 16 columns leave tensor cores half idle; beside 512 columns of the other product that counts less
        wide = block_n > 16 or element_bytes == 4 or block_d >= 512
        narrow = block_n <= 64 or warp_groups
        tall = block_m >= 64 or length == "short" or not warp_groups
        fits = NUMBERS.start <= numbers < NUMBERS.stop and shared <= shared_bytes(capability)
        return fits and wide and narrow and tall

    return [size for size in sizes if good(*size)]


@dataclass(frozen=True)
class Job:
    """A kernel to compile for a GPU that need not be there."""

    capability: tuple[int, int]
    workload: Workload
    config: Config


@dataclass(frozen=True)
class Compiled:
    """What became of a job: registers and spilled bytes a thread, bytes of shared memory; `problem` '' where it was."""

    registers: int = 0
    spill_bytes: int = 0
    shared_bytes: int = 0
    problem: str = ""

    def refusal(self, capability: tuple[int, int], spills: int) -> str:
        """Why it is not worth a time; '' where it is."""
        if self.shared_bytes > shared_bytes(capability):
            return "too much shared memory"
        return self.problem or ("spills" if self.spill_bytes > spills else "")


def compile_job(job: Job) -> Compiled:
    """Compile it, which leaves it in Triton's cache on disk: on the GPU it then loads at once."""
    from skiplab.anatomy import attention_anatomy

    w = job.workload
    try:
        one = attention_anatomy(
            job.capability, head_dim=w.head_dim, dtype=w.torch_dtype, mask=w.mask, q_heads=w.q_heads,
            kv_heads=w.kv_heads, length=w.q_len, config=job.config,
        )  # fmt: skip
    except Exception as error:  # a compiler may raise anything; the candidate is left out, and why is said
        return Compiled(problem=f"does not compile ({type(error).__name__})")
    return Compiled(one.registers, one.spill_bytes, one.shared_bytes)


def compile_all(
    jobs: Sequence[Job],
    workers: int,
    cancelled: Callable[[], bool] = lambda: False,
    progress: bool = True,
) -> dict[Job, Compiled]:
    """Compile all jobs in that many processes; a compiler that crashes or takes minutes costs one candidate.

    Raises Cancelled when asked to stop, which is asked several times a second.
    """
    from multiprocessing import get_context

    from pebble import ProcessPool
    from tqdm.auto import tqdm

    bars_of_one_process()

    pool = ProcessPool(workers, initializer=begin_child, initargs=(os.getpid(),), context=get_context("spawn"))
    try:
        futures = {job: pool.schedule(compile_job, args=(job,), timeout=COMPILE_S) for job in jobs}
        found = {}
        for job, future in tqdm(futures.items(), unit="kernel", desc="compiled", disable=not progress):
            while not future.done():
                if cancelled():
                    raise Cancelled
                wait([future], POLL_S)
            error = future.exception()
            found[job] = future.result() if error is None else Compiled(problem=f"died ({type(error).__name__})")
        return found
    finally:
        pool.stop()
        pool.join()
