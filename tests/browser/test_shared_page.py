"""The page that `skiplab share` makes: as light or dark as the screen that shows it, and light on paper."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from IPython.core.formatters import DisplayFormatter
from nbformat import v4
from PIL import Image
from skiplab import MaskExplorer, figures, share
from skiplab.figures.vision import MARK_CONTRAST, contrast

pytestmark = pytest.mark.browser
TEXT_CONTRAST = 4.5  # WCAG 2.2, 1.4.3
WIDTHS = (1280, 1600)
COLOURS = """node => {
  let ground = node;
  const clear = one => ['rgba(0, 0, 0, 0)', 'transparent'].includes(getComputedStyle(one).backgroundColor);
  while (ground.parentElement && clear(ground)) ground = ground.parentElement;
  const own = getComputedStyle(node);
  return [node.closest('svg') ? own.fill : own.color, getComputedStyle(ground).backgroundColor];
}"""
READ = {
    "prose": ".jp-MarkdownOutput p", "code": ".jp-CodeCell .highlight pre", "a string": ".highlight .s2",
    "a comment": ".highlight .c1", "printed": ".jp-RenderedText pre", "a table's head": ".jp-RenderedHTMLCommon th",
    "a cell": ".jp-RenderedHTMLCommon td", "a mark of an axis": ".xtick text", "a title": ".gtitle",
}  # fmt: skip


@pytest.fixture
def cells() -> list[Any]:
    """A notebook's cells as they are after running: prose, code, words, a table, a figure, an explorer's picture."""
    shown: list[Any] = [
        pd.DataFrame({"keys": [512, 1024], "ms": [0.1, 0.2]}),
        figures.speedup(figures.published_prefill()),
        MaskExplorer(q_len=1024),
    ]
    outputs = []
    for one in shown:
        data = one._repr_mimebundle_() if isinstance(one, MaskExplorer) else DisplayFormatter().format(one)[0]
        data = data[0] if isinstance(data, tuple) else data
        data = {kind: _encoded(value) for kind, value in data.items() if kind != share.WIDGET}
        outputs.append(v4.new_output("display_data", data))
    source = '# what a window leaves\nprint("window", 512)'
    printed = v4.new_output("stream", name="stdout", text="window 512\n")
    return [
        v4.new_markdown_cell("# A question\n\nWhat does a window leave?"),
        v4.new_code_cell(source, outputs=[printed, *outputs]),
    ]


def _encoded(value: Any) -> Any:
    return base64.b64encode(value).decode() if isinstance(value, bytes) else value


@pytest.fixture
def opened(browser, cells, tmp_path) -> Iterator[Callable[..., Any]]:
    """opened(scheme, width) -> the shared page on a light or a dark screen, without a network."""
    file = tmp_path / "shared.html"
    notebook = v4.new_notebook(cells=cells)
    share.plain(notebook)
    file.write_text(share.page(notebook), encoding="utf-8")
    contexts = []

    def start(scheme: str, width: int = WIDTHS[0]) -> Any:
        size = {"width": width, "height": 1000}
        contexts.append(browser.new_context(offline=True, color_scheme=scheme, viewport=size))
        page = contexts[-1].new_page()
        page.goto(Path(file).as_uri())
        page.wait_for_selector(".js-plotly-plot .xtick text")
        return page

    yield start
    for context in contexts:
        context.close()


def hexed(colour: str) -> str:
    """`rgb(17, 17, 17)` as `#111111`."""
    return "#" + "".join(f"{int(part):02X}" for part in re.findall(r"[\d.]+", colour)[:3])


def ground(page: Any) -> str:
    return hexed(page.locator("body").evaluate("node => getComputedStyle(node).backgroundColor"))


def unread(page: Any) -> dict[str, float]:
    """The contrast of what stands out too little from what is behind it."""
    found = {name: page.locator(where).first.evaluate(COLOURS) for name, where in READ.items()}
    ratios = {name: contrast(hexed(text), hexed(behind)) for name, (text, behind) in found.items()}
    return {name: ratio for name, ratio in ratios.items() if ratio < TEXT_CONTRAST}


@pytest.mark.parametrize(("scheme", "colour"), [("light", "#FFFFFF"), ("dark", "#111111")])
@pytest.mark.parametrize("width", WIDTHS)
def test_it_is_as_light_or_dark_as_the_screen_and_all_of_it_reads(opened, scheme, colour, width):
    page = opened(scheme, width)
    assert ground(page) == colour
    assert unread(page) == {}
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


def test_on_paper_it_is_light_whatever_the_screen_is(opened):
    page = opened("dark")
    page.emulate_media(media="print", color_scheme="dark")
    assert ground(page) == "#FFFFFF" and unread(page) == {}
    page.emulate_media(media="screen", color_scheme="light")  # as the reader's system changes in the evening
    assert ground(page) == "#FFFFFF"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pictures_read_on_both(opened, scheme):
    page = opened(scheme)
    picture = page.locator(".jp-RenderedImage img")
    page_colour = ground(page)
    shown = Image.open(io.BytesIO(picture.screenshot())).convert("RGB")
    counted = shown.getcolors(shown.width * shown.height)
    assert counted is not None
    colours = {"#{:02X}{:02X}{:02X}".format(*rgb): count for count, rgb in counted}
    assert max(colours, key=lambda one: colours[one]) == page_colour  # a clear ground
    standing = [one for one, count in colours.items() if count > 50 and contrast(one, page_colour) >= MARK_CONTRAST]
    assert standing  # its tiles and its text
