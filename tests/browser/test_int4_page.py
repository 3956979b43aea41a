"""The explorer of int4 in JupyterLab: keyboard, pointer and lists move picture and words; no label lies on another."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = "from skiplab import Int4Explorer\nInt4Explorer()"
OVERLAPS = """svg => {
  const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
  const found = [];
  boxes.forEach(([name, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (across > 1 && down > 4) found.push(`${name} | ${other}`);
  }));
  return found;
}"""


def test_layouts_lanes_and_formats(show):
    from playwright.sync_api import expect

    page = show(CELL)

    explorer = page.locator(".skiplab-int4-explorer")
    explorer.wait_for()
    words, picture = explorer.locator(".skiplab-int4-counts"), explorer.locator(".skiplab-memory-picture")
    svg, about = picture.locator("svg"), explorer.locator(".skiplab-memory-about")
    expect(words).to_contain_text("metadata: 4 sectors in 2 lines")
    expect(svg).to_have_attribute("aria-label", words.inner_text().rstrip("."))
    assert svg.evaluate(OVERLAPS) == []

    picture.focus()
    picture.press("ArrowRight")
    expect(svg).to_contain_text("Lane 6's 16 bytes: weights 192–223 of row 0")
    expect(about).to_contain_text("Lane 6: bytes 96–111 of the weights")
    picture.press("ArrowDown")
    expect(svg).to_contain_text("Lane 14's 16 bytes")
    svg.locator('rect[data-lanes="20"]').first.click()
    expect(svg).to_contain_text("Lane 20's 16 bytes")
    svg.locator('rect[data-hint^="Weight 645:"]').hover()
    expect(about).to_contain_text("Weight 645: ")

    explorer.locator(".skiplab-layout select").select_option(label="strided: [groups, rows]")
    explorer.locator(".skiplab-activation-loads select").select_option(label="4 bytes a load")
    expect(words).to_contain_text("metadata: 64 sectors in 64 lines")
    expect(svg).to_contain_text("Activations, plane 1: 4 loads, 64 sectors, 16 lines")
    assert svg.evaluate(OVERLAPS) == []

    slider = explorer.locator(".skiplab-step input[type=range]")
    slider.focus()
    for _ in range(5):
        slider.press("ArrowRight")
    expect(svg).to_contain_text("Lane 20 has nothing to do in this step")
    explorer.locator(".skiplab-bits select").select_option(label="int8")
    expect(explorer.locator('[aria-current="true"]')).to_contain_text("int8, groups of 32, asymmetric")
