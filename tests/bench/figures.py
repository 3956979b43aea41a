"""README's pictures and the pages' tables, from what is recorded in data/: `make figures` makes them again."""

from pathlib import Path

import blockskip as bs
from skiplab.figures import attention, decode, linear, static
from skiplab.rated import rated
from skiplab.results import H100, TABLES, fill
from skiplab.store import data_path, query, read_runs

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "data" / "RESULTS.md")
PREFILL = ["sdpa", "blockskip", "flex", "flash-window", "fa3", "fa4", "flashinfer"]
STEPS = ["blockskip", "blockskip-prefill", "sdpa-flash", "sdpa-cudnn", "flex", "fa3", "flashinfer"]
LAYERS = ["blockskip", "blockskip-strided", "tinygemm", "gemlite", "bf16"]


def pictures(runs):
    """By name, each a matplotlib figure."""
    recorded = rated(runs, H100)
    sliding = query(recorded, heads="32/16 of 256", buffer=None, window=1024, contender=PREFILL)
    steps = query(recorded, operation="decode", heads="32/16 of 256", window=None, contender=STEPS)
    layers = query(recorded, operation="linear", rows=1, bits=4, group_size=32, contender=LAYERS)
    return {
        "tilemap": static.tilemap(bs.TileMap.build(bs.sliding_window(1024), 4096, 4096)),
        "speedup": static.draw(attention.speedup(sliding[sliding["operation"] == "attention"])),
        "decode": static.draw(decode.decode_time(steps)),
        "linear": static.draw(linear.linear_time(layers)),
    }


def main():
    runs = read_runs()
    for name, picture in pictures(runs).items():
        picture.savefig(data_path("pictures") / f"{name}.png", dpi=110)
    for page in PAGES:
        page.write_text(fill(page.read_text(encoding="utf-8"), page, TABLES, runs), encoding="utf-8")


if __name__ == "__main__":
    main()
