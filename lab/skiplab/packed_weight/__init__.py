"""A quantised weight in memory: its sizes, what a warp's loads ask for, what was compiled of them, and its error."""

from skiplab.packed_weight.compiling import compiled
from skiplab.packed_weight.loads import (
    LANES,
    LINE,
    PROGRAMS,
    SECTOR,
    Access,
    Load,
    Places,
    Program,
    accesses,
    places,
    row_accesses,
    step_loads,
    total,
)
from skiplab.packed_weight.packed import BLOCK, GROUP_SIZES, METADATA, SPAN, Packed, Table, float_floor, floor
from skiplab.packed_weight.quality import (
    FORMATS,
    WEIGHTS,
    Codes,
    Quality,
    codes_of,
    qualities,
    random_qualities,
    random_weight,
)

__all__ = [
    "BLOCK", "FORMATS", "GROUP_SIZES", "LANES", "LINE", "METADATA", "PROGRAMS", "SECTOR", "SPAN", "WEIGHTS", "Access",
    "Codes", "Load", "Packed", "Places", "Program", "Quality", "Table", "accesses", "codes_of", "compiled",
    "float_floor", "floor", "places", "qualities", "random_qualities", "random_weight", "row_accesses", "step_loads",
    "total",
]  # fmt: skip
