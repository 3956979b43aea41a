"""A saved notebook that is opened without the kernel that made it: every explorer is a picture with its words."""

from __future__ import annotations

import jupytext
import pytest
from nbconvert import HTMLExporter
from nbformat import write
from skiplab import share

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("warm_kernels")]

EXPLORERS = {
    "MaskExplorer(q_len=1024)": "MaskExplorer: sliding_window(512)",
    "SplitExplorer()": "SplitExplorer: blockskip, 2,048 keys",
    "Int4Explorer()": "Int4Explorer: int4, groups of 32",
    "ReplayExplorer(q_len=64)": "ReplayExplorer: blockskip. Program 1 of 2",
    "AnatomyExplorer(at={'window': 256})": "AnatomyExplorer: prefill 64x64x4x3 sm_90: 213 registers",
    "SweepPanel(directory='runs')": "Speed-up over dense + mask",
}
KERNEL = """# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---
"""


def percent(folder, cells=EXPLORERS) -> object:
    """A notebook with a cell for each explorer, as a percent file."""
    path = folder / "saved.py"
    path.write_text(KERNEL + "\n\n".join(f"# %%\nfrom skiplab import *\n{cell}" for cell in cells))
    return path


def shows_pictures(page) -> None:
    """Of each explorer there are words and a picture to see, and no word of a widget that is missing."""
    from playwright.sync_api import expect

    stills = page.locator(".skiplab-still")
    expect(stills).to_have_count(len(EXPLORERS))
    for still, words in zip(stills.all(), EXPLORERS.values(), strict=True):
        expect(still).to_contain_text(words)
        picture = still.locator("img")
        expect(picture).to_be_visible()
        assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 400
    for words in ("model not found", "Loading widget"):
        for found in page.get_by_text(words).all():
            assert not found.is_visible()


def test_trusted_notebook_keeps_pictures_and_words_without_its_kernel(show_alone, tmp_path):
    """As a person does it: run, save, shut the kernel down, open again."""
    from playwright.sync_api import expect

    page = show_alone(percent(tmp_path), 1500)
    lives = page.locator(".skiplab-live")
    expect(lives).to_have_count(len(EXPLORERS))
    for still in page.locator(".skiplab-still").all():
        expect(still).to_be_hidden()
    page.keyboard.press("Control+s")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("Idle")
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator('[data-command="kernelmenu:shutdown"]').click()
    expect(page.locator(".jp-Toolbar-kernelName").first).to_contain_text("No Kernel")
    page.wait_for_timeout(500)
    page.reload()
    page.wait_for_selector(".skiplab-still")
    expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle")
    page.wait_for_timeout(2500)  # JupyterLab looks for a missing model for two seconds
    shows_pictures(page)
    assert page.locator(".skiplab-live").count() == 0


def test_received_notebook_and_its_exported_page_show_them_too(show, offline, tmp_path, monkeypatch):
    """Executed elsewhere, so that nothing here trusts it; saved without the widgets' states, as JupyterLab does."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    document = jupytext.read(percent(tmp_path))
    share.execute(document, tmp_path, 120)
    write(document, tmp_path / "received.ipynb")
    file = tmp_path / "page.html"
    file.write_text(HTMLExporter().from_notebook_node(document)[0], encoding="utf-8")

    page = show(tmp_path / "received.ipynb", 1500, run=False)
    page.wait_for_selector(".skiplab-still")
    shows_pictures(page)
    shows_pictures(offline(file))
