"""Recorded prefill in JupyterLab: a menu of settings that needs no kernel, and a table with its caption."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """from skiplab import figures, results
from skiplab.rated import rated
from skiplab.store import read_runs
display(figures.attention_times(rated(read_runs(), ("*-nvidia-*", "*"))))
results.show("modes-sliding")"""
IMPORTS = "\n".join(CELL.splitlines()[:3])
FIGURE = CELL.splitlines()[3]
UNDER_MENU = """figure => {
  const box = (name) => figure.querySelector(name).getBoundingClientRect();
  const [menu, legend, plot] = [box('.updatemenu-header'), box('.legend'), box('.xgrid')];
  return (legend.left < plot.right - 20 ? legend.top : plot.top) - menu.bottom;
}"""
"""Pixels between a figure's menu and what stands under it: its legend, or the plot that has its legend beside it."""
KERNEL = """# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

"""


def test_the_menu_changes_what_is_shown_and_the_table_says_where_it_is_from(show):
    from playwright.sync_api import expect

    page = show(CELL, 1400)

    figure = page.locator(".jp-OutputArea .js-plotly-plot")
    figure.wait_for()
    expect(figure).to_contain_text("recorded on NVIDIA H100 80GB HBM3")
    table = page.locator("table[aria-label]")
    caption = page.locator("div:has(+ table[aria-label])")
    expect(caption).to_contain_text("Recorded on NVIDIA H100 80GB HBM3, median")
    assert caption.bounding_box()["height"] < 60  # two lines; the rest stands below the table
    expect(page.locator(".jp-OutputArea")).to_contain_text("With torch")
    expect(table).to_contain_text("visit all tiles (none)")

    assert figure.evaluate(UNDER_MENU) < 30
    figure.locator(".updatemenu-header").click()
    last = figure.locator(".updatemenu-dropdown-button").last
    name = last.text_content()
    assert name and "recorded: NVIDIA" not in name  # the CPU's runs come after the GPUs'
    last.click()
    expect(figure.locator(".updatemenu-header")).to_contain_text(name)
    expect(figure).not_to_contain_text("recorded on NVIDIA")
    assert figure.evaluate(UNDER_MENU) < 30  # whose legend is another


NARROW = """heights => {
  const figures = [...document.querySelectorAll('.jp-OutputArea .js-plotly-plot')];
  return figures.every((f, i) => 0 < f.clientWidth && f.clientWidth < 800 && f.clientHeight === heights[i]);
}"""


WIDE = """from skiplab import figures, ladder, results
from skiplab.rated import rated
from skiplab.store import read_runs
display(results.show("decode"))
figures.model_ladder(ladder.ladder(rated(read_runs(), results.LADDER_RUNS)), first="a prompt of 2k")"""
OVER = "node => { const cell = node.closest('.jp-OutputArea-output'); return cell.scrollWidth - cell.clientWidth; }"


def test_a_wide_table_and_the_ladder_at_1280_pixels(show):
    """The table fits its cell; the ladder keeps its height when the window changes, and its sources take two lines."""
    page = show(WIDE, 1400)
    figure, table = page.locator(".jp-OutputArea .js-plotly-plot"), page.locator("table[aria-label]")
    figure.wait_for()
    page.set_viewport_size({"width": 1280, "height": 800})
    page.wait_for_timeout(500)
    assert table.evaluate(OVER) <= 0
    high = figure.evaluate("node => node.clientHeight")
    assert high > 400 and figure.locator(".annotation[data-index='0'] tspan").count() <= 2
    for size in ({"width": 1600, "height": 500}, {"width": 1000, "height": 900}, {"width": 1280, "height": 800}):
        page.set_viewport_size(size)
        page.wait_for_timeout(400)
        assert figure.evaluate("node => node.clientHeight") == high
        assert figure.locator(".main-svg").first.evaluate("node => node.clientHeight") == high


def test_figures_keep_their_height_when_the_page_is_resized_and_a_menu_used(show, tmp_path):
    notebook = tmp_path / "figures.py"
    notebook.write_text(KERNEL + "\n\n".join(f"# %%\n{cell}" for cell in (IMPORTS, FIGURE, FIGURE, FIGURE)))
    page = show(notebook, 1400)
    figures = page.locator(".jp-OutputArea .js-plotly-plot")
    figures.nth(2).wait_for()
    before = heights(figures)
    assert min(before) > 300

    page.set_viewport_size({"width": 1000, "height": 1000})
    # while the notebook lays itself out anew a figure has no size
    page.wait_for_function(NARROW, arg=before)
    page.wait_for_timeout(500)
    assert heights(figures) == before
    figures.first.locator(".updatemenu-header").click()
    figures.first.locator(".updatemenu-dropdown-button").last.click()
    page.wait_for_timeout(500)
    assert heights(figures) == before


def heights(figures):
    return [figures.nth(i).evaluate("figure => figure.clientHeight") for i in range(figures.count())]
