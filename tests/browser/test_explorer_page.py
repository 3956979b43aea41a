"""A person's first minutes: JupyterLab opens 01_tiles, runs it, and the map and the words follow the keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from skiplab.figures import theme
from skiplab.widgets.mask import view

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01_tiles.py"


PIXELS = """canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let blue = 0, orange = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] === 0 && data[i + 1] === 114 && data[i + 2] === 178) blue++;
    if (data[i] === 230 && data[i + 1] === 159 && data[i + 2] === 0) orange++;
  }
  return [blue, orange];
}"""


FITS = """() => {
  const explorer = document.querySelector('.skiplab-explorer');
  return explorer.clientHeight <= explorer.closest('.jp-WindowedPanel-outer').clientHeight;
}"""


def test_window_slider_moves_map_and_words(show):
    from playwright.sync_api import expect

    page = show(NOTEBOOK, 1400)

    explorer = page.locator(".skiplab-explorer")
    explorer.wait_for()
    picture, words = explorer.locator(".skiplab-canvas"), explorer.locator(".skiplab-counts")
    expect(words).to_contain_text("300 of 2,048 tiles visited, 85 % skipped")
    picture.scroll_into_view_if_needed()
    expect(picture).to_have_attribute("aria-label", holding("300 of 2,048 tiles visited"))
    before = picture.evaluate(PIXELS)

    page.set_viewport_size({"width": 1280, "height": 800})
    page.wait_for_function(FITS)  # all of it on one screen
    page.set_viewport_size({"width": 1500, "height": 1400})

    slider = explorer.locator(".skiplab-window input[type=range]")
    expect(slider).to_have_accessible_name("Window")
    expect(slider).to_have_attribute("aria-valuetext", "512 keys")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(words).to_contain_text("504 of 2,048 tiles visited, 75 % skipped")
    expect(explorer.locator(".skiplab-window")).to_be_visible()
    expect(picture).to_have_attribute("aria-label", holding("504 of 2,048 tiles visited"))
    after = picture.evaluate(PIXELS)
    assert after[0] > 1.5 * before[0], (before, after)  # a wider window: more full tiles

    picture.focus()
    for key in ("ArrowDown", "ArrowDown", "Enter"):
        picture.press(key)
    opened = explorer.locator(".skiplab-right .skiplab-about")
    expect(opened).to_contain_text("pairs kept")
    expect(explorer.locator(".skiplab-detail")).to_be_visible()

    field, told = (explorer.locator(f".skiplab-window .skiplab-count-{name}") for name in ("field", "problem"))
    for text in ("abc", "5000"):
        field.fill(text)
        field.press("Enter")
        expect(told).to_contain_text(f"{text}: a whole number from 1 to 4,096 is needed; still 1,024")
        expect(field).to_have_value(text)
    field.fill("512")
    field.press("Enter")
    expect(told).to_have_text("")
    expect(words).to_contain_text("300 of 2,048 tiles visited")

    where, zoom = explorer.locator(".skiplab-where"), explorer.get_by_role("button", name="Zoom in")
    expect(where).to_be_hidden()
    picture.focus()
    picture.press("Escape")
    for _ in range(2):
        zoom.click()
    expect(where).to_contain_text("Shown: queries 128–1,151, keys 0–1,023")  # about the focused tile
    expect(explorer.locator(".skiplab-mini")).to_be_visible()
    picture.hover(position={"x": 300, "y": 200})
    page.mouse.down()
    page.mouse.move(*(at - 100 for at in middle(picture, 300, 200)), steps=4)
    page.mouse.up()
    expect(where).not_to_contain_text("keys 0–1,023")
    explorer.get_by_role("button", name="Show the whole map").click()
    expect(where).to_be_hidden()


def middle(picture, x: float, y: float) -> tuple[float, float]:
    """A place in the picture as one in the page."""
    box = picture.bounding_box()
    return box["x"] + x, box["y"] + y


def holding(text: str) -> re.Pattern[str]:
    """A pattern that finds `text` anywhere."""
    return re.compile(re.escape(text))


def test_the_map_names_sizes_as_figures_do(browser):
    script = Path(view.__file__).with_name("draw.js").read_text(encoding="utf-8")
    named = re.search(r"^function tokens\(count\) \{.*?^\}", script, re.DOTALL | re.MULTILINE)
    many = re.search(r"^const many = .*;$", script, re.MULTILINE)
    assert named and many
    counts = [1, 1000, 1024, 1536, 3000, 130048, 131072, 131200, 1 << 20, (1 << 20) + 1024, *range(128, 1 << 21, 12928)]
    with browser.new_page() as page:
        found = page.evaluate(f"counts => {{ {many[0]} {named[0]} return counts.map(tokens); }}", counts)
    assert found == [theme.tokens(count) for count in counts]
