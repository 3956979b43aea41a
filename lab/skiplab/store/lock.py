"""One writer a file: a lock of the operating system, which ends with the process, however that ends."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from skiplab.store.schema import RunFileError

FAR = 1 << 40
"""On Windows a range of bytes is locked, and nobody else can read them: this one lies behind every run."""


def open_locked(path: Path) -> io.FileIO:
    """The file, made if it is missing, opened for reading and writing and locked until it is closed.

    The lock is the file's own: there is no second file, and no process of ours that has ended holds it. Child processes
    do not inherit it. RunFileError where another writer has it, and where the file system has no locks.
    """
    if path.exists() and not path.is_file():
        raise RunFileError(f"{path.name}: is no file that a run could be written to")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = io.FileIO(path, "x+")
    except FileExistsError:
        file = io.FileIO(path, "r+")
    try:
        _lock(file)
    except OSError as error:
        file.close()
        if isinstance(error, BlockingIOError | PermissionError):
            raise RunFileError(
                f"{path.name}: is being written by another sweep; wait for it, or name a new file"
            ) from None
        raise RunFileError(f"{path.name}: cannot be locked ({error}); name a file on another disk") from error
    return file


if sys.platform == "win32":
    import msvcrt

    def _lock(file: io.FileIO) -> None:
        file.seek(FAR)
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        file.seek(0)

else:
    import fcntl

    def _lock(file: io.FileIO) -> None:
        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def flush_folder(path: Path) -> None:
    """Flush a folder, so that a new file's name is on the disk, if the system allows it."""
    if sys.platform != "win32":
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
