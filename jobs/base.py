"""What jobs share: reading pooled values in blocks, and tables that know what they were computed from."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import RunError, SpecError
from ..pipeline.data import Label, classes
from ..pipeline.spec import Job
from ..storage.run import Run
from ..storage.tables import write_table

_BLOCK_BYTES = 128 * 2**20  # of pooled values in memory at once


@dataclass(frozen=True)
class Block:
    """Pooled values [examples, neurons] of consecutive neurons of one layer; examples in the order of the input."""

    layer: int
    first: int
    values: np.ndarray


def blocks(run: Run, site: str, operation: str) -> Iterator[Block]:
    """The pooled values of a site, some neurons at a time."""
    pooled = run.pooled(site, operation)
    width = max(1, _BLOCK_BYTES // (4 * max(1, pooled.sizes["example"])))
    for plane, layer in enumerate(pooled["layer"].values):
        for first in range(0, pooled.sizes["neuron"], width):
            yield Block(int(layer), first, pooled[plane, :, first : first + width].values)


def require_complete(run: Run) -> None:
    if not run.complete:
        raise RunError(
            f"{run.path} is not complete: {len(run.records)} of {run.partitions} partitions are done. "
            "Finish it with `actlake run SPEC`, then run the job."
        )


def chosen_sites(run: Run, sites: tuple[str, ...]) -> list[str]:
    for site in sites:
        if site not in run.sites:
            raise SpecError(f"The run has no site {site!r}; it has {', '.join(run.sites)}.")
    return list(sites) or run.sites


def label_columns(run: Run, labels: tuple[str, ...]) -> dict[str, list[Label]]:
    """The label columns asked for, or all. Raises SpecError for one that the run does not have."""
    there = run.identity["claims"]["data"]["labels"]
    for label in labels:
        if label not in there:
            raise SpecError(f"The run has no label {label!r}; its labels are {', '.join(there) or 'none'}.")
    if not there:
        raise SpecError("The run has no labels: name the label columns in data.labels.")
    return {label: run.examples[label].to_pylist() for label in labels or there}


def targets(columns: dict[str, list[Label]]) -> dict[str, np.ndarray]:
    """What to rank for: `label` for a 0/1 column, `label=class` for every class of another; bool [examples]."""
    found = {}
    for label, values in columns.items():
        for name, members in classes(values).items():
            found[label if name is None else f"{label}={name}"] = np.array(members)
    return found


def origin(run: Run, job: Job) -> dict[str, Any]:
    """What a result is computed from: the job's options, the plan, and the state of the ledger."""
    sha = hashlib.sha256()
    for partition, record in sorted(run.records.items()):
        sha.update(json.dumps([partition, sorted(record.shards.items())]).encode())
    return {
        "options": job.model_dump(mode="json", exclude={"threshold"}),
        "plan": run.plan["digest"],
        "ledger": sha.hexdigest(),
    }


def is_current(run: Run, name: str, made_from: dict[str, Any]) -> bool:
    """Whether the table `name` is there and was computed from the same."""
    path = run.paths.table(name)
    if not path.exists():
        return False
    try:
        metadata = pq.read_schema(path).metadata or {}
    except pa.ArrowException:
        return False
    return json.loads(metadata.get(b"actlake", b"null")) == made_from


def save_table(run: Run, name: str, table: pa.Table, made_from: dict[str, Any]) -> None:
    write_table(run.paths.table(name), table.replace_schema_metadata({"actlake": json.dumps(made_from)}))
