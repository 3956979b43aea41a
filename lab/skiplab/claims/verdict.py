"""A claim, our figures, and the verdict that follows from them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from skiplab.claims.declared import CLAIMS, Claim
from skiplab.claims.evidence import MEASURED, Evidence, Found

CONFIRMED, BEATEN, NOT_REPRODUCED, NOT_MEASURABLE = "confirmed", "beaten", "not reproduced", "not measurable here"
ON_A_CPU = "measured on a CPU alone"
VERDICTS = (CONFIRMED, BEATEN, NOT_REPRODUCED, ON_A_CPU, NOT_MEASURABLE)
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
    """A claim with the figure that it is judged by (None without any), all that were found, and the verdict.

    on_a_cpu: whether that figure is a CPU's time: it is shown, and says nothing of a claim about a GPU.
    """

    claim: Claim
    by: Found | None
    found: tuple[Found, ...]
    on_a_cpu: bool = False

    @property
    def verdict(self) -> str:
        if self.on_a_cpu:
            return ON_A_CPU
        return judge(self.claim, float("nan") if self.by is None else self.by.value)

    @property
    def predicted(self) -> tuple[Found, ...]:
        return tuple(one for one in self.found if one.source == "predicted")


def judged(evidence: Evidence, claims: Iterable[Claim] = CLAIMS) -> list[Judged]:
    """Every claim, judged by the best figure that there is of it: on a GPU before a CPU, here before recorded."""
    made = []
    for claim in claims:
        found = tuple(claim.find(evidence))
        able = sorted((one for one in found if one.source not in NO_JUDGE), key=lambda one: _rank(one, evidence))
        by = able[0] if able else None
        made.append(Judged(claim, by, found, by is not None and _on_a_cpu(by, evidence)))
    return made


def _rank(found: Found, evidence: Evidence) -> tuple[bool, bool, bool]:
    """A GPU's figure comes before a CPU's, one of the claim's own model before another's; then what is new."""
    return _on_a_cpu(found, evidence), bool(found.of), found.source == "recorded"


def _on_a_cpu(found: Found, evidence: Evidence) -> bool:
    """Whether it is a time that a CPU took; what is computed without a time holds anywhere."""
    return found.source in MEASURED and found.device in evidence.cpus


def counts(judgements: Iterable[Judged]) -> dict[str, int]:
    """How many claims got each verdict."""
    counted = Counter(one.verdict for one in judgements)
    return {verdict: counted[verdict] for verdict in VERDICTS}
