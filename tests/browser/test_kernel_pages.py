"""The explorers of a kernel in JupyterLab: sliders compile it anew, keys and Play go from step to step of a replay."""

from __future__ import annotations

import pytest
from test_int4_page import OVERLAPS

pytestmark = pytest.mark.browser

ANATOMY = "from skiplab import AnatomyExplorer\nAnatomyExplorer(at={'window': 256})"
REPLAY = "from skiplab import ReplayExplorer\nReplayExplorer(q_len=128, block_m=32, block_n=16)"


def test_a_slider_compiles_the_kernel_anew(show):
    from playwright.sync_api import expect

    page = show(ANATOMY)
    explorer = page.locator(".skiplab-anatomy-explorer")
    counts, table = explorer.locator(".skiplab-anatomy-counts"), explorer.locator(".skiplab-anatomy-table")
    expect(counts).to_contain_text("registers a thread, 0 bytes spilled")
    expect(explorer.locator(".skiplab-anatomy-lines")).to_contain_text("softmax.py")
    expect(explorer.locator(".skiplab-anatomy-mix")).to_contain_text("wgmma")
    slider = explorer.locator(".skiplab-num-warps .noUi-handle")
    slider.focus()
    slider.press("ArrowRight")
    expect(table.locator('[aria-current="true"]')).to_contain_text("64x64x8x3 sm_90")
    expect(table.locator("tr")).to_have_count(3)
    explorer.locator(".skiplab-arch select").select_option("sm_80")
    expect(table.locator('[aria-current="true"]')).to_contain_text("64x64x8x3 sm_80")
    expect(explorer.locator(".skiplab-anatomy-mix")).not_to_contain_text("wgmma")


def test_keys_and_the_pointer_go_from_step_to_step(show):
    from playwright.sync_api import expect

    page = show(REPLAY)
    explorer = page.locator(".skiplab-replay-explorer")
    told, picture = explorer.locator(".skiplab-replay-told"), explorer.locator(".skiplab-replay-picture")
    expect(told).to_contain_text("Program 1 of 4 (0, 0, 0), queries 96–127: 8 tiles to come.")
    svg = picture.locator("svg")
    assert svg.evaluate(OVERLAPS) == []
    picture.focus()
    picture.press("ArrowRight")
    expect(told).to_contain_text("Step 1 of 8: keys 0–15, unmasked. Loaded: k rows 0–15 (256 numbers)")
    picture.press("ArrowDown")
    expect(told).to_contain_text("Program 2 of 4 (1, 0, 0), queries 64–95. Step 1 of")
    assert svg.evaluate(OVERLAPS) == []
    svg.locator('rect[data-hint^="Tile 0, 0"]').hover()
    expect(explorer.locator(".skiplab-replay-about")).to_contain_text("comes as step 1 of program 4")
    svg.locator('rect[data-hint^="Tile 0, 0"]').click()
    expect(told).to_contain_text("Program 4 of 4")
    explorer.locator(".skiplab-q-len input[type=text]").fill("64")
    explorer.locator(".skiplab-q-len input[type=text]").press("Enter")
    explorer.get_by_role("button", name="Record").click()
    expect(told).to_contain_text("Program 1 of 2")
