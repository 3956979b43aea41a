"""Programs that `warm/server.py` forks are as those that Python starts, with modules of others imported already."""

import json
import os
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path

import pytest

CLIENT = Path(__file__).parent / "warm" / "client.py"
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forked on Linux alone")
FACTS = """
import json, os, sys
ours = [name for name in sys.modules if name.partition(".")[0] in ("blockskip", "skiplab", "triton")]
print(json.dumps([sys.argv, os.getcwd(), os.environ["ONE"], sys.path[:2], "torch" in sys.modules, ours]))
sys.exit(7)
"""


def start(warm, *words, **options):
    environment = {**os.environ, **warm, "ONE": "1", "PYTHONPATH": "beside"}
    return subprocess.Popen([sys.executable, CLIENT, *words], env=environment, **options)


def test_words_folder_environment_path_and_exit_code_are_the_programs_own(warm, tmp_path):
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / "named.py").write_text(FACTS)
    (tmp_path / "script.py").write_text(FACTS)
    beside = str(tmp_path / "beside")
    for words, first in ((("-c", FACTS, "more"), ""), (("-m", "named", "more"), ""), (("script.py", "more"), tmp_path)):
        program = start(warm, *words, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        argv, folder, one, path, has_torch, ours = json.loads(program.communicate(timeout=60)[0])
        assert program.returncode == 7 and argv[-1] == "more" and one == "1" and folder == str(tmp_path)
        assert path[1] == beside and path[0] in (str(first), folder)
        assert has_torch and not ours


SENDS = """
import json, os, signal, socket, sys, time

behind = bytes([int(sys.argv[1])])
with socket.socket(socket.AF_UNIX) as server:
    server.connect(os.environ["SKIPLAB_TESTS_WARM"])
    words = ["-c", "import time; time.sleep(600)"]
    text = json.dumps({"words": words, "environment": dict(os.environ), "folder": os.getcwd()}).encode()
    socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(text[:9])
    time.sleep(0.2)
    server.sendall(text[9:] + behind)
    print(int.from_bytes(server.recv(4, socket.MSG_WAITALL), "big", signed=True))
"""


def test_a_signal_right_behind_the_program_reaches_it(warm, tmp_path):
    """What is sent comes in parts, and the signal's number in one with the text's end."""
    words = [sys.executable, "-c", SENDS, str(int(signal.SIGTERM))]
    sent = subprocess.run(words, cwd=tmp_path, env={**os.environ, **warm}, capture_output=True, text=True, timeout=60)
    assert int(sent.stdout) == -signal.SIGTERM, sent.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_it_is_interrupted_and_ends_with_its_client(warm, tmp_path, number):
    code = "import os, time; print(os.getpid(), flush=True); time.sleep(600)"
    program = start(warm, "-c", code, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert program.stdout is not None
    forked = int(program.stdout.readline())
    program.send_signal(number)
    assert program.wait(60) != 0
    end = time.monotonic() + 60
    while Path(f"/proc/{forked}").exists():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_error_is_on_stderr(warm, tmp_path):
    program = start(warm, "-c", "1 / 0", cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert "ZeroDivisionError" in program.communicate(timeout=60)[1] and program.returncode == 1


GIVEN = """
import os, sys
from multiprocessing.connection import Connection
connection = Connection(int(sys.argv[2]))
connection.send((os.getppid() == int(sys.argv[1]), os.getpid(), "torch" in sys.modules))
if connection.recv() == "abort":
    os.abort()
connection.recv()
"""


@pytest.mark.parametrize("end", ["abort", "terminate", "hang up"])
def test_a_childs_keeper_has_the_connection_and_ends_as_it_would(warm, warm_python, tmp_path, end):
    (tmp_path / "keeper.py").write_text(GIVEN)
    ours, theirs = Pipe()
    words = [sys.executable, "-P", tmp_path / "keeper.py", str(os.getpid()), str(theirs.fileno())]
    keeper = subprocess.Popen(words, pass_fds=(theirs.fileno(),), stderr=subprocess.DEVNULL)
    theirs.close()
    assert ours.poll(60)
    under_who_it_was_told, forked, has_torch = ours.recv()
    assert under_who_it_was_told and has_torch and forked != keeper.pid
    ours.send(end)
    if end == "terminate":
        keeper.terminate()
    if end == "hang up":
        ours.close()
    assert keeper.wait(60) == {"abort": -signal.SIGABRT, "terminate": -signal.SIGTERM, "hang up": 1}[end]
    if end != "hang up":
        with pytest.raises((EOFError, ConnectionResetError)):
            ours.recv()


def test_what_stands_for_python_forks_modules_code_and_scripts_and_starts_all_else(warm, warm_python, tmp_path):
    says = "import os, sys; print('torch' in sys.modules, sys.argv[1:], os.environ['ONE'], sys.executable)"
    (tmp_path / "named.py").write_text(says)
    for *words, expected in (("-c", says, True), ("-m", "named", True), ("named.py", True), ("-B", "named.py", False)):
        environment = {**os.environ, "ONE": "1", "PYTHONPATH": str(tmp_path)}
        command = [sys.executable, *words, "a b", ""]
        said = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert said.stdout.startswith(f"{expected} ['a b', ''] 1 "), said
        assert said.stdout.strip().endswith(warm["SKIPLAB_TESTS_PYTHON"]) == expected
