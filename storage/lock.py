"""One writer per run. The lock is the kernel's, so that it is gone when its process is, however it died."""

import contextlib
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import RunError


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file at `path`. Raises RunError, naming the holder, when another process has it."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        if not _take(fd):
            holder = os.read(fd, 200).decode(errors="replace").strip() or "another process"
            raise RunError(
                f"The run {path.parent} is being written by {holder}. Wait for it to end, or stop it, then {what} again."
            )
        os.ftruncate(fd, 0)
        os.write(fd, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _take(fd: int) -> bool:
    """Lock exclusively; somebody who only looks holds a lock too, for an instant."""
    for _ in range(10):
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def holder(path: Path) -> str | None:
    """Who holds the lock file at `path`, if anyone."""
    if not path.exists():
        return None
    with path.open("rb") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return handle.read(200).decode(errors="replace").strip() or "another process"
    return None
