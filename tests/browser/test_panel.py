"""The sweep panel in JupyterLab: another operation, a sweep of decode, and predictions laid over what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator

import nbformat
import pytest
from test_explorer import QUIET, WAIT_MS, chromium, free_port, leaves_machine, wait_until_up

pytestmark = pytest.mark.browser
__all__ = ["chromium"]  # the fixture

CELL = """from skiplab import SweepPanel
SweepPanel(["blockskip", "sdpa"], operation="decode", kv_len=[128, 512], window=[None, 64], budget_s=0.2,
           directory="runs")"""


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """Address of a JupyterLab that serves a notebook with the panel alone, with settings of its own."""
    port = free_port()
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(notebook, tmp_path / "panel.ipynb")
    settings = tmp_path / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    no_news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(no_news))
    places = {
        "JUPYTER_CONFIG_DIR": ".config", "JUPYTER_DATA_DIR": ".data", "JUPYTER_RUNTIME_DIR": ".runtime", "HOME": "",
        "IPYTHONDIR": ".ipython", "JUPYTERLAB_SETTINGS_DIR": ".settings", "JUPYTERLAB_WORKSPACES_DIR": ".workspaces",
    }  # fmt: skip
    environment = os.environ | {name: str(tmp_path / place) for name, place in places.items()}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1",
               f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--IdentityProvider.token=test",
               f"--ServerApp.root_dir={tmp_path}"]  # fmt: skip
    with (tmp_path / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            wait_until_up(f"http://127.0.0.1:{port}/api/status?token=test", server)
            yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb?reset&token=test"
        finally:
            server.terminate()
            server.wait(20)


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
