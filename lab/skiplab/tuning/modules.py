"""The operations whose kernels are tuned: the module of each in this package."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import cast

from blockskip.tuned.files import OPERATIONS

from skiplab.tuning.base import TuningModule

MODULES: Mapping[str, TuningModule] = MappingProxyType(
    {name: cast(TuningModule, import_module(f"skiplab.tuning.{name}")) for name in OPERATIONS}
)
