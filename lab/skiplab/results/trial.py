"""The claims on trial, as tables for a notebook."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from skiplab import claims
from skiplab.results.marks import marks_of, notes_of
from skiplab.results.tables import Shown
from skiplab.store.published import LATER, PUBLISHER
from skiplab.text import digits, percent

WORDS = {"measured": "measured on", "recorded": "recorded on", "computed": "computed here,"}
WHY = "why they differ"


def trial(judgements: Sequence[claims.Judged], topic: str) -> Shown:
    """The claims of a topic with their verdicts; ValueError lists the topics."""
    if topic not in claims.TOPICS:
        raise ValueError(f"topic: got {topic!r}; allowed are {', '.join(claims.TOPICS)}")
    own = [one for one in judgements if one.claim.topic == topic]
    requests = {one.claim.request for one in own}
    sources = [name for number, name in ((20198, PUBLISHER), (20571, LATER)) if number in requests]
    said = ", ".join(f"{count} {verdict}" for verdict, count in claims.counts(own).items() if count)
    caption = " ".join([
        f"Published by {' and by '.join(sources)}.",
        f"{len(own)} claims: {said}. Figures within {percent(claims.SAME)} say the same.",
    ])  # fmt: skip
    cells = table(own)
    return Shown(caption, cells, tuple(notes_of("".join(cells["ours"]))), ("ours", "predicted", "verdict", WHY))


def table(judgements: Sequence[claims.Judged]) -> pd.DataFrame:
    """The claims as texts. A reason stands once for claims in a row that share it."""
    lines, said = [], ""
    for one in judgements:
        claim = one.claim
        predicted = (
            f"{claim.text(found.value)}\u00a0{_short(found)}" for found in one.found if found.source == "predicted"
        )
        lines.append({
            "claim": claim.words, "published": claim.text(claim.published), "ours": _ours(one),
            "predicted": "; ".join(predicted), "verdict": one.verdict, WHY: "" if claim.why == said else claim.why,
        })  # fmt: skip
        said = claim.why
    return pd.DataFrame(lines)


def _ours(one: claims.Judged) -> str:
    """`47.5 %† (7,779 tokens/s) recorded on NVIDIA H200`."""
    by = one.by
    if by is None:
        return ""
    rate = f" ({digits(by.rate)} tokens/s)" if by.rate == by.rate else ""
    of = f", {by.of}" if by.of else ""
    return f"{one.claim.text(by.value)}{marks_of(by.flags, by.spread)}{rate} {WORDS[by.source]} {by.device}{of}"


def _short(found: claims.Found) -> str:
    """What it is predicted for: `A100`."""
    return found.device.removeprefix("NVIDIA ").partition(" ")[0]
