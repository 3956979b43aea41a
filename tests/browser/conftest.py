"""A browser and a Jupyter server for all tests of this folder, and what they share to look at pages."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")  # fmt: skip
WAIT_MS = 90_000


@pytest.fixture(scope="package")
def browser(chromium) -> Iterator[Any]:
    """A running Chromium; it ends with the tests of this folder, for playwright keeps an event loop until then."""
    from playwright.sync_api import expect, sync_playwright

    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=chromium, args=QUIET)
        yield running
        running.close()


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a Chromium; without one the test is skipped, or fails where SKIPLAB_REQUIRE_BROWSER=1 forbids that."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    reason = f"no Chromium on this machine (looked for {', '.join(NAMES)}); Debian: apt install chromium"
    if os.environ.get("SKIPLAB_REQUIRE_BROWSER") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def jupyter(chromium, tmp_path_factory, warm) -> Iterator[str]:
    """The address of a Jupyter server over the folders of all tests, where there is a browser to look at it.

    JupyterLab and the classic notebook both show them, each under a path of its own.
    """
    with _jupyter(tmp_path_factory.getbasetemp(), tmp_path_factory.mktemp("jupyter"), warm) as address:
        yield address


@pytest.fixture
def serve(jupyter, tmp_path) -> Iterator[Callable[..., str]]:
    """serve(notebook) -> the address where JupyterLab shows it: a file, or a notebook of that one cell.

    by: where the server shows it instead of in JupyterLab. Afterwards the test's kernels are shut down.
    """

    yield lambda notebook, by="/lab/tree": f"{jupyter}{by}/{_saved(notebook, tmp_path)}?reset&token=test"
    for session in json.loads(_answer(f"{jupyter}/api/sessions")):
        _answer(f"{jupyter}/api/sessions/{session['id']}", "DELETE")


def _saved(notebook: Path | str, folder: Path) -> str:
    """Where the server finds the notebook, as it is shown."""
    if isinstance(notebook, Path):
        jupytext.write(jupytext.read(notebook), folder / "shown.ipynb")
    else:
        made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(notebook)])
        made.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(made, folder / "shown.ipynb")
    return f"{folder.name}/shown.ipynb"


def _answer(address: str, method: str = "GET") -> bytes:
    request = urllib.request.Request(address, method=method, headers={"Authorization": "token test"})
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read()


@pytest.fixture(scope="package")
def online(browser) -> Iterator[Any]:
    """Where pages of the server are opened: all in one context, whose cache keeps JupyterLab's scripts compiled."""
    with browser.new_context() as context:
        yield context


@pytest.fixture
def visit(online) -> Iterator[Callable[[str, int], Any]]:
    """visit(address, height) -> the page. Afterwards: no error, and no request to elsewhere."""
    heard: list[str] = []
    with ExitStack() as opened:

        def start(address: str, height: int) -> Any:
            page = opened.enter_context(_listened(online, heard))
            page.set_viewport_size({"width": 1500, "height": height})
            page.goto(address)
            return page

        yield start
    assert not heard


@contextmanager
def _listened(online: Any, heard: list[str]) -> Iterator[Any]:
    """A page whose errors, and requests to elsewhere, are heard."""
    with online.new_page() as page:
        page.set_default_timeout(WAIT_MS)
        page.on("pageerror", lambda error: heard.append(str(error)))
        page.on("request", lambda request: heard.append(request.url) if _leaves_machine(request.url) else None)
        yield page


@pytest.fixture(scope="package")
def laboratory(online, jupyter) -> Iterator[tuple[Any, list[str]]]:
    """JupyterLab in a page that stays, and what is heard of it: loading it takes longer than opening a notebook."""
    heard: list[str] = []
    with _listened(online, heard) as page:
        page.goto(f"{jupyter}/lab?reset&token=test")
        page.wait_for_function("window.jupyterapp !== undefined")
        page.evaluate("window.jupyterapp.restored.then(() => null)")
        yield page, heard


@pytest.fixture
def offline(browser) -> Iterator[Callable[[Path], Any]]:
    """offline(file) -> the page, without a network."""
    with browser.new_context(offline=True) as context:

        def start(path: Path) -> Any:
            page = context.new_page()
            page.goto(path.as_uri(), wait_until="domcontentloaded")
            return page

        yield start


OPEN = "path => window.jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'}).then(() => null)"
CLOSE_ALL = "() => { for (const one of [...window.jupyterapp.shell.widgets('main')]) one.dispose(); }"


@pytest.fixture
def notebook_page(laboratory, tmp_path, serve) -> Iterator[Callable[..., Any]]:
    """notebook_page(notebook, height) -> the page of `laboratory`, in which it is open, as nothing else is.

    Afterwards it is closed; there was no error, and no request to elsewhere.
    """
    from playwright.sync_api import expect

    page, heard = laboratory

    def start(notebook: Path | str, height: int) -> Any:
        page.set_viewport_size({"width": 1500, "height": height})
        page.evaluate(OPEN, _saved(notebook, tmp_path))
        return page

    heard.clear()
    yield start
    page.mouse.move(0, 0)
    page.evaluate(CLOSE_ALL)
    expect(page.locator(".jp-NotebookPanel")).to_have_count(0)
    expect(page.locator("#jp-main-statusbar")).not_to_contain_text("| ")  # a kernel's name and state
    assert not heard


@pytest.fixture
def show(notebook_page) -> Callable[..., Any]:
    """show(notebook, height) -> its page in JupyterLab, all cells set running, or none of them: run=False."""
    return _shown_by(notebook_page)


@pytest.fixture
def show_alone(serve, visit) -> Callable[..., Any]:
    """As `show`, in a page of its own, which may be loaded again."""
    return _shown_by(lambda notebook, height: visit(serve(notebook), height))


def _shown_by(opened: Callable[..., Any]) -> Callable[..., Any]:
    from playwright.sync_api import expect

    def start(notebook: Path | str, height: int = 1500, run: bool = True) -> Any:
        page = opened(notebook, height)
        page.wait_for_selector(".jp-NotebookPanel .jp-Cell")
        # the notebook's own indicator says idle while there is no kernel yet, and Run All is then dropped
        expect(page.locator("#jp-main-statusbar")).to_contain_text("| Idle", timeout=WAIT_MS)
        if not run:
            return page
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.locator('[data-command="runmenu:run-all"]').click()
        return page

    return start


def _leaves_machine(address: str) -> bool:
    return "127.0.0.1" not in address and not address.startswith(("data:", "blob:"))


@contextmanager
def _jupyter(root: Path, folder: Path, warm: dict[str, str]) -> Iterator[str]:
    """A Jupyter server that shows what is under `root`; in `folder` are settings of its own, which fetch nothing.

    warm: variables that its kernels start by.
    """
    settings = folder / ".settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    no_news = {"fetchNews": "false", "checkForUpdates": False}
    (settings / "notification.jupyterlab-settings").write_text(json.dumps(no_news))
    no_build = {"buildCheck": False, "buildAvailable": False}  # which takes Node.js a second for each page
    (folder / ".config" / "labconfig").mkdir(parents=True)
    (folder / ".config" / "labconfig" / "page_config.json").write_text(json.dumps(no_build))
    places = {
        "JUPYTER_CONFIG_DIR": ".config", "JUPYTER_DATA_DIR": ".data", "JUPYTER_RUNTIME_DIR": ".runtime", "HOME": "",
        "IPYTHONDIR": ".ipython", "JUPYTERLAB_SETTINGS_DIR": ".settings", "JUPYTERLAB_WORKSPACES_DIR": ".workspaces",
    }  # fmt: skip
    environment = os.environ | warm | {name: str(folder / place) for name, place in places.items()}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment.pop("TRITON_INTERPRET", None)
    port = _free_port()
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--LabApp.expose_app_in_browser=True",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        "--IdentityProvider.token=test", f"--ServerApp.root_dir={root}",
    ]  # fmt: skip
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api/status?token=test", server)
            yield f"http://127.0.0.1:{port}"
        finally:
            server.terminate()
            server.wait(20)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _wait_until_up(address: str, server: subprocess.Popen, limit_s: float = 90) -> None:
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        assert server.poll() is None, "the server ended; its log is in server.log of its folder"
        try:
            urllib.request.urlopen(address, timeout=1)
            return
        except (urllib.error.URLError, TimeoutError, ConnectionError):
            time.sleep(0.2)
    pytest.fail(f"Jupyter did not answer within {limit_s:g} s")
