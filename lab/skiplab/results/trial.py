"""The claims on trial, as tables for a notebook."""

from __future__ import annotations

from collections.abc import Sequence

from skiplab import claims
from skiplab.results.tables import Shown
from skiplab.store.published import LATER, PUBLISHER


def trial(judgements: Sequence[claims.Judged], topic: str) -> Shown:
    """The claims of a topic with their verdicts; ValueError lists the topics."""
    if topic not in claims.TOPICS:
        raise ValueError(f"topic: got {topic!r}; allowed are {', '.join(claims.TOPICS)}")
    own = [one for one in judgements if one.claim.topic == topic]
    requests = {one.claim.request for one in own}
    sources = [name for number, name in ((20198, PUBLISHER), (20571, LATER)) if number in requests]
    said = ", ".join(f"{count} {verdict}" for verdict, count in claims.counts(own).items() if count)
    lines = (
        f"Published by {' and by '.join(sources)}.",
        f"{len(own)} claims: {said}. Figures within {claims.SAME:.0%} of each other say the same.".replace("%", " %"),
    )
    return Shown(lines, claims.table(own))
