"""Stands in for `python` with the words behind it: what they ask for runs in a process that `server.py` forks.

`-P SCRIPT PARENT DESCRIPTOR` is how the lab starts the parent of a measuring child: it is given that connection, and
ends when the lab is no longer this process's parent.
"""

import json
import os
import resource
import select
import signal
import socket
import sys

WATCH_S = 0.5
ALWAYS_DEADLY = (signal.SIGKILL, signal.SIGSTOP)


def main() -> int:
    descriptors = [int(sys.argv[-1])] if sys.argv[1] == "-P" else []
    lab = os.getppid()
    with socket.socket(socket.AF_UNIX) as server:
        server.connect(os.environ["SKIPLAB_TESTS_WARM"])
        program = {"words": sys.argv[1:], "environment": dict(os.environ), "folder": os.getcwd()}
        text = json.dumps(program).encode()
        socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2, *descriptors])
        server.sendall(text)
        for number in (signal.SIGINT, signal.SIGTERM):  # behind the text, in which a byte of theirs would stand else
            signal.signal(number, lambda number, frame: server.send(bytes([number])))
        for descriptor in descriptors:
            os.close(descriptor)
            while not select.select([server], [], [], WATCH_S)[0]:
                if os.getppid() != lab:
                    return 1
        code = int.from_bytes(server.recv(4, socket.MSG_WAITALL) or b"\1", "big", signed=True)
    if code < 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in ALWAYS_DEADLY:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    return code


if __name__ == "__main__":
    sys.exit(main())
