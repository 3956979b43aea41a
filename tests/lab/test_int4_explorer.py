"""The picture of a weight's memory and its explorer, without a browser: cells, words, speed, errors and fallbacks."""

from __future__ import annotations

import gc
import html
import re
import time
import xml.etree.ElementTree as ElementTree

import pytest
from skiplab import packed_weight
from skiplab.figures import nibbles
from skiplab.machine import known_gpus
from skiplab.packed_weight import PROGRAMS, Packed, Program, accesses, step_loads
from skiplab.widgets.int4 import captions
from skiplab.widgets.int4.explorer import Int4Explorer
from skiplab.widgets.int4.settings import OTHER, Int4Settings
from skiplab.widgets.int4.view import MemoryView
from skiplab.workload import LINEARS


def picture_of(settings: Int4Settings) -> nibbles.Picture:
    s = settings
    return nibbles.memory(s.packed, s.kernel, s.row, s.step, s.lane, s.scalar, s.codes)


# the picture

STATES = [
    Int4Settings(), Int4Settings(layout="strided", activation_loads="4-byte", row=3, step=5),
    Int4Settings(bits=8, group_size=128, symmetric=True), Int4Settings(metadata="uint8", layout="strided", row=1),
    Int4Settings(program="16 rows", row=14, lane=31), Int4Settings(bits=8, metadata="uint8", program="two warps a row"),
]  # fmt: skip


@pytest.mark.parametrize("s", STATES, ids=captions.plain)
def test_every_load_of_every_lane_has_its_cell(s):
    cells = [cell for cell in picture_of(s).cells if cell.lanes]
    loads = step_loads(s.packed, s.kernel, s.row, s.step, s.scalar)
    assert sum(len(cell.lanes) for cell in cells) == sum(start is not None for load in loads for start in load.starts)
    assert len(cells) == sum(len(load.distinct) for load in loads)
    for cell in cells:
        assert "bytes" in cell.hint and cell.hint.startswith("Lane")


@pytest.mark.parametrize("s", STATES, ids=captions.plain)
def test_cells_stay_inside_and_grey_sectors_are_those_counted(s):
    picture = picture_of(s)
    for cell in picture.cells:
        assert cell.x >= 0 and cell.x + cell.width <= picture.width + 1 and cell.y + cell.height <= picture.height
    fetched = sum(cell.hint.endswith(": fetched") for cell in picture.cells)
    loads = step_loads(s.packed, s.kernel, s.row, s.step)  # four 4-byte loads ask for the same sectors
    assert fetched == sum(one.sectors for one in accesses(loads))


def test_nibbles_are_the_codes_in_the_order_of_memory():
    s = Int4Settings(row=2, step=1, lane=7)
    assert s.codes is not None
    shown = [cell for cell in picture_of(s).cells if cell.hint.startswith("Weight ")]
    low, high = [[int(cell.text) for cell in shown[half::2]] for half in range(2)]
    assert (low, high) == ([*s.codes.codes[::2]], [*s.codes.codes[1::2]])
    assert all(a.y < b.y and a.x == b.x for a, b in zip(shown[::2], shown[1::2], strict=True))
    shown = [cell for cell in picture_of(Int4Settings(bits=8)).cells if cell.hint.startswith("Weight ")]
    first = [int(cell.text) for cell in shown[::2]]
    codes = Int4Settings(bits=8).codes
    assert codes is not None and first == [*codes.codes[:16]]  # the first plane holds the first half


def test_light_and_dark_tell_groups_apart():
    for group_size in packed_weight.GROUP_SIZES:
        s = Int4Settings(group_size=group_size)
        cells = [cell for cell in picture_of(s).cells if "of the weights" in cell.hint]
        share = group_size // 32
        assert [nibbles.BLUES.index(cell.fill) for cell in cells] == [lane // share % 2 for lane in range(32)]


def test_an_idle_lane_is_said_to_be_idle():
    s = Int4Settings(step=5, lane=20)  # 5,376 weights are five steps and a quarter
    assert s.codes is None
    assert any("nothing to do" in label.text for label in picture_of(s).labels)


def test_svg_is_well_formed_and_says_what_it_shows():
    root = ElementTree.fromstring(nibbles.svg(picture_of(Int4Settings(layout="strided")), 'weights & "codes"'))
    assert root.get("role") == "img" and root.get("aria-label") == 'weights & "codes"'
    rects = [item for item in root if item.tag.endswith("rect")]
    assert {item.get("data-lanes") for item in rects} >= {str(lane) for lane in range(32)}
    assert sum(item.get("stroke") == "#000000" for item in rects) == 7  # lane 5's loads


@pytest.mark.parametrize("pair", nibbles.COLOURS.values())
def test_pairs_of_colours_differ_in_grey_and_carry_their_text(pair):
    def light(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        return sum(
            weight * (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4)
            for weight, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True)
        )

    dark, bright = sorted(light(colour) for colour in pair)
    assert (bright + 0.05) / (dark + 0.05) > 1.6
    for colour in pair:
        text = 0.0 if nibbles.ink(colour) == "#000000" else 1.0
        high, low = max(light(colour), text), min(light(colour), text)
        assert (high + 0.05) / (low + 0.05) > 4.5


def test_values_in_words():
    codes = packed_weight.Codes(0, (), (), (), 0.01, 8, 0)
    assert nibbles.value_text(codes) == "(code − 8) × 0.01"
    assert nibbles.value_text(packed_weight.Codes(0, (), (), (), 0.01, -128, -0.5)) == "(code + 128) × 0.01 − 0.5"


# settings and captions


def test_code_makes_the_same_explorer_and_weight():
    s = Int4Settings(out_features=40, in_features=512, bits=8, group_size=64, layout="strided", lane=9, row=39)
    scope: dict = {}
    exec(s.code().replace("from skiplab import", "from skiplab.widgets.int4.explorer import"), scope)
    assert scope["explorer"].settings == s == Int4Settings(**s.given())
    w = scope["w"]
    assert tuple(w.shape) == (40, 512) and (w.bits, w.group_size, w.bits_per_weight) == (
        8,
        64,
        s.packed.bits_per_weight,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layout": "diagonal"}, "layout: given 'diagonal'; allowed are coalesced, strided"),
        ({"program": "all"}, "program: given 'all'; allowed are one warp a row, two warps a row, 4 rows, 16 rows"),
        ({"predict_for": "abacus"}, "predict_for: given 'abacus'; allowed are NVIDIA H200"),
        ({"row": 21504}, "row: given 21504; must be from 0 to 21503"),
        ({"step": 6}, "step: given 6; must be from 0 to 5"),
        ({"lane": 32}, "lane: given 32; must be from 0 to 31"),
        ({"bits": 5}, "bits: given 5; allowed are 4, 8"),
    ],
)
def test_wrong_settings_are_named(given, message):
    with pytest.raises(ValueError, match=message):
        Int4Explorer(**given)


def test_an_unknown_setting_is_named():
    with pytest.raises(TypeError, match="windows: Int4Explorer has no such setting; there are out_features, "):
        Int4Explorer(windows=3)


def test_table_of_what_is_asked_holds_the_counts():
    text = re.sub(r"<[^>]+>", " ", captions.asked(Int4Settings()))
    cells = {" ".join(row.split()) for row in re.sub(r"</tr>", "\n", captions.asked(Int4Settings())).split("\n")}
    assert "coalesced, 16-byte loads" in text and any("<b>64</b>" in row for row in cells)
    numbers = [
        int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", text.split("the step")[1].split("a whole row")[0])
    ]
    ours, theirs = (
        packed_weight.total(accesses(step_loads(Packed(strided=strided), Program(), 0, 0, strided)))
        for strided in (False, True)
    )
    assert numbers == [ours.bytes, ours.loads, ours.sectors, ours.lines, theirs.loads, theirs.sectors, theirs.lines]


def test_formats_that_do_not_fit_say_so_and_the_chosen_one_is_marked():
    s = Int4Settings(in_features=5376 + 32)
    text = captions.formats(packed_weight.random_qualities(), s, known_gpus()[s.predict_for])
    assert text.count("does not fit K") == len([f for f in packed_weight.FORMATS if f[1] > 32 or f[3] == "uint8"])
    assert text.count('aria-current="true"') == 1 and "▸ int4, groups of 32, asymmetric" in text


def test_prediction_names_its_source():
    text = captions.prediction(Int4Settings(), known_gpus()["NVIDIA H200"])
    assert "Predicted for NVIDIA H200" in text and "data sheet" in text and "15.1 µs" in text


# the explorer


def test_every_control_has_a_label():
    explorer = Int4Explorer()
    for name, control in explorer._controls.items():
        assert getattr(control, "label", "") or control.description, name


@pytest.fixture
def no_collector():
    """Garbage of the tests before is not collected meanwhile, which takes 0.15 s and more."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def test_controls_move_picture_words_and_code_at_once(no_collector):
    explorer = Int4Explorer()
    changes = [("bits", 8), ("layout", "strided"), ("activation_loads", "4-byte"), ("metadata", "uint8"), ("row", 77),
               ("group_size", 128), ("step", 3), ("lane", 31), ("program", "16 rows"), ("predict_for", "NVIDIA B200"),
               ("weights", "heavy tails"), ("in_features", 21504), ("symmetric", True)]  # fmt: skip
    for name, value in changes:
        before = explorer.memory.svg, explorer._formats.value, explorer.code()
        start = time.thread_time()  # of this thread, so that a busy machine does not count
        explorer._controls[name].value = value
        assert time.thread_time() - start < 0.2, (name, value)
        assert getattr(explorer.settings, name) == value
        assert (explorer.memory.svg, explorer._formats.value, explorer.code()) != before, name
    assert explorer._counts.value.count("int8, groups of 128, symmetric, uint8 metadata, metadata strided") == 1


def test_what_cannot_be_is_said_and_the_last_picture_stays():
    explorer = Int4Explorer()
    before = explorer.memory.svg
    explorer._controls["in_features"].value = 100
    assert "in_features: got 100; must be a multiple of group_size, 32" in explorer._problem.value
    assert explorer.memory.svg == before and explorer.settings.in_features == 5376
    explorer._controls["in_features"].value = 1024
    assert not explorer._problem.value and explorer.settings.in_features == 1024


def test_a_shorter_row_has_fewer_steps():
    explorer = Int4Explorer(in_features=21504, step=20)
    explorer._controls["in_features"].value = 2048
    assert (explorer.settings.step, explorer._controls["step"].high) == (1, 1)


def test_a_layer_sets_its_shape_and_a_shape_finds_its_layer():
    explorer = Int4Explorer(row=9000)
    name = next(name for name, shape in LINEARS.items() if shape == (5376, 21504))
    explorer._layer.value = name
    assert (explorer.settings.out_features, explorer.settings.in_features) == (5376, 21504)
    assert explorer.settings.row == 5375
    explorer.set(out_features=100, row=0)
    assert explorer._layer.value == OTHER


def test_a_lane_chosen_in_the_picture_moves_the_slider():
    explorer = Int4Explorer()
    explorer.memory.lane = 12
    assert explorer.settings.lane == 12 == explorer._controls["lane"].value
    assert "Lane 12's 16 bytes" in html.unescape(explorer.memory.svg)


def test_fallbacks_are_a_picture_and_words():
    for shown in (Int4Explorer(), MemoryView(picture_of(Int4Settings()), "int4")):
        data = shown._repr_mimebundle_()
        data = data[0] if isinstance(data, tuple) else data
        assert data["image/png"].startswith(b"\x89PNG") and "int4" in data["text/plain"]
        assert "application/vnd.jupyter.widget-view+json" in data


def test_programs_say_what_they_are():
    assert [program.description for program in PROGRAMS.values()][::3] == [
        "1 row × 1,024 weights, 1 warp", "16 rows × 256 weights, 4 warps"
    ]  # fmt: skip
