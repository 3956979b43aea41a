"""The form of each operation, by its name."""

from __future__ import annotations

from collections.abc import Mapping

from skiplab.operations import modules_of
from skiplab.widgets.sweep.settings import PanelForm

FORMS: Mapping[str, PanelForm] = {name: module.FORM for name, module in modules_of("skiplab.widgets.sweep").items()}
