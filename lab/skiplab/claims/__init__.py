"""Every claim of the reference on trial: ExecuTorch's pull request 20198 and its later table, each beside our figures.

`declared` holds the claims as data, `evidence` finds our figure for each, `verdict` compares; nothing is typed in.
"""

from skiplab.claims.checks import checks_here
from skiplab.claims.declared import CLAIMS, TOPICS, Claim
from skiplab.claims.evidence import Evidence, Found
from skiplab.claims.verdict import SAME, VERDICTS, Judged, counts, judge, judged

__all__ = [
    "CLAIMS", "SAME", "TOPICS", "VERDICTS", "Claim", "Evidence", "Found", "Judged", "checks_here", "counts", "judge",
    "judged",
]  # fmt: skip
