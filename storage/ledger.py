"""The committed partitions. A record here is the only proof that something is done.

A record is a small file of two lines: the JSON of `Record`, and the crc32c of that line. It is written after all shards
of its partition are durable, under a temporary name, and renamed: so it is there and whole, or not there.
A record that does not match its own checksum counts as not there.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from crc32c import crc32c

from .files import TEMPORARY, replace
from .paths import RunPaths

_NAME = re.compile(r"p(\d{7})-r(\d{3})\.json")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@dataclass(frozen=True)
class Record:
    """One committed (partition, rank).

    shards: key of each shard -> [bytes, crc32c of the whole object].
    non_finite: array key -> NaN and infinite values in it; only where there are any.
    tokens: tokens that went through the model, pads left out. seconds: of computing.
    source: for a job's array, `finished` of the record that it was computed from.
    """

    partition: int
    rank: int
    examples: int
    rows: int
    tokens: int
    shards: dict[str, tuple[int, int]]
    non_finite: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    finished: str = field(default_factory=now)
    source: str | None = None

    @property
    def bytes(self) -> int:
        return sum(size for size, _ in self.shards.values())


class Ledger:
    """The records in one folder: `ledger/extract` for the extraction, `ledger/NAME` for a job that fills arrays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, partition: int, rank: int = 0) -> Path:
        return self.folder / f"p{partition:07d}-r{rank:03d}.json"

    def commit(self, record: Record) -> None:
        line = json.dumps(asdict(record), sort_keys=True).encode()
        replace(
            self.path(record.partition, record.rank),
            line + f"\n{crc32c(line):08x}\n".encode(),
            crash_point="mid-ledger",
        )

    def read(self) -> tuple[dict[int, Record], dict[int, Path]]:
        """All records by partition, and the paths of those that are damaged."""
        records: dict[int, Record] = {}
        torn: dict[int, Path] = {}
        for path in sorted(self.folder.glob("p*.json")):
            if not (match := _NAME.fullmatch(path.name)):
                continue
            record = _parse(path.read_bytes())
            if record is None or record.partition != int(match[1]):
                torn[int(match[1])] = path
            else:
                records[record.partition] = record
        return records, torn

    def records(self) -> dict[int, Record]:
        return self.read()[0]

    def forget(self, partition: int) -> None:
        """Take back a record, so that its partition is done again."""
        for path in self.folder.glob(f"p{partition:07d}-r*.json*"):
            path.unlink()

    def clean(self) -> None:
        """Remove what a crash left half written."""
        for path in self.folder.glob(f"*{TEMPORARY}"):
            path.unlink()


def _parse(data: bytes) -> Record | None:
    line, _, crc = data.partition(b"\n")
    if crc.strip() != f"{crc32c(line):08x}".encode():
        return None
    fields = json.loads(line)
    fields["shards"] = {key: (size, crc) for key, (size, crc) in fields["shards"].items()}
    return Record(**fields)


def ledgers(paths: RunPaths) -> Iterator[tuple[str, Ledger]]:
    """Every ledger of a run with its name, the extraction's first."""
    names = sorted((p.name for p in paths.ledgers.glob("*") if p.is_dir()), key=lambda n: (n != EXTRACT, n))
    for name in names:
        yield name, Ledger(paths.ledger(name))


EXTRACT = "extract"  # the name of the extraction's own ledger
