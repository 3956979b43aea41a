"""A stranger's run file, every text of which is an attack, shown in all ways that there are: nothing of it runs."""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import hostile
import pytest
from hostile import TAG
from nbconvert import HTMLExporter
from nbformat import v4
from skiplab import report, share

pytestmark = [pytest.mark.browser, pytest.mark.usefixtures("warm_kernels")]
CELL = """import hostile
from IPython.display import display
from skiplab.widgets import controls
import ipywidgets as w
for operation in hostile.WORKLOADS:
    run = hostile.run(operation)
    display(run, run.plot())
display(w.HTML(controls.problem(hostile.TAG, hostile.TAG)))
"""
PANEL = """
import pathlib
from skiplab import SweepPanel
from skiplab.widgets import controls
from skiplab.widgets.mask import captions
(path,) = (str(path.resolve()) for path in pathlib.Path("received").glob("*.jsonl"))
panel = SweepPanel(["sdpa"], directory="received")
display(panel)
panel._stored.value = [path]
panel._say(hostile.TAG)
panel._failed(ValueError(hostile.TAG))
"""
FOUND = "document.querySelectorAll('.hostile, [onerror], a[href^=\"javascript\"]').length"
HOVER = """async () => {
  const said = [];
  for (const figure of document.querySelectorAll('.js-plotly-plot')) {
    figure.data.forEach((line, number) => {
      if (line.visible === false) return;
      try { Plotly.Fx.hover(figure, [{curveNumber: number, pointNumber: 0}]); } catch { return; }  // a line of nothing
      said.push(figure.querySelector('.hoverlayer').textContent);
    });
    figure.scrollIntoView();
    await new Promise(done => setTimeout(done, 50));
  }
  return said.join();
}"""


def harmless(page: Any) -> None:
    """No script of the run ran, no element of it is in the page, and its text is there to read."""
    assert page.evaluate("window.ran") is None
    assert page.evaluate(FOUND) == 0
    assert "<script>window.ran=1</script>" in page.evaluate("document.body.textContent")


@pytest.mark.parametrize("operation", hostile.WORKLOADS)
def test_a_report_shows_a_hostile_run_as_text(offline, tmp_path, operation):
    page = offline(report.write_report(hostile.run(operation), tmp_path / "report.html"))
    page.wait_for_selector(".js-plotly-plot .main-svg")
    said = page.evaluate(HOVER)
    assert "<b class='hostile'>bold</b>" in said and "{{ 7 }}" in said
    assert "<b class='hostile'>bold</b>" in page.evaluate("document.querySelector('.legend').textContent")
    harmless(page)


def test_an_exported_notebook_shows_a_hostile_run_as_text(offline, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    notebook = v4.new_notebook(cells=[v4.new_code_cell(CELL)])
    share.execute(notebook, tmp_path, 120)
    pages = {"plain": HTMLExporter().from_notebook_node(notebook)[0], "shared": share.page(notebook)}
    for name, text in pages.items():
        (tmp_path / f"{name}.html").write_text(text, encoding="utf-8")
        page = offline(tmp_path / f"{name}.html")
        if name == "shared":
            page.wait_for_selector(".js-plotly-plot .main-svg")
            assert "<b class='hostile'>bold</b>" in page.evaluate(HOVER)
        harmless(page)


def test_jupyterlab_shows_a_hostile_run_as_text(show, tmp_path):
    (tmp_path / "received").mkdir()
    run, name = hostile.run("attention"), TAG.replace("/", "")[:200]
    lines = [dict(run.header), *run.rows, {"record": "end", "end": TAG}]
    (tmp_path / "received" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    page = show(CELL + PANEL, 4000)
    page.wait_for_function(f"document.querySelectorAll('.skiplab-sweep [role=alert]').length && {len(TAG)}")
    page.wait_for_selector(".js-plotly-plot .main-svg")
    page.wait_for_timeout(500)  # an attack that loads a picture would take a moment
    assert page.locator(".skiplab-stored option", has_text="measured: <b class='hostile'>").count() == 1
    harmless(page)
