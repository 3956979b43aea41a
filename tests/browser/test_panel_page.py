"""The sweep panel in JupyterLab: another operation, a sweep of decode, and predictions laid over what it measured."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.browser

CELL = """from skiplab import SweepPanel
SweepPanel(["blockskip", "sdpa"], operation="decode", kv_len=[128, 512], window=[None, 64], budget_s=0.2,
           directory="runs")"""

FITS = """() => {
  const figure = document.querySelector('.skiplab-sweep .js-plotly-plot');
  return figure.querySelector('.svg-container').clientWidth === figure.clientWidth;
}"""


def test_decode_is_swept_and_a_prediction_laid_over_it(show):
    from playwright.sync_api import expect

    page = show(CELL, 1700)
    page.set_viewport_size({"width": 1000, "height": 1700})

    panel = page.locator(".skiplab-sweep")
    panel.wait_for()
    expect(panel.locator(".skiplab-kv_len input")).to_have_value("128, 512")
    panel.locator(".skiplab-run").click()
    expect(panel.locator(".skiplab-run")).to_be_disabled()
    expect(panel.locator("[role=status]")).to_contain_text("done; the run is kept as")
    figure = panel.locator(".js-plotly-plot")
    expect(figure).to_contain_text("measured on")
    expect(figure).to_contain_text("least time that the roofs allow")
    page.wait_for_function(FITS)

    panel.locator(".skiplab-stored select").select_option(label="predicted: NVIDIA H200, at the settings beside")
    expect(figure).to_contain_text("predicted for NVIDIA H200")
    view = panel.locator(".skiplab-view select")
    view.select_option(label="speed-up over SDPA, by cache length")
    expect(figure.locator(".shapelayer path")).to_have_count(1)
    view.select_option(label="time, by cache length")
    expect(figure).to_contain_text("least time that the roofs allow")
    expect(figure.locator(".shapelayer path")).to_have_count(0)  # no line of the figure before
    page.mouse.move(5, 5)
    expect(figure.locator(".modebar")).to_have_css("opacity", "0")  # its buttons show under the pointer
    view.select_option(label="time, cache length × window")
    expect(figure).to_contain_text("window (keys)")

    panel.locator(".skiplab-operation select").select_option(label="quantised linear layer")
    expect(panel.locator(".skiplab-group_size input")).to_have_value("32")
    expect(panel.locator(".skiplab-contender-bf16")).to_be_visible()
    expect(figure).to_contain_text("press Run to measure")
    panel.locator(".skiplab-bits input").fill("4, few")
    panel.locator(".skiplab-run").click()
    alert = panel.locator("[role=alert]")
    expect(alert).to_contain_text("bits: got 'few'; allowed are whole numbers")


FIGURE = """() => {
  const box = (name) => document.querySelector(`.skiplab-sweep ${name}`).getBoundingClientRect();
  const [title, legend, plot] = [box('.gtitle'), box('.legend'), box('.xgrid')];
  return [legend.top - title.bottom, plot.top - legend.bottom];
}"""
COLLIDES = """() => {
  const box = (name) => document.querySelector(`.skiplab-sweep ${name}`).getBoundingClientRect();
  return box('.xtitle').bottom - box('.annotation').top - 4;
}"""
"""By how many pixels the axis' title hangs into the line that says where the numbers are from."""
OVERLAID = """from skiplab import SweepPanel
from skiplab.paths import data_path
panel = SweepPanel(operation="decode", directory="runs")
named = {name: path for name, path in panel._stored.options}
panel._stored.value = [path for name, path in named.items() if "gemma4-sliding" in name or "NVIDIA H200" in name]
panel"""


def test_no_blank_is_left_about_the_legend_of_runs_laid_over_each_other_and_menus_show_their_arrows(show):
    page = show(OVERLAID, 1700)
    page.locator(".skiplab-sweep .legendtext").nth(10).wait_for()
    page.wait_for_function(FITS)  # without a change of the window's width, at which plotly looks for one by itself
    for width in (1000, 1280, 1600):
        page.set_viewport_size({"width": width, "height": 1700})
        page.wait_for_timeout(700)
        over, under = page.evaluate(FIGURE)
        assert 0 <= over < 30 and -4 <= under < 20, (width, over, under)
        assert page.evaluate(COLLIDES) < 0, width
    arrow = page.locator(".skiplab-view select").evaluate("menu => getComputedStyle(menu).backgroundImage")
    assert "%23888" in arrow  # grey, which reads on a light and on a dark page; ipywidgets' own is black
