"""What the measuring commands share; each operation's own command is in a file of its name."""

from __future__ import annotations

from pathlib import Path

from skiplab.cli import options
from skiplab.cli.run import end_as_interrupted, show, swept, write_report, write_tables
from skiplab.sweep import AnySweep, Where
from skiplab.workload import MODELS

HEADS = {"q_heads": 8, "kv_heads": 8, "head_dim": 128}
"""Those of a sweep that names none."""


def measure(
    wanted: AnySweep,
    where: Where,
    run: Path | None,
    report: Path | None,
    table: options.Texts,
    again: options.Texts,
    fresh: bool,
) -> None:
    """Measure the points that the file lacks, show the table, write the report; exit status 130 after Ctrl-C.

    table, again: as the command line has them.
    """
    files, again_of = options.tables(table), options.again(again)
    done = swept(wanted, run, where, again=again_of, fresh=fresh)
    show(done)
    write_tables(done, files)
    end_as_interrupted(done)
    write_report(done, report)


def heads_of(model: str | None, q_heads: int, kv_heads: int, head_dim: int) -> dict[str, int]:
    """The model's heads where one is named, else those given; ValueError for other numbers beside a model."""
    given = {"q_heads": q_heads, "kv_heads": kv_heads, "head_dim": head_dim}
    if model is None:
        return given
    if changed := [name for name in given if given[name] != HEADS[name]]:
        option = f"--{changed[0].replace('_', '-')}"
        raise ValueError(
            f"{option}: got {given[changed[0]]} beside --model {model}, which has its own; give one of them"
        )
    if model not in MODELS:
        raise ValueError(f"--model: no {model!r}; there are {', '.join(MODELS)}")
    heads = MODELS[model]
    return {"q_heads": heads.q_heads, "kv_heads": heads.kv_heads, "head_dim": heads.head_dim}


def windows_of(texts: options.Texts) -> tuple[int | None, ...]:
    """The windows of --window, none without it."""
    return tuple(map(window_of, options.words("--window", texts)))


def window_of(text: str) -> int | None:
    """A window as the command line has it: a number, or None for `causal`."""
    if text == "causal":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"--window: got {text!r}; allowed are `causal` and whole numbers of at least 1")
    return int(text)
