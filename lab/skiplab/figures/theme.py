"""Colours, words and provenance of all figures, shared by plotly and matplotlib.

Colours are Okabe and Ito's where these stand out on light and dark pages alike (`vision.PAGES`); orange and sky blue,
which do not on white, fill areas alone, and lines have darker ones. Contenders whose colours somebody takes for one
another have other markers, and bars of theirs other fillings, so that a figure printed in grey still reads. Grounds are
transparent, and text is a grey with a contrast above 4 on white and on JupyterLab's dark theme.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from skiplab.figures.vision import alike
from skiplab.text import digits, listed

BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY = "#56B4E9", "#CC79A7", "#888888"
AMBER, AZURE = "#C48200", "#3D9AD1"
WINE, OLIVE, BROWN, DARK, VIOLET = "#B83E85", "#999933", "#9C5F16", "#6B6B6B", "#8A63D2"
TEXT = "#777777"
GRID = "rgba(128,128,128,0.25)"

FULL, PARTIAL, WRONG = BLUE, ORANGE, VERMILLION
"""Colours of full and partial tiles, and of a tile where the kernel did something else than was planned."""


@dataclass(frozen=True)
class Style:
    """How a contender is drawn: colour, plotly's name of the marker, and matplotlib's."""

    colour: str
    marker: str
    static_marker: str


OURS = (BLUE, AZURE)
"""Colours that no peer has: what ships is blue in every figure, on a second device it is light blue."""
STYLES = {
    "blockskip": Style(BLUE, "circle", "o"),
    "blockskip-tiles": Style(BLUE, "pentagon-open", "p"),
    "blockskip-tiles-dequantize": Style(BLUE, "pentagon", "p"),
    "blockskip-bounds": Style(BLUE, "circle-open", "o"),
    "blockskip-map": Style(AZURE, "pentagon-open", "p"),
    "blockskip-mask": Style(GREEN, "circle-open", "o"),
    "blockskip-none": Style(VERMILLION, "circle-open", "o"),
    "blockskip-one": Style(AZURE, "circle-open", "o"),
    "blockskip-prefill": Style(BLUE, "circle-open", "o"),
    "blockskip-matvec": Style(BLUE, "circle-open", "o"),
    "blockskip-strided": Style(AZURE, "pentagon-open", "p"),
    "blockskip-scalar": Style(GREEN, "circle-open", "o"),
    "blockskip-fused": Style(PURPLE, "circle", "o"),
    "blockskip-dequantize": Style(AMBER, "pentagon", "p"),
    "blockskip-int8-mma": Style(VERMILLION, "circle-open", "o"),
    "sdpa": Style(VERMILLION, "square", "s"),
    "sdpa-causal": Style(VERMILLION, "square-open", "s"),
    "sdpa-math": Style(BROWN, "x-open", "X"),
    "sdpa-flash": Style(GREEN, "square-open", "s"),
    "sdpa-efficient": Style(VIOLET, "square", "s"),
    "sdpa-efficient-mask": Style(DARK, "x", "X"),
    "sdpa-cudnn": Style(WINE, "diamond-open", "D"),
    "flex": Style(AMBER, "diamond", "D"),
    "flash-window": Style(GREEN, "square", "s"),
    "efficient-window": Style(VIOLET, "square-open", "s"),
    "fa3": Style(PURPLE, "triangle-up", "^"),
    "fa4": Style(BROWN, "triangle-down", "v"),
    "blockskip-varlen": Style(PURPLE, "pentagon", "p"),
    "flash-varlen": Style(GREEN, "cross-open", "P"),
    "torch-varlen": Style(OLIVE, "star-open", "*"),
    "fa3-varlen": Style(PURPLE, "triangle-up-open", "^"),
    "fa4-varlen": Style(BROWN, "triangle-down-open", "v"),
    "flashinfer": Style(OLIVE, "triangle-up", "^"),
    "flashinfer-tensor": Style(OLIVE, "triangle-up-open", "^"),
    "flashinfer-prefill": Style(OLIVE, "triangle-down", "v"),
    "flashinfer-batch": Style(OLIVE, "triangle-down-open", "v"),
    "ffpa": Style(WINE, "triangle-up", "^"),
    "bf16": Style(VERMILLION, "square", "s"),
    "dequantize": Style(AMBER, "diamond", "D"),
    "tinygemm": Style(BROWN, "star", "*"),
    "humming": Style(GREEN, "triangle-up", "^"),
    "humming-int8": Style(GREEN, "triangle-up-open", "^"),
    "gemlite": Style(DARK, "triangle-down", "v"),
    "transformers": Style(AMBER, "diamond", "D"),
    "transformers-eager": Style(VIOLET, "diamond-open", "D"),
    "transformers-compiled": Style(AMBER, "diamond-open", "D"),
    "llama.cpp": Style(WINE, "triangle-up", "^"),
    "llama.cpp-cublas": Style(WINE, "triangle-up-open", "^"),
    "llama.cpp-plain": Style(OLIVE, "triangle-down", "v"),
    "llama.cpp-cublas-plain": Style(OLIVE, "triangle-down-open", "v"),
    "executorch": Style(PURPLE, "hexagon", "h"),
    "executorch split-K": Style(PURPLE, "hexagon", "h"),
    "executorch standard": Style(WINE, "hexagon", "h"),
    "reference": Style(VIOLET, "cross", "P"),
    "ladder-1-dense": Style(VERMILLION, "circle-open", "o"),
    "ladder-2-mask": Style(AMBER, "pentagon-open", "p"),
    "ladder-3-bounds": Style(GREEN, "circle-open", "o"),
    "ladder-4-coalesced": Style(AMBER, "square-open", "s"),
    "ladder-5-splits": Style(GREEN, "square-open", "s"),
    "ladder-6-vector": Style(BROWN, "square-open", "s"),
    "ladder-7-joined": Style(PURPLE, "pentagon", "p"),
    "ladder-8-fused": Style(AZURE, "pentagon-open", "p"),
}
"""Of every contender, in every figure. A marker with a circle or pentagon is ours; grey is what roofs allow."""
OTHERS = (
    Style(GREEN, "triangle-up", "^"),
    Style(PURPLE, "triangle-down", "v"),
    Style(OLIVE, "star", "*"),
    Style(VIOLET, "hexagon", "h"),
)
PREDICTED = (GREEN, AMBER, PURPLE, OLIVE)
"""Colours of what is predicted: by machine, and of each the contenders."""
VARIANTS = (BLUE, VERMILLION, AMBER, GREEN, PURPLE, AZURE)
"""Colours of the settings of a single contender."""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
STATIC_DASHES = ("-", "--", ":", "-.", (0, (8, 3)))
HATCHES = {"predicted": ".", "published": "/"}
"""What bars are filled with whose time nobody measured here; both libraries know these letters."""
ALIKE = ("", "x", "-", "|")
"""What bars are filled with whose colour is like that of one before."""
SOURCE_DASH = {"predicted": 2, "published": 1}
"""Predicted lines are dotted and published ones dashed whatever they show: nobody takes them for a measurement."""


def beside(look: Style, dash: int, source: str, sources: Iterable[str]) -> tuple[Style, int]:
    """A line's look and dash among those of all `sources` of a figure: none is taken for one of another source.

    What is recorded is dash-dotted with dots in its markers where something is measured, too. What others published is
    dashed with open markers, and never in the blue that is ours.
    """
    if source == "recorded" and "measured" in sources:
        return replace(look, marker=look.marker.removesuffix("-dot") + "-dot"), DASHES.index("dashdot")
    if source == "published":
        colour = PURPLE if look.colour == BLUE else look.colour
        return replace(look, colour=colour, marker=look.marker.removesuffix("-open") + "-open"), SOURCE_DASH[source]
    return look, SOURCE_DASH.get(source, dash)


def style(contender: str) -> Style:
    """The style of a contender; an unknown name always gets the same one of four other styles."""
    return STYLES.get(contender) or OTHERS[sum(contender.encode()) % len(OTHERS)]


def hatch(source: str, colour: str, before: Iterable[tuple[str, str]]) -> str:
    """What a bar is filled with: what says its source, else the first that no bar of a like colour has.

    before: colour and filling of each bar of the group that stands before it.
    """
    taken = [filling for other, filling in before if alike(colour, other)]
    return HATCHES.get(source) or next((filling for filling in ALIKE if filling not in taken), ALIKE[-1])


def predicted_colour(number: int) -> str:
    """The colour of a figure's predictions by their order."""
    return PREDICTED[number % len(PREDICTED)]


def _word(source: str) -> str:
    return {"measured": "measured on", "recorded": "recorded on", "predicted": "predicted for"}.get(
        source, "published by"
    )


def provenance(source: str, device: str) -> str:
    """`measured on X`, `recorded on X`, `predicted for X` or `published by X`."""
    return f"{_word(source)} {device}"


def source_label(source: str, device: str) -> str:
    """`measured: X` for a menu, without the brackets and trade marks in the device's full name."""
    return f"{source}: {device.replace('(R)', '').replace(' Processor', '').partition(' (')[0]}"


def source_labels(pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """The label of each (source, device) in a legend: empty if there is only one; with the device if needed."""
    distinct = list(dict.fromkeys(pairs))
    sources = [source for source, _ in distinct]
    alone = {pair: pair[0] if sources.count(pair[0]) == 1 else source_label(*pair) for pair in distinct}
    return alone if len(distinct) > 1 else dict.fromkeys(distinct, "")


def provenances(pairs: Iterable[tuple[str, str]]) -> str:
    """All sources of a figure in one line, each once, in order of appearance: `measured on X and Y`."""
    devices: dict[str, dict[str, None]] = {}
    for source, device in pairs:
        devices.setdefault(_word(source), {})[device] = None
    return "; ".join(f"{word} {listed(list(names))}" for word, names in devices.items())


def tokens(count: float) -> str:
    """A number of tokens as axes show it: 512, 1k, 1.5k, 128k, 1M (k is 1,024); 3,000 is written out.

    What is shortened is exact: a k or M says so many times 1,024 or 1,048,576, and 127k is 130,048.
    """
    count = int(count)
    for unit, mark in ((1 << 20, "M"), (1 << 10, "k")):
        short = f"{count / unit:.5g}"
        if count >= unit and count % 128 == 0 and float(short) * unit == count:
            return short + mark
    return f"{count:,}"


PREFIXES = (
    (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1, ""), (1e-3, "m"), (1e-6, "µ"),
    (1e-9, "n"),
)  # fmt: skip


def quantity(value: float, unit: str) -> str:
    """A value with an SI prefix and three digits: `1.20 TFLOP`, `850 µs` for 8.5e-4 s."""
    return _prefixed(value, unit, digits)


def tick(value: float, unit: str) -> str:
    """A round value at a mark of an axis: as `quantity`, without noughts behind it: `2 ms`."""
    return _prefixed(value, unit, "{:.3g}".format)


def _prefixed(value: float, unit: str, text: Callable[[float], str]) -> str:
    if value == 0 or value != value:
        return f"0 {unit}" if value == 0 else f"no {unit}"
    factor, prefix = next((pair for pair in PREFIXES if abs(value) >= pair[0] * 0.9995), PREFIXES[-1])
    return f"{text(value / factor)} {prefix}{unit}"


def seconds(value: float) -> str:
    """A time in a fitting unit: `5.60 µs`, `12.3 ms`, `2.50 s`."""
    return quantity(value, "s")


def ratio(value: float) -> str:
    """`3.4×`."""
    return f"{value:.2f}×" if value < 10 else f"{value:.1f}×" if value < 100 else f"{value:.0f}×"
