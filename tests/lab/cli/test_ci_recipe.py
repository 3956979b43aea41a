"""The workflow to copy, data/ci/performance.yml: its commands exist, and its exit status is the comparison's."""

from __future__ import annotations

import os
import re
import shlex
import subprocess

import pytest
import yaml
from skiplab.cli import attention as cli_attention
from skiplab.compare import FAILURES
from skiplab.store import data_path

WORKFLOW = yaml.safe_load(data_path("ci", "performance.yml").read_text(encoding="utf-8"))
ENV = WORKFLOW["env"]
(STEP,) = [step["run"] for step in WORKFLOW["jobs"]["compare"]["steps"] if "skiplab compare" in step.get("run", "")]
SWEEP = """#!/bin/bash
echo "$PWD $*" >> ../swept
run=$(sed -n 's/.*--run \\([^ ]*\\).*/\\1/p' <<< "$*")
echo "measured in $PWD" > $run
"""
COMPARE = """#!/bin/bash
echo "$*" >> compared
cp $2 out/compare.md
exit $(sed -n "$(wc -l < compared)p" statuses)
"""


@pytest.fixture
def job(tmp_path):
    """job(statuses) -> the step's exit status, what was swept, and what was compared, whose exits are these."""
    for side in ("base", "head"):
        folder = tmp_path / side / ".env" / "bin"
        folder.mkdir(parents=True)
        (folder / "skiplab").write_text(COMPARE)
        (folder / "sweep").write_text(SWEEP)
        for file in folder.iterdir():
            file.chmod(0o755)

    def start(*statuses):
        (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
        environment = {"PATH": os.environ["PATH"], **ENV, "SWEEP": "sweep", "GITHUB_STEP_SUMMARY": "summary"}
        done = subprocess.run(["bash", "-eo", "pipefail", "-c", STEP], cwd=tmp_path, env=environment, timeout=60)
        return done.returncode, *((tmp_path / name).read_text().splitlines() for name in ("swept", "compared"))

    return start


@pytest.mark.parametrize(("statuses", "pairs"), [((0,), 1), ((1, 0), 2), ((1, 1), 2), ((2,), 1)])
def test_a_slow_down_counts_if_two_pairs_of_runs_show_it(job, tmp_path, statuses, pairs):
    code, swept, compared = job(*statuses)
    assert code == statuses[-1] and len(compared) == pairs
    assert [line.split()[0] for line in swept] == [str(tmp_path / side) for side in ("base", "head")] * pairs
    assert compared[-1].startswith(f"compare out/base-{pairs}.jsonl out/head-{pairs}.jsonl --margin")
    assert (tmp_path / "summary").read_text() == f"measured in {tmp_path / 'base'}\n"


def test_its_commands_are_ones_that_there_are(skiplab, tmp_path, monkeypatch):
    wanted = []
    monkeypatch.setattr(cli_attention, "measure", lambda sweep, *rest: wanted.append((sweep, rest[:2])))
    words = shlex.split(f"{ENV['SWEEP']} --run r.jsonl --report r.html")
    assert words[0] == "skiplab" and skiplab(*words[1:])[0] == 0
    ((sweep, _),) = wanted
    assert set(sweep.contenders) == set(ENV["CONTENDER"].split(",")) and len(sweep.points()) == 4

    assert set(ENV["FAIL_ON"].split(",")) <= set(FAILURES)
    (line,) = re.findall(r"skiplab (compare .*?) \|\|", STEP)
    given = os.path.expandvars  # as bash does it
    with monkeypatch.context() as patch:
        for name, value in {**ENV, "pair": "1"}.items():
            patch.setenv(name, value)
        words = shlex.split(given(line))
    (run,) = data_path("runs").glob("*prefill-causal-d512.jsonl")
    words[1:3] = [str(run), str(run)]
    code, out, err = skiplab(*words)
    assert (code, err) == (0, "") and "same" in out
    assert (tmp_path / "out/compare-1.html").is_file() and (tmp_path / "out/compare.md").is_file()
