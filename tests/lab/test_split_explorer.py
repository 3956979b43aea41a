"""A decode call's programs as a picture, and its explorer, without a browser: cells, words, speed, fallbacks."""

from __future__ import annotations

import re
import time
import xml.etree.ElementTree as ElementTree

import pytest
from skiplab.figures import nibbles, splits
from skiplab.occupancy import SPLIT_POLICIES
from skiplab.widgets.splits import captions as split_captions
from skiplab.widgets.splits.explorer import SplitExplorer
from skiplab.widgets.splits.settings import SplitSettings

STATES = [
    SplitSettings(),
    SplitSettings(policy="executorch"),
    SplitSettings(policy="executorch", window=1000, kv_len=3000, buffer=None),
    SplitSettings(kv_len=1, buffer=1, policy="one"),
    SplitSettings(kv_len=131_072, buffer=None, batch=8, policy="executorch"),
    SplitSettings(kv_len=9, q_len=8, buffer=10, window=2, model="laptop", gpu="NVIDIA L40S"),
    SplitSettings(kv_len=16_384, model="gemma4-31b full", policy="flash-attention-3", program=40),
    SplitSettings(kv_len=777, q_len=8, batch=2, model="qwen 16/2", dtype="float32", gpu="NVIDIA B200"),
]


def picture_of(s: SplitSettings) -> nibbles.Picture:
    return splits.decode(s.schedules, s.policy, s.program)


@pytest.mark.parametrize("s", STATES, ids=split_captions.plain)
def test_cells_stay_inside_and_the_svg_is_whole(s):
    picture = picture_of(s)
    for cell in picture.cells:
        assert cell.width > 0 and cell.height > 0
        assert cell.x >= splits.LEFT - 2 and cell.x + cell.width <= picture.width + 1
        assert cell.y >= 0 and cell.y + cell.height <= picture.height
    root = ElementTree.fromstring(nibbles.svg(picture, split_captions.plain(s)))
    assert root.attrib["aria-label"] == split_captions.plain(s)
    assert len(nibbles.svg(picture, "")) < 450_000


@pytest.mark.parametrize("s", STATES, ids=split_captions.plain)
def test_bars_are_the_programs_with_keys(s):
    bars = [cell for cell in picture_of(s).cells if cell.hint.startswith("Program ")]
    runs = s.schedule.runs
    if len(runs) > splits.MOST_CELLS:
        assert not bars
        merged = [re.search(r"(\d+) programs one after", cell.hint) for cell in picture_of(s).cells]
        assert sum(int(found[1]) for found in merged if found) == len(runs)
    else:
        assert [cell.lanes for cell in bars] == [(run.program,) for run in runs]


@pytest.mark.parametrize("s", STATES, ids=split_captions.plain)
def test_strips_cover_the_live_keys_of_every_policy(s):
    cells = picture_of(s).cells
    for name, plan in s.schedules.items():
        hints = {cell.hint for cell in cells if cell.hint.startswith(f"{splits.NAMES[name]}: split ")}
        spans = {tuple(int(n.replace(",", "")) for n in re.findall(r"keys ([\d,]+)–([\d,]+)", hint)[0])
                 for hint in hints}  # fmt: skip
        seen = {(max(one.first, plan.live.start), min(one.end, plan.live.stop) - 1) for one in plan.shares
                if min(one.end, plan.live.stop) > max(one.first, plan.live.start)}  # fmt: skip
        assert seen <= spans


def test_tiles_of_a_split_are_its_cells():
    s = SplitSettings(kv_len=2000, buffer=4000, window=900, program=2)
    strip = [cell for cell in picture_of(s).cells if s.program in cell.lanes and cell.height == 20]
    assert len(strip) == s.schedule.shares[2].tiles
    assert {cell.text for cell in strip} == {"2"}


def test_keys_before_the_window_are_orange_and_said_to_be_masked():
    picture = picture_of(SplitSettings(kv_len=3000, buffer=None, window=1000, policy="executorch"))
    orange = [cell for cell in picture.cells if cell.fill in splits.DROPPED]
    assert orange and all("masked after they are read" in cell.hint for cell in orange)
    width = sum(cell.width for cell in orange if cell.height == 18)  # of the cache to scale
    assert width == pytest.approx(splits.ACROSS * 2000 / 3000, rel=0.03)
    assert any("Orange" in line for line in picture.legend)
    ours = picture_of(SplitSettings(kv_len=3000, buffer=None, window=1000))
    others = [cell for cell in ours.cells if cell.fill in splits.DROPPED]
    assert others and all("ExecuTorch" in cell.hint and cell.height == 20 for cell in others)  # its strip beside ours
    assert not any("Orange" in line for line in picture_of(SplitSettings(kv_len=3000, buffer=None)).legend)


def test_keys_before_the_window_are_seen_at_the_notebooks_settings():
    def strips(kv_len):
        picture = picture_of(SplitSettings(kv_len=kv_len, buffer=131072, window=1000, policy="executorch"))
        orange = [cell for cell in picture.cells if cell.fill in splits.DROPPED and cell.height == 20]
        return sum(cell.width + 1 for cell in orange), [label.text for label in picture.labels]

    width, texts = strips(2048)
    assert width == pytest.approx(splits.ACROSS * 1048 / 2048, rel=0.02) and "key 0" in texts
    assert "The 1,000 keys that a query sees, and 1,048 before them, by rule: a cell is a tile" in texts
    width, texts = strips(100_000)  # where they would make a hairline of the window
    assert width == 0 and "key 99,000" in texts


def test_words_say_what_a_large_buffer_does():
    text = split_captions.plain(SplitSettings(policy="executorch"))
    assert "128 splits × 16 KV heads = 2,048 programs, 2,016 of them without a key" in text
    assert "32 of 132 SMs read, in one wave: 24\u00a0% of all SMs' time" in text
    assert "predicted for NVIDIA H200: 30.6 µs, 4.37× the floor" in text
    assert "8 splits × 16 KV heads = 128 programs." in split_captions.plain(SplitSettings())
    assert split_captions.table(SplitSettings()).count("aria-current") == 1
    assert "Arithmetic, not a measurement" in split_captions.prediction(SplitSettings())


# the explorer


def test_controls_move_the_picture_and_the_words():
    explorer = SplitExplorer()
    before = explorer.view.svg
    explorer._controls["policy"].value = "executorch"
    assert explorer.settings.policy == "executorch" and explorer.view.svg != before
    assert "2,016 of them without a key" in explorer._counts.value
    explorer._controls["no_window"].value = False
    assert explorer.settings.window == 1024
    explorer._controls["as_keys"].value = True
    assert explorer.settings.buffer is None and explorer._controls["buffer"].disabled
    assert explorer._controls["buffer"].value == 2048


def test_keys_and_buffer_take_each_other_along():
    explorer = SplitExplorer(kv_len=2048, buffer=4096)
    explorer._controls["kv_len"].value = 10_000
    assert (explorer.settings.kv_len, explorer.settings.buffer) == (10_000, 10_000)
    explorer._controls["buffer"].value = 100
    assert (explorer.settings.kv_len, explorer.settings.buffer) == (100, 100)
    explorer._controls["kv_len"].value = 3
    explorer._controls["q_len"].value = 5
    assert (explorer.settings.q_len, explorer.settings.kv_len, explorer.settings.buffer) == (5, 5, 100)
    explorer._controls["kv_len"].value = 2
    assert (explorer.settings.q_len, explorer.settings.kv_len) == (2, 2)


def test_a_program_chosen_in_the_picture_is_kept_as_near_as_can_be():
    explorer = SplitExplorer(policy="executorch")
    explorer.view.program = 1281
    assert explorer.settings.program == 1281
    assert explorer.view.chosen.startswith("Program 1,281, split 1 of KV head 10: keys 1,024–2,047, 16 tiles, on SM 21")
    explorer.view.program = 5
    assert explorer.view.chosen == "Program 5, split 5 of KV head 0: no key; it ends at once"
    explorer.view.program = 1281
    explorer.set(policy="one")
    assert explorer.settings.program == 15


def test_code_makes_the_same_state():
    explorer = SplitExplorer(kv_len=3000, buffer=None, window=100, policy="flash-attention-3", q_len=2)
    names: dict = {}
    exec(explorer.code().replace("from skiplab import DecodeWorkload, SplitExplorer",
                                 "from skiplab.workload import DecodeWorkload\n"
                                 "from skiplab.widgets.splits.explorer import SplitExplorer"), names)  # fmt: skip
    assert names["explorer"].settings == explorer.settings
    assert names["workload"] == explorer.settings.workload


def test_a_saved_notebook_has_a_picture_and_words():
    data = SplitExplorer()._repr_mimebundle_()
    data = data[0] if isinstance(data, tuple) else data
    assert data["image/png"].startswith(b"\x89PNG")
    assert data["text/plain"].startswith("SplitExplorer: blockskip, 2,048 keys in 131,072 slots: 8 splits")
    assert data["text/plain"].endswith("1.05× the floor")


def test_errors_name_the_setting():
    with pytest.raises(TypeError, match="lenght: SplitExplorer has no such setting; there are kv_len, buffer"):
        SplitExplorer(lenght=4)
    for wrong, words in (
        ({"kv_len": 0}, "kv_len: given 0; must be from 1 to 131072"),
        ({"kv_len": 4096, "buffer": 100}, "buffer: got 100; allowed is at least kv_len, 4,096"),
        ({"policy": "best"}, "policy: given 'best'; allowed are blockskip"),
        ({"program": 128}, "program: given 128; must be from 0 to 127"),
        ({"kv_len": 4, "q_len": 5}, "kv_len: got 4; allowed is at least q_len, 5"),
        ({"q_len": 17}, "q_len: given 17; must be from 1 to 16"),
    ):
        with pytest.raises(ValueError, match=re.escape(words)):
            SplitExplorer(**wrong)


def test_it_answers_in_well_under_a_fifth_of_a_second():
    explorer = SplitExplorer(kv_len=131_072, buffer=None)
    taken = []
    for step, policy in enumerate(SPLIT_POLICIES):
        start = time.process_time()
        explorer.set(kv_len=131_072 - step, policy=policy, batch=8)
        taken.append(time.process_time() - start)
    assert max(taken) < 0.2, taken
