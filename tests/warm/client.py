"""Stands in for `python` with the words behind it: what they ask for runs in a process that `server.py` forks."""

import json
import os
import signal
import socket
import sys


def main() -> int:
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["SKIPLAB_TESTS_WARM"])
        program = {"words": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
        text = json.dumps(program).encode()
        socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2])
        server.sendall(text)
        for number in (signal.SIGINT, signal.SIGTERM):  # behind the text, in which a byte of theirs would stand else
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
        code = int.from_bytes(server.recv(4, socket.MSG_WAITALL) or b"\1", "big", signed=True)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
