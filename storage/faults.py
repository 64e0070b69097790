"""Failures on demand, so that the crash protocol can be tested where it runs.

`ACTLAKE_FAULT=NAME[:N]` makes the process fail at the N-th passing (default 1) of the place NAME:

    after-shard     exit at once, a shard of a partition just written
    before-ledger   exit at once, all shards durable, the ledger record not begun
    mid-ledger      exit at once, the ledger record half written
    enospc, eio     the N-th write of bytes raises that OSError

Exits are `os._exit(137)`: no clean-up runs, as after SIGKILL.
"""

import errno
import os
from collections import Counter

from ..errors import StorageError

CRASH_POINTS = ("after-shard", "before-ledger", "mid-ledger")
WRITE_ERRORS = {"enospc": errno.ENOSPC, "eio": errno.EIO}

_passed: Counter[str] = Counter()


def _due(name: str) -> bool:
    wanted, _, nth = os.environ.get("ACTLAKE_FAULT", "").partition(":")
    if wanted and (wanted not in (*CRASH_POINTS, *WRITE_ERRORS) or not (nth or "1").isdigit()):
        raise StorageError(
            f"ACTLAKE_FAULT={wanted}:{nth} names no fault: expected {', '.join((*CRASH_POINTS, *WRITE_ERRORS))}."
        )
    if wanted != name:
        return False
    _passed[name] += 1
    return _passed[name] == int(nth or 1)


def crash_point(name: str) -> None:
    """Exit here when the environment says so."""
    if _due(name):
        os._exit(137)


def before_write() -> None:
    """Raise the OSError that the environment asks for at this write."""
    for name, code in WRITE_ERRORS.items():
        if _due(name):
            raise OSError(code, os.strerror(code))
