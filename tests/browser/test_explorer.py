"""A person's first minutes: JupyterLab opens 01_tiles, runs it, and the map and the words follow the keyboard."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.browser

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "01_tiles.py"
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
WAIT_MS = 90_000


@pytest.fixture
def lab(serve) -> str:
    """Address of a JupyterLab that shows 01_tiles."""
    return serve(NOTEBOOK)


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
