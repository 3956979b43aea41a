"""The operations whose kernels are tuned: the module of each in this package."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from skiplab.tuning import attention, decode, linear
from skiplab.tuning.base import TuningModule

MODULES: Mapping[str, TuningModule] = MappingProxyType({"attention": attention, "decode": decode, "linear": linear})
