"""The explorers in the classic notebook: picture and words follow the controls, and stay where no kernel draws them."""

from __future__ import annotations

import shutil

import pytest
from test_explorer_page import PIXELS, holding
from test_reopened_page import percent

pytestmark = pytest.mark.browser

CELLS = {
    "MaskExplorer(q_len=1024)": "MaskExplorer: sliding_window(512)",
    "SplitExplorer()": "SplitExplorer: blockskip, 2,048 keys",
}


@pytest.fixture
def page(serve, visit, tmp_path):
    """A notebook with a cell of each explorer, open in the classic notebook; no cell was run."""
    from nbclassic import nbclassic_path

    shown = visit(serve(percent(tmp_path, CELLS), by=f"{nbclassic_path()}/notebooks"), 1500)
    wait_until_ready(shown)
    return shown


def wait_until_ready(page) -> None:
    """Until there is a kernel, and the menu that ipywidgets adds, without which widgets are not drawn."""
    from playwright.sync_api import expect

    expect(page.locator("#menubar")).to_contain_text("Widgets")
    page.wait_for_selector(".kernel_idle_icon")


def menu(page, name: str, item: str) -> None:
    """Choose from a menu."""
    page.locator("#menubar").get_by_text(name, exact=True).click()
    page.locator(f"#{item} > a").click()


def test_explorers_follow_their_controls_and_leave_pictures(page, tmp_path):
    from playwright.sync_api import expect

    menu(page, "Cell", "run_all_cells")
    explorer, stills = page.locator(".skiplab-explorer"), page.locator(".skiplab-still")
    words, picture = explorer.locator(".skiplab-counts"), explorer.locator(".skiplab-canvas")
    expect(words).to_contain_text("60 of 128 tiles visited, 53 % skipped")
    expect(page.locator(".skiplab-live")).to_have_count(len(CELLS))
    for still in stills.all():
        expect(still).to_be_hidden()
    expect(picture).to_have_attribute("aria-label", holding("60 of 128 tiles visited"))
    before = picture.evaluate(PIXELS)
    slider = explorer.locator(".skiplab-window input[type=range]")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(words).to_contain_text("72 of 128 tiles visited")
    expect(picture).to_have_attribute("aria-label", holding("72 of 128 tiles visited"))
    after = picture.evaluate(PIXELS)
    assert after[0] > before[0], (before, after)
    policy = page.locator(".skiplab-split-explorer")
    policy.get_by_label("ExecuTorch: a share every 256 slots").check()
    expect(policy.locator(".skiplab-splits-picture svg")).to_have_attribute("aria-label", holding("without a key"))

    policy.evaluate("one => one.remove()")  # as where only the first cell was run: the second's picture stays
    expect(stills.nth(0)).to_be_hidden()
    expect(stills.nth(1).locator("img")).to_be_visible()

    menu(page, "File", "save_checkpoint")
    expect(page.locator(".checkpoint_status")).to_contain_text("Last Checkpoint")
    shutil.copy(tmp_path / "shown.ipynb", tmp_path / "again.ipynb")  # a name of its own: a kernel that knows no widget
    page.goto(page.url.replace("shown", "again"))
    wait_until_ready(page)
    missing = page.get_by_text("A Jupyter widget could not be displayed")
    expect(missing).to_have_count(len(CELLS))
    for still, told in zip(stills.all(), CELLS.values(), strict=True):
        expect(still).to_contain_text(told)
        expect(still.locator("img")).to_be_visible()
    for word in missing.all():
        expect(word).to_be_hidden()
