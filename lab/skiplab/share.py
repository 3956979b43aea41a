"""A notebook as a folder to send: executed, with pictures, a page for readers without Jupyter, the runs that it used.

notebook.ipynb   executed; every widget replaced by its picture and words, so that nothing needs a kernel
notebook.html    the same as one page that works offline
runs/*.jsonl     the run files whose rows the notebook showed
about.json       versions, device, parameters, hashes
README.txt       what this is and how to repeat it
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from blockskip import __version__

from skiplab.figures.interactive import CONFIG
from skiplab.paths import data_path, file_name, inside, runs_directory
from skiplab.store import SCHEMA, Run, read_run
from skiplab.templates import render, trusted

WIDGET, PLOTLY = "application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json"
PACKAGES = (
    "skiplab",
    "torch",
    "triton",
    "numpy",
    "pandas",
    "plotly",
    "matplotlib",
    "ipywidgets",
    "anywidget",
    "jupyterlab",
)
KERNEL_STARTS = 3
MARK = "skiplab-share:"
PROBE = """
from skiplab import share as _share
print(_share.MARK + _share.account(globals(), {names!r}))
"""


def share(notebook: Path | str, out_dir: Path | str, *, timeout_s: float = 1800.0) -> Path:
    """Execute `notebook` (.ipynb, or .py in percent format) where it stands, write the folder `out_dir`, return it.

    The notebook itself is not changed. ValueError: no such notebook, or `out_dir` holds something else. A cell that
    raises stops it with nbclient's CellExecutionError, which shows the cell.
    """
    notebook, out_dir = Path(notebook), Path(out_dir)
    if not notebook.is_file():
        raise ValueError(f"notebook: there is no file {notebook.name}; allowed are .ipynb, and .py in percent format")
    if out_dir.exists() and any(out_dir.iterdir()) and not (out_dir / "about.json").exists():
        raise ValueError(f"out_dir: {out_dir.name} holds other things; name a new folder, or one that share made")
    document = read_notebook(notebook)
    account = execute(document, notebook.parent, timeout_s)
    plain(document)
    runs = named(account.pop("runs"))
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in runs.items()}
    about = {"notebook": notebook.stem, **account, "runs": hashes}
    write(out_dir, {
        f"{notebook.stem}.ipynb": _notebook_text(document), f"{notebook.stem}.html": page(document),
        **{f"runs/{name}": text for name, text in runs.items()},
        "about.json": json.dumps(about, indent=1) + "\n", "README.txt": _readme(notebook.stem, about),
    })  # fmt: skip
    return out_dir


def named(runs: Mapping[str, str]) -> dict[str, str]:
    """The texts of runs by file name, made of the runs' ids; equal names get numbers."""
    texts: dict[str, str] = {}
    for run_id, text in runs.items():
        names = (
            file_name(run_id, f"{end}.jsonl") for end in ("", *(f"-{number}" for number in range(2, len(runs) + 1)))
        )
        texts[next(name for name in names if name not in texts)] = text
    return texts


def write(folder: Path, texts: Mapping[str, str]) -> None:
    """Write each text to its path in the folder; ValueError, and nothing is written, where one would leave it."""
    paths = {inside(folder, name): text for name, text in texts.items()}
    for path, text in paths.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def read_notebook(path: Path) -> Any:
    """The notebook as nbformat's node; a percent script is read through jupytext."""
    import jupytext

    return jupytext.read(path)


def execute(document: Any, folder: Path, timeout_s: float) -> dict[str, Any]:
    """Run all cells, in place, in a fresh kernel that works in `folder`; return the kernel's `account`."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell

    document.metadata.setdefault("kernelspec", {"name": "python3", "display_name": "Python 3", "language": "python"})
    client = NotebookClient(
        document,
        timeout=int(timeout_s),
        resources={"metadata": {"path": str(folder.resolve())}},
        store_widget_state=False,
    )
    probe = new_code_cell(PROBE.format(names=parameter_names(document)))
    document.cells.append(probe)
    with _kernel(client):
        for index, cell in enumerate(document.cells):
            client.execute_cell(cell, index)
    document.cells.pop()
    text = "".join(output.get("text", "") for output in probe.outputs)
    return json.loads(text.split(MARK, 1)[1])


@contextmanager
def _kernel(client: Any) -> Iterator[None]:
    """A kernel for the client.

    Jupyter chooses ports before the kernel binds them: where another program was faster, the kernel dies at once, and
    is started again on others.
    """
    with ExitStack() as stack:
        for left in reversed(range(KERNEL_STARTS)):
            try:
                stack.enter_context(client.setup_kernel(env=_environment()))
                break
            except RuntimeError as error:
                if left == 0 or "Kernel died" not in str(error):
                    raise
        yield


def _environment() -> dict[str, str]:
    """This process's environment; the kernel works in another folder, so relative import paths become absolute."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return {**os.environ, "PYTHONPATH": os.pathsep.join(str(Path(path).resolve()) for path in paths if path)}


def parameter_names(document: Any) -> list[str]:
    """The names that cells tagged `parameters` assign."""
    names = []
    for cell in document.cells:
        if cell.cell_type == "code" and "parameters" in cell.metadata.get("tags", []):
            for node in ast.walk(ast.parse(cell.source)):
                if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                    names.append(node.id)
    return names


def account(namespace: Mapping[str, Any], names: Iterable[str]) -> str:
    """JSON from the notebook's kernel at its end: versions, device, parameters, the text of each run that it used."""
    from skiplab.machine import describe

    return json.dumps(
        {
            "made": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "versions": {name: found for name in PACKAGES if (found := _version(name)) is not None},
            "device": describe(),
            "parameters": {name: repr(namespace[name]) for name in names if name in namespace},
            "runs": {run.run_id: run_text(run) for run in used_runs(namespace)},
        }
    )


def used_runs(namespace: Mapping[str, Any]) -> list[Run]:
    """The runs in a notebook's variables: runs, lists of them, panels that made one, and tables with their rows."""
    values = [value for name, value in namespace.items() if not name.startswith("_")]
    by_id = {run.run_id: run for value in values for run in _runs_in(value)}
    wanted = {name for value in values for name in _run_ids(value)} - set(by_id)
    if wanted:
        folders = dict.fromkeys([data_path("runs"), runs_directory(), Path("runs")])
        stored = (read_run(path) for folder in folders for path in sorted(folder.glob("*.jsonl")))
        by_id |= {run.run_id: run for run in stored if run.run_id in wanted}
    return [by_id[name] for name in sorted(by_id)]


def _runs_in(value: Any) -> Iterator[Run]:
    if isinstance(value, Run):
        yield value
    elif isinstance(value, list | tuple):
        yield from (item for item in value if isinstance(item, Run))
    elif isinstance(getattr(value, "run", None), Run):
        yield value.run


def _run_ids(value: Any) -> Iterator[str]:
    import pandas as pd

    if isinstance(value, pd.DataFrame) and "run_id" in value.columns:
        yield from value["run_id"].dropna().unique()


def run_text(run: Run) -> str:
    """The run as a run file: its own file where it has one, else written anew."""
    if run.path is not None and run.path.exists():
        return run.path.read_text(encoding="utf-8")
    records = [{"record": "header", "schema": SCHEMA, **run.header}, *({"record": "point", **row} for row in run.rows)]
    return "".join(json.dumps(record) + "\n" for record in records)


def plain(document: Any) -> None:
    """Remove, in place, what needs a live kernel: the states of widgets, and their views."""
    document.metadata.pop("widgets", None)
    for cell in document.cells:
        if "outputs" in cell:
            cell.outputs = [output for output in cell.outputs if set(output.get("data", {})) != {WIDGET}]
    for output in _outputs(document):
        output.get("data", {}).pop(WIDGET, None)


def page(document: Any) -> str:
    """One HTML page that works offline, as light or dark as the screen: plotly's figures stay live, by one script."""
    import nbformat
    import plotly.io
    from nbconvert import HTMLExporter

    copy: Any = nbformat.from_dict(document)
    script: bool | str = True
    for output in _outputs(copy):
        data = output.get("data", {})
        if PLOTLY in data:
            figure = {key: value for key, value in data[PLOTLY].items() if key in ("data", "layout")}
            html = plotly.io.to_html(figure, include_plotlyjs=script, full_html=False, validate=False, config=CONFIG)
            output["data"] = nbformat.from_dict({"text/html": html})
            script = False
        elif "image/png" in data:
            data.pop("text/html", None)
    exporter = HTMLExporter(
        template_name="lab", mathjax_url="", require_js_url="", jquery_url="", widget_renderer_url=""
    )
    exporter.mermaid_js_url = ""
    body, _ = exporter.from_notebook_node(copy)
    loader: Any = exporter.environment.loader
    dark_theme, _, _ = loader.get_source(exporter.environment, "static/theme-dark.css")
    body = body.replace("</head>", f"{render('shared.style', dark_theme=trusted(dark_theme))}\n</head>", 1)
    # what the template would fetch from elsewhere: nothing here needs it, and the page must not call out
    return re.sub(r"<script[^>]*\bsrc=\"(?:https?:)?(?://[^\"]*)?\"[^>]*>\s*</script>", "", body)


def _outputs(document: Any) -> Iterator[Any]:
    for cell in document.cells:
        yield from cell.get("outputs", ())


def _notebook_text(document: Any) -> str:
    import nbformat

    return nbformat.writes(document) + "\n"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return __version__ if name == "skiplab" else None


def _readme(name: str, about: Mapping[str, Any]) -> str:
    """The text of README.txt."""
    runs = sorted(about["runs"])
    versions = ", ".join(f"{key} {value}" for key, value in about["versions"].items())
    lines = [
        f"{name}: a notebook made with Skiplab on {about['device']['name']}, {about['made']}.",
        "",
        f"See it:      open {name}.html in a browser (works offline), or {name}.ipynb in Jupyter; no kernel is needed.",
        *(f"Repeat:      skiplab rerun runs/{run}" for run in runs),
        f"Parameters:  {', '.join(f'{key} = {value}' for key, value in about['parameters'].items()) or 'none'}",
        f"Versions:    Python {about['python']}, {versions}",
    ]
    return "\n".join(lines) + "\n"
