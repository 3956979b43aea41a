"""What `make` says before it takes its time."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*words: str) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}
    command = ["make", "--no-print-directory", *words, f"PYTHON={sys.executable}"]
    return subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True).stdout


def test_the_environment_says_that_it_is_set_up_and_shows_pips_progress():
    commands = make("--dry-run", "--always-make", "lab").splitlines()
    said = next(i for i, line in enumerate(commands) if line.startswith('echo "Setting up .venv'))
    pip = next(i for i, line in enumerate(commands) if "-m pip install" in line)
    assert said < pip < len(commands) - 1 and commands[-1].endswith("skiplab lab")
    assert not any(word in commands[pip].split() for word in ("-q", "-qq", "--quiet"))


def test_the_tests_say_first_what_they_will_take():
    commands = make("--dry-run", "--always-make", "test")
    assert 0 < commands.index("The tests take about") < commands.index("-m pip") < commands.index("-m pytest")


@pytest.mark.parametrize(
    ("minutes", "processes", "said"), [(21, 1, "21 minutes on 1 core\n"), (1, 4, "1 minute on {} core")]
)
def test_the_minutes_are_those_of_the_cores_that_are_used(minutes, processes, said):
    used = min(os.cpu_count() or 1, processes)
    words = "test-time", f"TEST_MINUTES={minutes}", f"TEST_PROCESSES={processes}"
    assert make(*words, "GPU=").startswith(f"The tests take about {said.format(used)}")
    with_a_gpu = make(*words, "GPU=/usr/bin/nvidia-smi")
    assert with_a_gpu.endswith("; with this GPU more, until its kernels are compiled\n")
    assert with_a_gpu.startswith(f"The tests take about {said.format(used).rstrip()}")
