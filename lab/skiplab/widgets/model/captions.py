"""The text beside the bars of a model, as HTML: rates, memory, other windows, others' rates, the roofs."""

from __future__ import annotations

from typing import Any

from skiplab.figures import theme
from skiplab.figures.parts import CallBars
from skiplab.rated import RowDict
from skiplab.templates import render
from skiplab.text import percent
from skiplab.throughput import CallTime, kept_tokens
from skiplab.widgets.model.beside import Beside
from skiplab.widgets.model.settings import WEIGHTS, ModelSettings


def plain(s: ModelSettings) -> str:
    """The state in a line of plain text: the calls' rates and times, and memory."""
    window = "" if s.window_used is None else f", window {s.window_used:,}"
    memory = s.memory
    return (
        f"{s.model}, {WEIGHTS[s.weights]}{window}. {_prompt(s)}. {_step(s)}. Weights {_size(memory.weights)}, cache "
        f"{_size(memory.cache)}; predicted for {s.on.name}"
    )


def counts(s: ModelSettings) -> str:
    """`plain` as the status line of the explorer."""
    first, _, rest = plain(s).partition(". ")
    return render("explorers.counts", name="skiplab-model-counts", width="600px", first=f"{first}.", rest=f"{rest}.")


def calls(s: ModelSettings, beside: Beside) -> list[CallBars]:
    """The bars of the prompt and of the step, with what a run on that machine took apart of the same calls."""
    rows = [beside.taken_apart(call, s.quantised) if s.is_own else None for call in (s.prefill, s.step)]
    return [CallBars(*one) for one in zip((_prompt(s), _step(s)), (s.prefill, s.step), rows, strict=True)]


def _prompt(s: ModelSettings) -> str:
    return f"A prompt of {_tokens(s.prompt)}: {_rate(s.prefill)}"


def _step(s: ModelSettings) -> str:
    drafts = f", {s.drafts} of them drafts, {s.step.tokens:.2f} kept" if s.drafts else ""
    return f"A step of {_tokens(1 + s.drafts)} behind it{drafts}: {_rate(s.step)}"


def _rate(call: CallTime) -> str:
    return f"{theme.seconds(call.seconds)}, {_per_second(call.tokens_per_s)} tokens/s"


def _per_second(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"


def _tokens(count: int) -> str:
    return f"{count:,} token{'s' * (count != 1)}"


def _size(count: int) -> str:
    return theme.quantity(count, "B")


def windows(s: ModelSettings) -> str:
    """What other windows of the sliding layers would cost, the chosen one marked; words where there are none."""
    shown = s.windows()
    if not shown:
        return render("widgets.hint", text=f"{s.model} has no sliding layers: every layer sees all keys.")
    own = next(one for one in shown if one.is_own)
    heads = ("window", "prompt tokens/s", "time", "tokens/s of steps", "time", "cache")
    rows = [_window_row(one, own, one.window == s.window_used) for one in shown]
    title = "What another window of the sliding layers would cost"
    note = "predicted; in times, how much of the own window's"
    return render("explorers.rates", name="skiplab-model-windows", title=title, note=note, heads=heads, rows=rows)


def _window_row(one: ModelSettings, own: ModelSettings, chosen: bool) -> dict[str, Any]:
    words = "the model's" if one.is_own else "all keys" if (one.window or 0) >= one.keys else ""
    name = f"{one.window:,}{f' ({words})' if words else ''}"
    cells = [name]
    for call, base in ((one.prefill, own.prefill), (one.step, own.step)):
        cells += [_per_second(call.tokens_per_s), theme.ratio(call.seconds / base.seconds)]
    return {"cells": [*cells, _size(one.memory.cache)], "chosen": chosen}


def others(s: ModelSettings, beside: Beside) -> str:
    """Tokens/s of the same model that somebody measured, recorded or published, at the nearest lengths."""
    found = beside.nearest(s.model, s.bits, s.prompt, 1 + s.drafts)
    if not found:
        return render("widgets.hint", text=_none(s))
    heads = ("who", "prompt tokens/s", "tokens/s of steps", "where from")
    rows = [{"cells": _others_row(s, read, step), "chosen": False} for read, step in found]
    note = f"nearest to {s.prompt:,} tokens, the model's own window"
    if s.drafts:
        note += f", steps of drafts at {percent(s.acceptance)} accepted"
    title = f"{s.model}: measured, recorded and published"
    return render(
        "explorers.rates", name="skiplab-model-others", title=title, note=note, heads=heads, rows=rows, words=heads[-1:]
    )


def _none(s: ModelSettings) -> str:
    return (
        f"No run of {s.model} with int{s.bits} weights is stored, and nothing is published: skiplab model {s.model} "
        "--prompt 512,2048 --new 16 measures one here."
    )


def _others_row(s: ModelSettings, read: RowDict | None, step: RowDict | None) -> list[str]:
    first = read or step
    assert first is not None
    at = [_rate_at(read, 1.0, "q_len"), _rate_at(step, 1.0, "depth")]
    if step is not None and s.drafts:
        drafts = int(step["q_len"]) - 1
        kept = kept_tokens(drafts, s.acceptance) / step["q_len"]
        at[1] = _rate_at(step, kept, "depth") + ("" if drafts else ", no drafts")
    return [first["label"], *at, theme.provenance(first["source"], first["device"])]


def _rate_at(row: RowDict | None, kept: float, place: str) -> str:
    """A row's rate, at which length or depth it is of, and a * for flags; kept: the share of its tokens that counts."""
    if row is None:
        return "–"
    return f"{_per_second(kept * row['tokens_per_s'])} at {int(row[place]):,}{'*' * bool(row['flags'])}"


def prediction(s: ModelSettings, beside: Beside) -> str:
    """Where the bars come from, what they leave out, and at which lengths a run stands beside them."""
    on = s.on
    at = beside.lengths(s.model, on.name)
    runs = f"Runs on it took this model apart at {', '.join(f'{n:,}' for n in at)} tokens." if at else (
        "No run of this model on it is stored, so no measured bars stand beside."
    )  # fmt: skip
    rest = (
        f"from its {on.source} roofs ({on.bandwidth_gbps:,.0f} GB/s, {on.tflops:,.0f} TFLOP/s in {on.dtype}): each "
        "part takes the longer of its FLOPs at the one and its bytes at the other, one part after the other. Pointwise "
        "is all between the products, as if it were one kernel from each to the next. Launches, gaps, softmax and the "
        f"making of drafts are left out: a floor, not a measurement. {runs} * flags make a number doubtful."
    )
    return render("explorers.model_prediction", machine=on.name, rest=rest)
