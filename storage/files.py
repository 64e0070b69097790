"""Durable local files.

Two ways to write, and one rule. A shard is written in place and fsynced, file and directory: half a shard is harmless,
since only the ledger says that it exists. Everything that is itself a proof (ledger records, identity, tables) is
written to a temporary name, fsynced, renamed over the old one, and the directory fsynced: a reader sees the old
bytes or the new ones, never a mixture.
"""

import os
from collections.abc import Iterable
from pathlib import Path

from ..errors import StorageError
from . import faults

Buffer = bytes | bytearray | memoryview
TEMPORARY = ".partial"  # the suffix of files that are not yet renamed into place


def fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write_all(fd: int, buffer: Buffer) -> None:
    faults.before_write()
    view = memoryview(buffer).cast("B")
    while view:
        view = view[os.write(fd, view) :]


def make_directory(path: Path) -> None:
    """Create `path` and its missing parents, each made durable in its own parent."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for p in missing:
            fsync_directory(p.parent)
    except OSError as error:
        raise StorageError(f"Could not make the folder {path}: {error.strerror}. Check its path and rights.") from error


def write_in_place(path: Path, buffers: Iterable[Buffer]) -> None:
    """Write `buffers` one after the other to `path`, durably; a crash may leave half of them."""
    make_directory(path.parent)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            for buffer in buffers:
                _write_all(fd, buffer)
            os.fsync(fd)
        finally:
            os.close(fd)
        fsync_directory(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


def replace(path: Path, data: Buffer, *, crash_point: str | None = None) -> None:
    """Put `data` at `path` atomically and durably."""
    make_directory(path.parent)
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
        try:
            if crash_point:  # two writes, so that a crash between them leaves half a record
                half = len(data) // 2
                _write_all(fd, data[:half])
                faults.crash_point(crash_point)
                data = data[half:]
            _write_all(fd, data)
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
        fsync_directory(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


def publish(temporary: Path, path: Path) -> None:
    """Make a file that a library wrote at `temporary` durable and visible at `path`."""
    with temporary.open("rb") as handle:
        os.fsync(handle.fileno())
    temporary.rename(path)
    fsync_directory(path.parent)


def _not_written(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"Could not write {path}: {error.strerror}. What was committed before is safe and nothing else is marked done; "
        "free some space or mend the disk, then run the same command again."
    )
