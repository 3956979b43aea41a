"""The console script in the process of the tests."""

from __future__ import annotations

import importlib
import sys

import pytest
from skiplab import cli
from skiplab.cli import run as cli_run
from skiplab.machine import Machine


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path):
    """Roofs that nothing beats, no child process (tests/lab/test_measure.py has them), and a folder to write in."""
    module = importlib.import_module("skiplab.sweep.running")
    high = Machine("CPU", "cpu", bandwidth_gbps=1e6, tflops=1e6, source="measured")
    monkeypatch.setattr(module, "this_machine", lambda device, dtype: high)
    run_sweep = module.run_sweep
    here = {"isolate": False, "progress": False}
    monkeypatch.setattr(cli_run, "run_sweep", lambda *args, **named: run_sweep(*args, **named, **here))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def skiplab(monkeypatch, capsys):
    """Calls the console script: (exit code, stdout, stderr)."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["skiplab", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
            raise SystemExit(0)
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err

    return call
