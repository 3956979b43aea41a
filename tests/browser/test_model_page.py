"""The model explorer in JupyterLab: keyboard, pointer and controls move bars and words; no label lies on another."""

from __future__ import annotations

import pytest
from test_int4_page import OVERLAPS

pytestmark = pytest.mark.browser

CELL = "from skiplab import ModelExplorer\nModelExplorer(runs=[])"


def test_bars_windows_and_drafts(show):
    from playwright.sync_api import expect

    page = show(CELL)

    explorer = page.locator(".skiplab-model-explorer")
    explorer.wait_for()
    words, picture = explorer.locator(".skiplab-model-counts"), explorer.locator(".skiplab-parts-picture")
    svg, about = picture.locator("svg"), explorer.locator(".skiplab-parts-about")
    expect(words).to_contain_text("A prompt of 2,048 tokens: 165 ms")
    expect(svg).to_have_attribute("aria-label", words.inner_text().rstrip("."))
    assert svg.evaluate(OVERLAPS) == []

    picture.focus()
    picture.press("ArrowDown")
    expect(about).to_contain_text(
        "attention sliding: 3.26 ms predicted, 2.0\u00a0% of the call, limited by the rate of products"
    )
    picture.press("End")
    expect(about).to_contain_text("pointwise: 3.95 µs predicted")
    svg.locator('rect[data-hint^="gate+up"]').first.hover()
    expect(about).to_contain_text("gate+up: 71.9 ms predicted")

    explorer.locator(".skiplab-drafts input[type=range]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(words).to_contain_text("A step of 4 tokens behind it, 3 of them drafts, 2.53 kept")
    explorer.get_by_label("the model's own window").uncheck()
    expect(explorer.locator(".skiplab-window input[type=range]")).to_be_enabled()
    slider = explorer.locator(".skiplab-window input[type=range]")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(words).to_contain_text("window 2,048")
    expect(explorer.locator('.skiplab-model-windows [aria-current="true"]')).to_contain_text("2,048")
    explorer.locator(".skiplab-model select").select_option(label="llama3-8b")
    expect(words).to_contain_text("llama3-8b, int4")
    expect(explorer).to_contain_text("llama3-8b has no sliding layers")
    assert svg.evaluate(OVERLAPS) == []
