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
