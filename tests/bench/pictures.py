"""README's pictures, from the recorded runs in data/: `make pictures` draws them again."""

import blockskip as bs
from skiplab.figures import charts, static
from skiplab.store import data_path, frame, read_run

FOLDER = data_path("pictures")
RUN = "2026-11-25-nvidia-h100-80gb-hbm3-gemma4-sliding-e4c19fb3.jsonl"


def main():
    FOLDER.mkdir(exist_ok=True)
    tiles = bs.TileMap.build(bs.sliding_window(1024), 4096, 4096)
    static.tilemap(tiles).savefig(FOLDER / "tilemap.png", dpi=110)
    table = frame(read_run(data_path("runs", RUN)))
    window = table[table["window"] == 1024]
    static.draw(charts.speedup(window)).savefig(FOLDER / "speedup.png", dpi=110)


if __name__ == "__main__":
    main()
