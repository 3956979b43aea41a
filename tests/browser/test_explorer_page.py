"""A person's first minutes: JupyterLab opens 01_tiles, runs it, and the map and the words follow the keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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

    slider = explorer.locator(".skiplab-window [role=slider]")
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


def holding(text: str) -> re.Pattern[str]:
    """A pattern that finds `text` anywhere."""
    return re.compile(re.escape(text))
