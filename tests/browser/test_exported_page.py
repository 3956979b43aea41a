"""A notebook exported by nbconvert, opened without a network: every figure is a picture that a person can see."""

from __future__ import annotations

import pytest
from nbconvert import HTMLExporter
from nbformat import v4
from skiplab import share

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("warm_kernels")]

CELLS = [
    "from skiplab import figures\nfigures.speedup(figures.published_prefill())",
    """import blockskip as bs
figures.tilemap(bs.TileMap.build(bs.sliding_window(64), 512, 512))""",
    "from skiplab import MaskExplorer\nMaskExplorer(q_len=1024)",
]


def test_every_figure_is_a_picture_offline(offline, tmp_path, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in CELLS])
    # as JupyterLab saves it by default: without the widgets' states
    share.execute(notebook, tmp_path, 120)
    page_file = tmp_path / "page.html"
    page_file.write_text(HTMLExporter().from_notebook_node(notebook)[0], encoding="utf-8")

    cells = offline(page_file).locator(".jp-Cell")
    assert cells.count() == len(CELLS)
    for cell in cells.all():
        shown = cell.locator("img")
        assert shown.is_visible()
        assert shown.evaluate("image => image.decode().then(() => image.naturalWidth)") > 400
