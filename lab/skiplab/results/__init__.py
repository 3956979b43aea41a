"""Tables of recorded results: `declared` says what each shows and its targets, `tables` makes them from run files.

README and `data/RESULTS.md` hold them; `show` gives one to a notebook.
"""

from skiplab.results.declared import H100, H200, TABLES, show
from skiplab.results.tables import fill

__all__ = ["H100", "H200", "TABLES", "fill", "show"]
