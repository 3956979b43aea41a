"""Recorded prefill in JupyterLab: a menu of settings that needs no kernel, and a table with its caption."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """from skiplab import figures, results
from skiplab.recorded import rated
from skiplab.store import read_runs
display(figures.attention_times(rated(read_runs(), ("*-nvidia-*", "*"))))
results.show("modes-sliding")"""


def test_the_menu_changes_what_is_shown_and_the_table_says_where_it_is_from(show):
    from playwright.sync_api import expect

    page = show(CELL, 1400)

    figure = page.locator(".jp-OutputArea .js-plotly-plot")
    figure.wait_for()
    expect(figure).to_contain_text("recorded on NVIDIA H100 80GB HBM3")
    table = page.locator("table:has(caption)")
    expect(table.locator("caption")).to_contain_text("Recorded on NVIDIA H100 80GB HBM3 with torch")
    expect(table).to_contain_text("visit all tiles (none)")

    figure.locator(".updatemenu-header").click()
    last = figure.locator(".updatemenu-dropdown-button").last
    name = last.text_content()
    assert name and "recorded: NVIDIA" not in name  # the CPU's runs come after the GPUs'
    last.click()
    expect(figure.locator(".updatemenu-header")).to_contain_text(name)
    expect(figure).not_to_contain_text("recorded on NVIDIA")
