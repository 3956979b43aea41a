"""The form of each operation, by its name."""

from __future__ import annotations

from collections.abc import Mapping

from skiplab.operations import parts
from skiplab.widgets.sweep.settings import Form

FORMS: Mapping[str, Form] = {name: part.FORM for name, part in parts("skiplab.widgets.sweep").items()}
