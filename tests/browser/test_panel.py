"""The sweep panel in JupyterLab: another operation, a sweep of decode, and predictions laid over what it measured."""

from __future__ import annotations

import pytest
from test_explorer import QUIET, WAIT_MS, leaves_machine

pytestmark = pytest.mark.browser

CELL = """from skiplab import SweepPanel
SweepPanel(["blockskip", "sdpa"], operation="decode", kv_len=[128, 512], window=[None, 64], budget_s=0.2,
           directory="runs")"""


@pytest.fixture
def lab(serve) -> str:
    """Address of a JupyterLab that shows the cell."""
    return serve(CELL)


def test_decode_is_swept_and_a_prediction_laid_over_it(chromium, lab):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page(viewport={"width": 1500, "height": 1700})
        page.set_default_timeout(WAIT_MS)
        problems, outside = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: outside.append(request.url) if leaves_machine(request.url) else None)
        page.goto(lab)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=WAIT_MS)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()

        panel = page.locator(".skiplab-sweep")
        panel.wait_for()
        expect(panel.locator(".skiplab-kv_len input")).to_have_value("128, 512", timeout=WAIT_MS)
        panel.locator(".skiplab-run").click()
        expect(panel.locator("[role=status]")).to_contain_text("done; the run is kept as", timeout=WAIT_MS)
        figure = panel.locator(".js-plotly-plot")
        expect(figure).to_contain_text("measured on", timeout=WAIT_MS)
        expect(figure).to_contain_text("least time that the roofs allow", timeout=WAIT_MS)

        panel.locator(".skiplab-stored select").select_option(label="predicted: NVIDIA H200, at the settings beside")
        expect(figure).to_contain_text("predicted for NVIDIA H200", timeout=WAIT_MS)
        panel.locator(".skiplab-view select").select_option(label="time, cache length × window")
        expect(figure).to_contain_text("window (keys)", timeout=WAIT_MS)

        panel.locator(".skiplab-operation select").select_option(label="quantised linear layer")
        expect(panel.locator(".skiplab-group_size input")).to_have_value("32", timeout=WAIT_MS)
        expect(panel.locator(".skiplab-contender-bf16")).to_be_visible()
        expect(figure).to_contain_text("no point to show yet", timeout=WAIT_MS)
        panel.locator(".skiplab-bits input").fill("4, few")
        panel.locator(".skiplab-run").click()
        alert = panel.locator("[role=alert]")
        expect(alert).to_contain_text("bits: got 'few'; allowed are whole numbers", timeout=WAIT_MS)
        browser.close()
    assert not problems
    assert not outside
