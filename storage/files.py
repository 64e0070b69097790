"""Durable local files.

Two ways to write, and one rule. A shard is written in place and fsynced, file and directory: half a shard is harmless,
since only the ledger says that it exists. Everything that is itself a proof (ledger records, identity, tables) is
written to a temporary name, fsynced, renamed over the old one, and the directory fsynced: a reader sees the old
bytes or the new ones, never a mixture.
"""

import contextlib
import errno
import hashlib
import mmap
import os
from pathlib import Path

from ..errors import StorageError
from . import faults

Buffer = bytes | memoryview | mmap.mmap
PAGE = mmap.PAGESIZE
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


def aligned_buffer(size: int) -> mmap.mmap:
    """Zeroed memory of at least `size` bytes, page-aligned and in whole pages, so that it can be written directly."""
    buffer = mmap.mmap(-1, max(PAGE, -(-size // PAGE) * PAGE))
    if hasattr(mmap, "MADV_HUGEPAGE"):
        buffer.madvise(mmap.MADV_HUGEPAGE)  # otherwise first touching 256 MiB costs 65,536 page faults
    return buffer


def write_in_place(path: Path, buffer: Buffer, size: int) -> None:
    """Write the first `size` bytes of `buffer` to `path`, durably; a crash may leave some of them.

    Memory of `aligned_buffer` goes to the disk past the page cache, which would cost as much processor time as the
    forward pass can spare; other memory, and file systems that cannot do this, are written in the usual way.
    """
    make_directory(path.parent)
    try:
        fd, direct = _open_for_writing(path, isinstance(buffer, mmap.mmap))
        try:
            if direct:
                _write_pages(fd, memoryview(buffer)[: -(-size // PAGE) * PAGE])
                os.ftruncate(fd, size)
            else:
                _write_all(fd, memoryview(buffer)[:size])
            os.fsync(fd)
        finally:
            os.close(fd)
        fsync_directory(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


def _open_for_writing(path: Path, aligned: bool) -> tuple[int, bool]:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    if aligned and hasattr(os, "O_DIRECT"):
        with contextlib.suppress(OSError):
            return os.open(path, flags | os.O_DIRECT, 0o666), True
    return os.open(path, flags, 0o666), False


def _write_pages(fd: int, pages: memoryview) -> None:
    """Write whole pages; after a short write, go on from the last whole page."""
    faults.before_write()
    done = 0
    while done < len(pages):
        written = os.pwrite(fd, pages[done:], done) // PAGE * PAGE
        if not written:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += written


def replace(path: Path, data: bytes, *, crash_point: str | None = None) -> None:
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


def digest_file(path: Path) -> str | None:
    """The sha256 of a small file, None where there is none."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except FileNotFoundError:
        return None


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
