"""Measuring a point: check it, time it, check it again. Failures become rows, too."""

from skiplab.measure.checked import measure
from skiplab.measure.child import Child
from skiplab.measure.point import Measurement, Point, WorkDone

__all__ = ["Child", "Measurement", "Point", "WorkDone", "measure"]
