"""A person's first minutes: JupyterLab opens 01_tiles, runs it, and the map and the words follow the keyboard."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import jupytext
import pytest

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01_tiles.py"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
WAIT_MS = 90_000


@pytest.fixture
def chromium() -> str:
    """Path of a Chromium; without one the test is skipped, or fails where SKIPLAB_REQUIRE_BROWSER=1 forbids that."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    reason = f"no Chromium on this machine (looked for {', '.join(NAMES)}); Debian: apt install chromium"
    if os.environ.get("SKIPLAB_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture
def lab(tmp_path) -> Iterator[str]:
    """Address of a JupyterLab that serves a copy of 01_tiles, with settings of its own."""
    port = free_port()
    jupytext.write(jupytext.read(NOTEBOOK), tmp_path / "01_tiles.ipynb")
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
            yield f"http://127.0.0.1:{port}/lab/tree/01_tiles.ipynb?reset&token=test"
        finally:
            server.terminate()
            server.wait(20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until_up(address: str, server: subprocess.Popen, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended; its log is in server.log of the test's folder"
        try:
            urllib.request.urlopen(address, timeout=1)
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"JupyterLab did not answer within {limit_s:g} s")


PIXELS = """canvas => {
  const data = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;
  let blue = 0, orange = 0;
  for (let i = 0; i < data.length; i += 4) {
    if (data[i] === 0 && data[i + 1] === 114 && data[i + 2] === 178) blue++;
    if (data[i] === 230 && data[i + 1] === 159 && data[i + 2] === 0) orange++;
  }
  return [blue, orange];
}"""


def test_window_slider_moves_map_and_words(chromium, lab):
    from playwright.sync_api import expect, sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=QUIET)
        page = browser.new_page(viewport={"width": 1400, "height": 1400})
        page.set_default_timeout(WAIT_MS)
        problems, outside = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: outside.append(request.url) if leaves_machine(request.url) else None)
        page.goto(lab)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        # the notebook's own indicator says idle while there is no kernel yet, and Run All is then dropped
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=WAIT_MS)
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()

        explorer = page.locator(".skiplab-explorer")
        explorer.wait_for()
        picture, words = explorer.locator(".skiplab-canvas"), explorer.locator(".skiplab-counts")
        expect(words).to_contain_text("300 of 2,048 tiles visited, 85 % skipped")
        picture.scroll_into_view_if_needed()
        expect(picture).to_have_attribute("aria-label", holding("300 of 2,048 tiles visited"))
        before = picture.evaluate(PIXELS)

        slider = explorer.locator(".skiplab-window [role=slider]")
        slider.focus()
        for _ in range(4):
            slider.press("ArrowRight")
        expect(words).to_contain_text("504 of 2,048 tiles visited, 75 % skipped")
        expect(explorer.locator(".skiplab-window")).to_be_visible()
        expect(picture).to_have_attribute("aria-label", holding("504 of 2,048 tiles visited"))
        after = picture.evaluate(PIXELS)
        assert after[0] > 1.5 * before[0], (before, after)  # a wider window: more full tiles

        picture.focus()
        for key in ("ArrowDown", "ArrowDown", "Enter"):
            picture.press(key)
        opened = explorer.locator(".skiplab-right .skiplab-about")
        expect(opened).to_contain_text("pairs kept")
        expect(explorer.locator(".skiplab-detail")).to_be_visible()
        browser.close()
    assert not problems
    assert not outside


def leaves_machine(address: str) -> bool:
    return "127.0.0.1" not in address and not address.startswith(("data:", "blob:"))


def holding(text: str) -> re.Pattern[str]:
    """A pattern that finds `text` anywhere."""
    return re.compile(re.escape(text))
