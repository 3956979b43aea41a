"""`share`: a folder that shows everything without a kernel and says where it came from."""

from __future__ import annotations

import json
import os
import re
import sys
from contextlib import contextmanager

import jupytext
import pytest
from nbclient.exceptions import CellExecutionError
from skiplab import share
from skiplab.store import read_run

pytestmark = pytest.mark.usefixtures("warm_kernels")

NOTEBOOK = """
# %% [markdown]
# # A question
# %% tags=["parameters"]
LENGTH = 64
# %%
import blockskip as bs
import skiplab
from skiplab import MaskExplorer, figures
names = ["sdpa", "blockskip"]
run = skiplab.sweep(names, q_len=[LENGTH], window=[16], budget_s=0.1, isolate=False, path="runs/small.jsonl")
table = run.frame()
figures.speedup(table)
# %%
MaskExplorer(q_len=1024)
# %%
table[["label", "q_len"]]
"""


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_shared_folder_needs_no_kernel_and_names_its_sources(tmp_path, kernel):
    notebook = tmp_path / "question.py"
    notebook.write_text(NOTEBOOK)
    folder = share.share(notebook, tmp_path / "out")
    assert folder == tmp_path / "out"
    assert sorted(path.name for path in folder.iterdir()) == [
        "README.txt",
        "about.json",
        "question.html",
        "question.ipynb",
        "runs",
    ]

    executed = jupytext.read(folder / "question.ipynb")
    data = [output["data"] for cell in executed.cells for output in cell.get("outputs", ()) if "data" in output]
    assert "widgets" not in executed.metadata
    assert not any(share.WIDGET in item for item in data)
    assert [sum(kind in item for item in data) for kind in ("image/jpeg", "image/png")] == [1, 1]  # figure, explorer
    assert any("MaskExplorer: sliding_window(512)" in str(item.get("text/plain")) for item in data)

    about = json.loads((folder / "about.json").read_text())
    assert about["parameters"] == {"LENGTH": "64"}
    assert {"torch", "skiplab", "numpy"} <= set(about["versions"]) and about["device"]["name"]
    (name,) = about["runs"]
    run = read_run(folder / "runs" / name)
    assert len(run.rows) == 2 and f"skiplab rerun runs/{name}" in (folder / "README.txt").read_text()

    page = (folder / "question.html").read_text()
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=[\"'](?:https?:)?//[^\"']+", page)
    assert "data:image/png;base64" in page and "Plotly.newPlot" in page
    assert str(tmp_path) not in page + json.dumps(about)

    notebook.write_text("# %%\n'another question'\n")
    assert share.share(notebook, folder) == folder  # its own folder may be made anew
    assert "another question" in (folder / "question.html").read_text()


def test_only_runs_in_use_are_taken(tmp_path):
    assert share.used_runs({"number": 3, "_hidden": [1], "words": ["a"]}) == []


def test_parameters_are_those_of_the_tagged_cell(tmp_path):
    path = tmp_path / "n.py"
    path.write_text('# %% tags=["parameters"]\na = 1\nb, c = 2, 3\n# %%\nd = 4\n')
    assert share.parameter_names(share.read_notebook(path)) == ["a", "b", "c"]


def test_wrong_input_is_refused_before_anything_runs(tmp_path):
    with pytest.raises(ValueError, match=r"notebook: there is no file none\.ipynb"):
        share.share(tmp_path / "none.ipynb", tmp_path / "out")
    notebook = tmp_path / "n.py"
    notebook.write_text("# %%\n1\n")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("do not lose")
    with pytest.raises(ValueError, match="out_dir: mine holds other things"):
        share.share(notebook, tmp_path / "mine")


def test_a_cell_that_fails_stops_it(tmp_path, kernel):
    notebook = tmp_path / "n.py"
    notebook.write_text("# %%\n1 / 0\n")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        share.share(notebook, tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Client:
    """A notebook client whose kernel dies `deaths` times before it starts."""

    def __init__(self, deaths, text="Kernel died before replying to kernel_info"):
        self.deaths, self.text, self.starts = deaths, text, 0

    @contextmanager
    def setup_kernel(self, env):
        self.starts += 1
        if self.starts <= self.deaths:
            raise RuntimeError(self.text)
        yield


def test_a_kernel_that_found_its_ports_taken_is_started_again():
    client = Client(deaths=2)
    with share._kernel(client):
        assert client.starts == 3


@pytest.mark.parametrize("client", [Client(3), Client(1, "no such kernel")])
def test_a_kernel_that_does_not_start_says_so(client):
    with pytest.raises(RuntimeError, match=client.text), share._kernel(client):
        pass
