"""README's pictures and the pages' tables, from what is recorded in data/: `skiplab figures` makes them again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import blockskip as bs
import pandas as pd

from skiplab.figures import attention, decode, linear, model, static
from skiplab.figures.charts import Chart
from skiplab.paths import data_path, installed
from skiplab.rated import rated
from skiplab.report.model import with_rows
from skiplab.results.declared import ALL, H100, H200
from skiplab.results.tables import fill
from skiplab.results.whole_model import MODEL, recorded_models
from skiplab.store import Run, documented, published, query, read_runs
from skiplab.workload import model_of

PAGES = ("README.md", "data/RESULTS.md", "data/TARGETS.md")
SCHEMA_PAGE = "data/README.md"
PREFILL = ["sdpa", "blockskip", "flex", "flash-window", "fa3", "fa4", "flashinfer"]
LAYERS = ("qkv", "o", "gate+up", "down")
STEPS = ["blockskip", "blockskip-prefill", "sdpa-flash", "sdpa-cudnn", "flex", "fa3", "flashinfer"]


def charts(runs: Sequence[Run]) -> dict[str, Chart]:
    """Those of the pictures that show what was recorded, by name."""
    recorded = rated(runs, H100)
    sliding = query(recorded, heads="32/16 of 256", buffer=None, window=1024, contender=PREFILL)
    steps = query(recorded, operation="decode", q_len=1, heads="32/16 of 256", window=None, contender=STEPS)
    gemma = model_of("gemma4-31b").linears(fused=True)
    layers = query(rated(runs, H200), operation="linear", symmetric=0)  # with zero points, as they are served
    return {
        "model": model.prompts_and_steps(whole_models(runs)),
        "speedup": attention.speedup(query(sliding, operation="attention")),
        "decode": decode.decode_ratio(steps),
        "linear": linear.linear_layers(layers, {name: gemma[name] for name in LAYERS}),
    }


def pictures(runs: Sequence[Run]) -> dict[str, Any]:
    """By name, each a matplotlib figure."""
    tiles = static.tilemap(bs.TileMap.build(bs.sliding_window(1024), 4096, 4096))
    return {"tilemap": tiles, **{name: static.draw(chart) for name, chart in charts(runs).items()}}


def whole_models(runs: Sequence[Run]) -> pd.DataFrame:
    """Prompts and steps of Gemma 4 31B on an H200, ours and llama.cpp's, and what ExecuTorch published of an A100."""
    return with_rows(recorded_models(runs), query(published("model"), model=MODEL, contender="executorch"))


def write() -> list[Path]:
    """Write them all, and return their paths; ValueError where skiplab is installed: its pages are the repository's."""
    if installed():
        raise ValueError("figures: makes the pages of a checkout of the repository, and this is an installed package")
    runs, root, written = read_runs(), data_path().parent, []
    for name, picture in pictures(runs).items():
        written.append(data_path("pictures", f"{name}.png"))
        picture.savefig(written[-1], dpi=110)
    for page in (root / name for name in PAGES):
        page.write_text(fill(page.read_text(encoding="utf-8"), page, ALL, runs), encoding="utf-8")
        written.append(page)
    written.append(root / SCHEMA_PAGE)
    written[-1].write_text(documented.fill(written[-1].read_text(encoding="utf-8")), encoding="utf-8")
    return written
