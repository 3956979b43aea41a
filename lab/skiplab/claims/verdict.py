"""A claim, our figures, and the verdict that follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from skiplab.claims.declared import CLAIMS, Claim
from skiplab.claims.evidence import Evidence, Found

CONFIRMED, BEATEN, NOT_REPRODUCED, NOT_MEASURABLE = "confirmed", "beaten", "not reproduced", "not measurable here"
VERDICTS = (CONFIRMED, BEATEN, NOT_REPRODUCED, NOT_MEASURABLE)
SAME = 0.05
"""Figures of two machines that differ by less, relatively, say the same."""
NO_JUDGE = ("predicted", "published")
"""Sources that say what should be, not what is."""


def judge(claim: Claim, ours: float) -> str:
    """The verdict on a claim whose figure is `ours` here; nan: not measurable here."""
    if ours != ours:
        return NOT_MEASURABLE
    if claim.better == "exactly":
        return CONFIRMED if ours == claim.published else NOT_REPRODUCED
    if claim.better == "at least":
        return CONFIRMED if ours >= claim.published else NOT_REPRODUCED
    ratio = ours / claim.published if claim.better == "more" else claim.published / ours
    return BEATEN if ratio > 1 + SAME else CONFIRMED if ratio >= 1 - SAME else NOT_REPRODUCED


@dataclass(frozen=True)
class Judged:
    """A claim with the figure that it is judged by (None without any), all that were found, and the verdict."""

    claim: Claim
    by: Found | None
    found: tuple[Found, ...]

    @property
    def verdict(self) -> str:
        return judge(self.claim, float("nan") if self.by is None else self.by.value)

    @property
    def predicted(self) -> tuple[Found, ...]:
        return tuple(one for one in self.found if one.source == "predicted")


def judged(evidence: Evidence, claims: Iterable[Claim] = CLAIMS) -> list[Judged]:
    """Every claim, judged by the best figure that there is of it: on a GPU before a CPU, here before recorded."""
    made = []
    for claim in claims:
        found = tuple(claim.find(evidence))
        able = sorted((one for one in found if one.source not in NO_JUDGE), key=_rank)
        made.append(Judged(claim, able[0] if able else None, found))
    return made


def _rank(found: Found) -> tuple[bool, bool]:
    """A figure of the claim's own model comes before one of another, which a laptop runs; then what is new."""
    return bool(found.of), found.source == "recorded"


def counts(judgements: Iterable[Judged]) -> dict[str, int]:
    """How many claims got each verdict."""
    counted = Counter(one.verdict for one in judgements)
    return {verdict: counted[verdict] for verdict in VERDICTS}
