"""Does what is on disk match the ledger?"""

from collections.abc import Iterator
from dataclasses import dataclass

from .files import digest_file
from .ledger import EXTRACT, Ledger, ledgers
from .run import Run
from .shards import check_shard

DESCRIPTION = "description"  # what says what the run is: spec, examples and metadata of arrays


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong. ledger: whose partition it is (the extraction's or a job's)."""

    ledger: str
    partition: int
    what: str
    file: str | None = None  # of the run's description, where that is what is wrong

    def __str__(self) -> str:
        if self.file:
            return f"{self.ledger}: {self.what}"
        return f"{self.ledger} partition {self.partition}: {self.what}"


def verify(run: Run, *, deep: bool = False) -> Iterator[Fault]:
    """Every missing or torn record and every shard that is missing or has not the recorded size.

    `deep` reads all bytes and compares their checksums too.
    """
    for name, digest in run.identity["files"].items():
        found = digest_file(run.path / name)
        if found != digest:
            yield Fault(DESCRIPTION, 0, f"{name} {'is missing' if found is None else 'is not what it was'}", name)
    names = dict(ledgers(run.paths)) or {EXTRACT: Ledger(run.paths.ledger(EXTRACT))}
    for name, ledger in names.items():
        records, torn = ledger.read()
        for partition in range(run.partitions):
            if partition in torn:
                yield Fault(name, partition, f"its record {torn[partition].name} is torn")
            elif partition not in records:
                yield Fault(name, partition, "is not done")
            else:
                extracted = run.records.get(partition)
                if name != EXTRACT and (not extracted or records[partition].source != extracted.finished):
                    yield Fault(name, partition, "was computed from an older state of the run")
                for key, (size, crc) in records[partition].shards.items():
                    if problem := check_shard(run.path / key, size, crc, deep=deep):
                        yield Fault(name, partition, f"{key} {problem}")
