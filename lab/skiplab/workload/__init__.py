"""Workloads: problems to solve, by shapes, dtype and mask. Contenders solve them; measurements say how fast.

Four operations, a file each: attention of a prompt (`Workload`), of a few new tokens over a cache (`DecodeWorkload`), a
quantised linear layer (`LinearWorkload`), and a whole model (`ModelWorkload`).
"""

from skiplab.workload.attention import Workload
from skiplab.workload.decode import DecodeWorkload
from skiplab.workload.linear import LinearWorkload
from skiplab.workload.model import ModelWorkload
from skiplab.workload.models import LINEARS, MODELS, HeadShape, ModelShapes, model_files, model_of
from skiplab.workload.problem import DTYPES, Problem

__all__ = [
    "DTYPES", "LINEARS", "MODELS", "DecodeWorkload", "HeadShape", "LinearWorkload", "ModelShapes", "ModelWorkload",
    "Problem", "Workload", "model_files", "model_of",
]  # fmt: skip
