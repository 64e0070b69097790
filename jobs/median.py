"""The median pooled response of each neuron, by class of a label."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from ..kernels.median import median as median_of
from ..pipeline.spec import MedianJob
from ..storage.run import Run
from .base import blocks, chosen_sites, is_current, label_columns, origin, require_complete, save_table

SCHEMA = pa.schema(
    [
        ("site", pa.string()),
        ("layer", pa.int32()),
        ("neuron", pa.int32()),
        ("label", pa.string()),
        ("class", pa.string()),
        ("median", pa.float64()),
        ("n_examples", pa.int32()),
    ]
)


def median(run: Run, job: MedianJob, note: Callable[[str], None]) -> dict[str, Any]:
    """Write `tables/median.parquet`, one row per neuron, label and class. Returns a summary."""
    require_complete(run)
    columns = label_columns(run, job.labels)
    made_from = origin(run, job)
    if not is_current(run, "median", made_from):
        found: list[pa.RecordBatch] = []
        for site in chosen_sites(run, job.sites):
            note(f"medians of {site}")
            for block in blocks(run, site, job.pool):
                count = block.values.shape[1]
                for label, values in columns.items():
                    for name in sorted(set(values), key=str):
                        members = np.array([v == name for v in values])
                        found.append(
                            pa.record_batch(
                                [
                                    pa.repeat(site, count),
                                    pa.repeat(pa.scalar(block.layer, pa.int32()), count),
                                    pa.array(np.arange(block.first, block.first + count, dtype=np.int32)),
                                    pa.repeat(label, count),
                                    pa.repeat(str(name), count),
                                    pa.array(median_of(block.values[members].T)),
                                    pa.repeat(pa.scalar(int(members.sum()), pa.int32()), count),
                                ],
                                schema=SCHEMA,
                            )
                        )
        save_table(run, "median", pa.Table.from_batches(found, SCHEMA), made_from)
    return {"table": "median", "rows": run.table("median").num_rows}
