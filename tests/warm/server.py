"""Forks a process for each program that tests start, with what takes long to import there already: torch and Jupyter.

Run as `python server.py SOCKET`; `client.py` stands in for the program. Nothing of blockskip or skiplab is imported
here: a notebook's kernel finds those as it would in a process of its own.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

IMPORTED = (
    "torch", "pandas", "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.zmqshell", "ipykernel.debugger",
    "IPython.core.completerlib", "ipywidgets", "anywidget", "nbformat", "plotly.io", "plotly.graph_objs._figure",
    "plotly.graph_objs._figurewidget", "plotly.graph_objs._layout", "plotly.graph_objs._scatter", "matplotlib.figure",
    "matplotlib.backends.backend_agg", "jinja2", "msgspec", "psutil", "safetensors", "cloudpickle",
)  # fmt: skip
PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(path: str) -> None:
    """Serve until killed; in a forked process, return when there is nothing left but to end it."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)  # it ends with the tests, however they end
    signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that a shell has in the background ignore it
    own = list(sys.path[1:])
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # as for every measuring child
    sys.path.insert(0, str(Path(__file__).parents[1] / "quick"))
    gc.disable()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()
    gc.enable()
    signal.signal(signal.SIGCHLD, lambda *_: ended_children())
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{path}.new")
        listening.listen(64)
        os.rename(f"{path}.new", path)
        while True:
            connection, _ = listening.accept()
            if os.fork() == 0:
                break
            connection.close()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    program, descriptors = received(connection)
    keeper, words = os.getpid(), program["words"]
    if (pid := os.fork()) != 0:
        for descriptor in descriptors:
            os.close(descriptor)
        os._exit(kept(connection, pid, alone=words[0] == "-P"))
    connection.close()
    os.setsid()
    become(program, own)
    if os.getppid() == keeper:
        run([*words[:-2], str(keeper), *map(str, descriptors)] if descriptors else words)


def ended_children() -> None:
    """Wait for them, so that what they took counts as the tests' own."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """The program's words, environment and folder, and what it is given beside its standard streams, which are this
    process's from then on.

    Not a byte more is read than the client said: what comes behind are the numbers of signals.
    """
    size, streams, _, _ = socket.recv_fds(connection, 8, 4)
    for number, stream in enumerate(streams[:3]):
        os.dup2(stream, number)
        os.close(stream)
    text = b""
    while left := int.from_bytes(size, "big") - len(text):
        if not (part := connection.recv(left)):
            os._exit(1)  # the client is gone: there is nothing to run and nobody to tell
        text += part
    return json.loads(text), streams[3:]


def kept(connection: socket.socket, pid: int, alone: bool) -> int:
    """Hand signals on to the process and its group, or to it alone; tell how it ended.

    When the client is gone, its group is ended.
    """
    ended = os.pidfd_open(pid)
    while True:
        ready, _, _ = select.select([connection, ended], [], [])
        if ended in ready:
            code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            connection.sendall(code.to_bytes(4, "big", signed=True))
            return 0
        numbers = connection.recv(16)
        for number in numbers or [signal.SIGKILL]:
            try:
                (os.kill if alone and numbers else os.killpg)(pid, number)
            except ProcessLookupError:  # it has no group of its own yet, or has just ended
                os.kill(pid, number)
        if not numbers:
            os.waitpid(pid, 0)
            return 0


def become(program: dict[str, Any], own: list[str]) -> None:
    """Environment, folder and import path of the program, as Python would have set them; its own programs are warm."""
    os.environ.clear()
    os.environ.update(program["environment"])
    sys.executable = os.environ.get("SKIPLAB_TESTS_PYTHON", sys.executable)
    os.chdir(program["folder"])
    asked = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = ["", *(str(Path(path).resolve()) for path in asked if path), *own]
    importlib.invalidate_caches()


def run(words: list[str]) -> None:
    """Python's `-m MODULE`, `-c CODE`, `SCRIPT` or `-P SCRIPT`, and its words."""
    kind, *rest = words
    if kind == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), vars(sys.modules["__main__"]))
    elif kind == "-P":
        sys.argv = rest
        del sys.path[0]
        runpy.run_path(rest[0], run_name="__main__")
    else:
        sys.argv = words
        sys.path[0] = str(Path(kind).resolve().parent)
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    main(sys.argv[1])
