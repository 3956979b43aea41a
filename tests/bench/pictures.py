"""README's pictures, from the recorded runs in data/: `make pictures` draws them again."""

import blockskip as bs
from skiplab.figures import charts, decode, linear, static
from skiplab.store import data_path, frame, query, read_run

FOLDER = data_path("pictures")
H100 = "2026-11-25-nvidia-h100-80gb-hbm3"


def recorded(*names):
    """The table of some of the H100's runs."""
    return frame([read_run(data_path("runs", f"{H100}-{name}.jsonl")) for name in names])


def main():
    FOLDER.mkdir(exist_ok=True)
    tiles = bs.TileMap.build(bs.sliding_window(1024), 4096, 4096)
    prefill = recorded("gemma4-sliding-e4c19fb3")
    steps = query(recorded("decode-gemma4-sliding", "decode-flex"), contender=["blockskip", "blockskip-prefill",
                  "sdpa-flash", "sdpa-cudnn", "flex"])  # fmt: skip
    layers = query(recorded("linear-int4"), contender=["blockskip", "blockskip-strided", "tinygemm", "bf16"],
                   group_size=32)  # fmt: skip
    pictures = {
        "tilemap": static.tilemap(tiles),
        "speedup": static.draw(charts.speedup(prefill[prefill["window"] == 1024])),
        "decode": static.draw(decode.decode_time(steps)),
        "linear": static.draw(linear.linear_time(layers)),
    }
    for name, picture in pictures.items():
        picture.savefig(FOLDER / f"{name}.png", dpi=110)


if __name__ == "__main__":
    main()
