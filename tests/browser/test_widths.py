"""Explorers at the widths that a JupyterLab with its file browser has: nothing cut off, controls beside the picture."""

from __future__ import annotations

import pytest
from test_int4_page import OVERLAPS

pytestmark = pytest.mark.browser

WIDTHS = (1000, 1150, 1280, 1430, 1445, 1480, 1600, 2000)
CELLS = """# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---
# %%
from skiplab import Int4Explorer, MaskExplorer, SplitExplorer, SweepPanel
MaskExplorer()

# %%
Int4Explorer()

# %%
SplitExplorer()

# %%
SweepPanel(directory="runs")

# %%
from skiplab import AnatomyExplorer, ReplayExplorer
ReplayExplorer(q_len=128)

# %%
AnatomyExplorer()
"""
CUT = """page => {
  const edge = page.closest('.jp-OutputArea-output').getBoundingClientRect().right + 1;
  const hidden = (node) => node !== page && getComputedStyle(node).overflowX !== 'visible';
  const inside = (node) => {
    for (let up = node.parentElement; up !== page; up = up.parentElement) if (hidden(up)) return true;
  };
  return [...page.querySelectorAll('*')].filter(node => node.getClientRects().length && !node.closest('option, .plotly')
    && !inside(node) && node.getBoundingClientRect().right > edge).map(node => node.className || node.tagName);
}"""
"""What lies beyond the right edge of the output, and is not scrolled in a box of its own."""
SIDES = """page => {
  const box = (name) => page.querySelector(name).getBoundingClientRect();
  const [slider, picture] = [box('.skiplab-count-slider'), box('canvas, svg')];
  return [slider.right < picture.left, slider.top < picture.bottom && picture.top < slider.bottom + 300];
}"""


def test_nothing_is_cut_off_and_the_picture_stays_beside_the_controls(show, tmp_path):
    notebook = tmp_path / "explorers.py"
    notebook.write_text(CELLS)
    page = show(notebook, 1100)
    pages = page.locator(".skiplab-page")
    pages.nth(5).wait_for()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 1100})
        page.wait_for_timeout(400)
        for number in range(6):
            assert pages.nth(number).evaluate(CUT) == [], (width, number)
        for number in range(3):
            assert pages.nth(number).evaluate(SIDES) == [True, True], (width, number)
        for svg in page.locator(".skiplab-page svg[data-left]").all():
            assert svg.evaluate(OVERLAPS) == [], width
