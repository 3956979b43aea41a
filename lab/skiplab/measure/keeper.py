"""The parent process of a measuring child: it starts the child, and kills it when the lab is gone.

Run as `python keeper.py LAB CONNECTION`: the lab's process id, and the descriptor of a connection to it. The lab makes
it the leader of a process group, so that whatever a kernel starts can be ended with it. The child is forked before
anything heavy is imported, so a kernel cannot make the keeper hang.
"""

import os
import signal
import sys
import threading
import time

WATCH_S = 0.5


def main() -> None:
    """Fork the child, wait for it, and end as it ended."""
    lab, descriptor = map(int, sys.argv[1:])
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else torch's profiler says in the terminal when it starts
    keeper, child = os.getpid(), os.fork()
    if child == 0:
        serve(descriptor, keeper)
        os._exit(0)
    os.close(descriptor)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: os.kill(child, signal.SIGKILL))
    threading.Thread(target=watch, args=(lab,), daemon=True).start()
    _, status = os.waitpid(child, 0)
    leave(os.waitstatus_to_exitcode(status))


def serve(descriptor: int, keeper: int) -> None:
    """The child: take over the lab's import path, then measure the points that come over the connection."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the lab alone decides what Ctrl-C means
    from multiprocessing.connection import Connection

    lab = Connection(descriptor)
    sys.path[:] = lab.recv()
    from skiplab.measure.serving import serve

    serve(lab, keeper)


def watch(lab: int) -> None:
    """Kill the group, this process with it, as soon as the lab is no longer its parent."""
    while os.getppid() == lab:
        time.sleep(WATCH_S)
    os.killpg(0, signal.SIGKILL)


def leave(code: int) -> None:
    """Exit with that code; for a negative one die of that signal, without a second core file."""
    if code < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -code not in (signal.SIGKILL, signal.SIGSTOP):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(abs(code))


if __name__ == "__main__":
    main()
