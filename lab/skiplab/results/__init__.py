"""Tables of recorded results: `declared` says what each shows and its targets, `tables` makes them from run files.

README and `data/RESULTS.md` hold them; `show` gives one to a notebook, `points` and `captioned` any rows, `trial` the
claims of the reference.
"""

from skiplab.results.declared import H100, H200, TABLES, show
from skiplab.results.ladder import RUNS as LADDER_RUNS
from skiplab.results.points import captioned, points
from skiplab.results.tables import fill
from skiplab.results.trial import trial

__all__ = ["H100", "H200", "LADDER_RUNS", "TABLES", "captioned", "fill", "points", "show", "trial"]
