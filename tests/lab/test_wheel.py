"""The wheel, built and installed into a folder inside somebody else's repository: what a user of it has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
USE = """
import functools, json, os, subprocess, sys
from pathlib import Path
import skiplab
from skiplab import cli
from blockskip.tuned.files import tuned_devices
from skiplab.cli import roofs as command
from skiplab.cli import run
from skiplab.machine.roofs import recorded_roofs
from skiplab.paths import data_path
from skiplab.store import read_runs
from skiplab.widgets import SweepPanel

def call(*words):
    sys.argv = ["skiplab", *words]
    try:
        cli.main()
    except SystemExit as ended:
        assert not ended.code, ended.code

started = []
subprocess.call = lambda command: started.append(command) or 0
run.run_sweep = functools.partial(run.run_sweep, isolate=False, progress=False)
call("--help")
call("lab", "--no-browser")
copy = Path("skiplab-notebooks/01_tiles.ipynb")
copy.write_text("mine")
call("lab", "--no-browser")
assert copy.read_text() == "mine"
call("sweep", "--contender", "sdpa", "--q-len", "32", "--window", "16", "--q-heads", "1", "--kv-heads", "1",
     "--head-dim", "16", "--budget", "0.1", "--device", "cpu")
command.measure_roofs = lambda device, **named: recorded_roofs()["NVIDIA H200"]
call("roofs", "--device", "cpu")
tuned = next(data_path("runs").glob("*tune-d512.jsonl"))
call("tune", "--from-run", str(tuned))
home = Path(os.environ["XDG_CONFIG_HOME"])
own = sorted(path.relative_to(home).as_posix() for path in home.rglob("*.json"))
read = [one.sections["attention"].runs for one in tuned_devices() if "attention" in one.sections]
panel = SweepPanel(["sdpa"])
stored = [sum(name.startswith(start) for name, _ in panel._stored.options) for start in ("measured", "recorded")]
(made,) = Path("runs").glob("*.jsonl")
print("TOLD" + json.dumps({
    "package": skiplab.__file__, "command": started[0], "recorded": len(read_runs()), "stored": stored,
    "own": own, "read": read, "tuned": tuned.name,
    "header": json.loads(made.read_text().split("\\n")[0]),
}))
"""


def git(folder: Path, *words: str) -> str:
    identity = ("-c", "user.name=somebody", "-c", "user.email=somebody@example.org")
    return subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True, text=True).stdout


def files(folder: Path) -> set[str]:
    found = (path.relative_to(folder) for path in folder.rglob("*"))
    return {path.as_posix() for path in found if "__pycache__" not in path.parts}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True)
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_everything_that_is_opened_and_says_whose_it_is(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = Parser().parsestr(archive.read("skiplab-0.1.0.dist-info/METADATA").decode())
    tracked = git(ROOT, "ls-files", "kernels", "lab", "data", "notebooks/*.ipynb").split("\n")[:-1]
    places = {"kernels/": "", "lab/": "", "data/": "skiplab/data/", "notebooks/": "skiplab/notebooks/"}
    wanted = {
        to + name.removeprefix(start) for name in tracked for start, to in places.items() if name.startswith(start)
    }
    assert wanted <= names and any(name.startswith("skiplab/templates/") for name in wanted)
    assert metadata["Author"] == "The Skiplab authors" and metadata["License-Expression"] == "BSD-3-Clause"
    pythons = {f"Programming Language :: Python :: 3.{minor}" for minor in (11, 12, 13)}
    assert pythons < set(metadata.get_all("Classifier"))
    assert all(
        address.split(", ")[1] in (ROOT / "README.md").read_text() for address in metadata.get_all("Project-URL")
    )


def test_an_installed_lab_works_in_a_folder_of_the_users(wheel, tmp_path, warm):
    """Where the packages lie is tracked by another repository, in which the user works, too: its commit is not ours."""
    packages, folder = tmp_path / "packages", tmp_path / "work"
    install = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
        "--no-compile",
        "--target",
        packages,
        wheel,
    ]
    subprocess.run(install, check=True)
    assert (packages / "bin" / "skiplab").is_file()
    folder.mkdir()
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "not ours")
    before = files(packages)

    home = {"XDG_CONFIG_HOME": str(tmp_path / "home")}
    environment = {**os.environ, **warm, **home, "PYTHONPATH": str(packages), "GIT_DIR": str(tmp_path / ".git")}
    python = warm.get("SKIPLAB_TESTS_PYTHON", sys.executable)
    used = subprocess.run([python, "-c", USE], cwd=folder, env=environment, capture_output=True, text=True)
    assert used.returncode == 0, used.stderr
    assert files(packages) == before
    told = json.loads(used.stdout.split("TOLD")[1])
    assert Path(told["package"]).is_relative_to(packages)
    assert "--notebook-dir=skiplab-notebooks" in told["command"] and any("01_tiles" in word for word in told["command"])
    assert "kept: skiplab-notebooks/01_tiles.ipynb" in used.stdout and "Open JupyterLab" in used.stdout
    for notebook in (ROOT / "notebooks").glob("0[2-9]_*.ipynb"):
        assert (folder / "skiplab-notebooks" / notebook.name).read_bytes() == notebook.read_bytes()
    assert told["header"]["git"] == {}
    assert told["own"] == ["skiplab/configs/h100-80gb-hbm3.json", "skiplab/machines/nvidia-h200.json"]
    packaged = [one for one in (ROOT / "kernels/blockskip/configs").glob("*.json") if "attention" in one.read_text()]
    assert told["read"][0] == told["tuned"] and len(told["read"]) == len(packaged) + 1  # the user's own comes first
    assert told["recorded"] >= len(git(ROOT, "ls-files", "data/runs").split())
    mine, shipped = told["stored"]
    assert mine == 1 and shipped > 1  # the user's, and those that came with the package
