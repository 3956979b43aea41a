"""The split explorer in JupyterLab: keyboard, pointer and controls move picture and words; no label lies on another."""

from __future__ import annotations

import pytest
from test_int4_page import OVERLAPS

pytestmark = pytest.mark.browser

CELL = "from skiplab.widgets.splits.explorer import SplitExplorer\nSplitExplorer()"


def test_policies_lengths_and_programs(show):
    from playwright.sync_api import expect

    page = show(CELL)

    explorer = page.locator(".skiplab-split-explorer")
    explorer.wait_for()
    words, picture = explorer.locator(".skiplab-split-counts"), explorer.locator(".skiplab-splits-picture")
    svg, about = picture.locator("svg"), explorer.locator(".skiplab-splits-about")
    expect(words).to_contain_text("8 splits × 16 KV heads = 128 programs.")
    expect(svg).to_have_attribute("aria-label", words.inner_text().rstrip("."))
    assert svg.evaluate(OVERLAPS) == []

    picture.focus()
    picture.press("ArrowRight")
    expect(about).to_contain_text("Program 1, split 1 of KV head 0: keys 256–511, 4 tiles")
    picture.press("ArrowDown")
    expect(about).to_contain_text("Program 9, split 1 of KV head 1")
    svg.locator('rect[data-lanes="13"]').nth(1).click()
    picture.press("ArrowRight")
    expect(about).to_contain_text("Program 14, split 6 of KV head 1")

    explorer.get_by_label("ExecuTorch: a share every 256 slots").check()
    expect(words).to_contain_text("2,016 of them without a key")
    expect(explorer.locator('[aria-current="true"]')).to_contain_text("ExecuTorch")
    svg.locator('rect[data-hint^="Split 90 "]').hover()
    expect(about).to_contain_text("no key, idle")
    assert svg.evaluate(OVERLAPS) == []

    explorer.get_by_label("no window").uncheck()
    expect(explorer).to_contain_text("Orange: keys before the window")
    slider = explorer.locator(".skiplab-kv-len input[type=range]")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(words).to_contain_text("4,096 keys in 131,072 slots, window 1,024")
    explorer.locator(".skiplab-gpu select").select_option(index=2)
    expect(words).to_contain_text("of 108 SMs read")
    assert svg.evaluate(OVERLAPS) == []
