"""What stands before installed packages in tests, here and in child processes."""

import os
import subprocess
import sys
from pathlib import Path

CODE = "import sys, nbformat; print('lark' in sys.modules)"


def test_nbformat_is_imported_without_a_grammar_of_addresses():
    """Which takes a second, in each kernel that a test starts."""
    quick = str(Path(__file__).with_name("quick"))
    assert quick in sys.path and quick in os.environ["PYTHONPATH"].split(os.pathsep)
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
