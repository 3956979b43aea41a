"""Check a point, then time it; whatever goes wrong is a row as well."""

from skiplab.measure.checked import measure
from skiplab.measure.child import Child
from skiplab.measure.point import Measurement, Point, WorkDone

__all__ = ["Child", "Measurement", "Point", "WorkDone", "measure"]
