"""How far a run is."""

import shutil
from dataclasses import asdict, dataclass
from typing import Any

from .lock import holder
from .run import Run
from .tables import table_names


@dataclass(frozen=True)
class Status:
    """Figures of a run. tokens_per_second, bytes_per_second: of computing, over all committed partitions."""

    path: str
    partitions: int
    done: int
    left: int
    examples: int
    rows: int
    tokens: int
    bytes: int
    seconds: float
    tokens_per_second: float
    rows_per_second: float
    bytes_per_second: float
    seconds_left: float | None
    non_finite: dict[str, int]
    written_by: str | None
    tables: list[str]
    free_bytes: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def status(run: Run) -> Status:
    records = list(run.records.values())
    seconds = sum(r.seconds for r in records)
    tokens, rows = sum(r.tokens for r in records), sum(r.rows for r in records)
    stored = sum(r.bytes for r in records)
    left = run.partitions - len(records)
    rate = tokens / seconds if seconds else 0.0
    tokens_left = run.plan["tokens"] - tokens
    non_finite: dict[str, int] = {}
    for record in records:
        for key, count in record.non_finite.items():
            non_finite[key] = non_finite.get(key, 0) + count
    return Status(
        path=str(run.path),
        partitions=run.partitions,
        done=len(records),
        left=left,
        examples=sum(r.examples for r in records),
        rows=rows,
        tokens=tokens,
        bytes=stored,
        seconds=round(seconds, 3),
        tokens_per_second=round(rate, 1),
        rows_per_second=round(rows / seconds, 1) if seconds else 0.0,
        bytes_per_second=round(stored / seconds, 1) if seconds else 0.0,
        seconds_left=round(tokens_left / rate, 1) if rate else (0.0 if not left else None),
        non_finite=non_finite,
        written_by=holder(run.paths.lock),
        tables=table_names(run.paths),
        free_bytes=shutil.disk_usage(run.path).free,
    )
