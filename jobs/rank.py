"""Rank neurons: the average precision of each neuron's pooled response for each label."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from ..kernels.average_precision import average_precision
from ..kernels.rounding import round_significant
from ..pipeline.data import check_labels
from ..pipeline.spec import RankJob
from ..storage.run import Run
from .base import blocks, chosen_sites, is_current, label_columns, origin, require_complete, save_table, targets

DEFAULT_BITS = 12  # for float32: noise of batched arithmetic is near 2^-22, a real difference above 2^-12
_SCRATCH_BYTES = 64 * 2**20  # of the kernel, which takes about 64 bytes for each neuron and example

SCHEMA = pa.schema(
    [
        ("site", pa.string()),
        ("layer", pa.int32()),
        ("neuron", pa.int32()),
        ("label", pa.string()),
        ("ap", pa.float64()),
        ("n_positive", pa.int32()),
        ("n_examples", pa.int32()),
        ("significant_bits", pa.int8()),  # null: values were ranked as stored
    ]
)


def rank(run: Run, job: RankJob, note: Callable[[str], None]) -> dict[str, Any]:
    """Write `tables/rank.parquet`, one row per neuron and label, highest AP first. Returns a summary.

    A neuron with a NaN response has AP NaN and comes last. Raises DataError for a label with one class.
    """
    require_complete(run)
    columns = label_columns(run, job.labels)
    check_labels(columns, ())
    made_from = origin(run, job)
    if not is_current(run, "rank", made_from):
        table = _ranked(run, job, targets(columns), note)
        save_table(run, "rank", table, made_from)
    return summary(run, job)


def _ranked(run: Run, job: RankJob, wanted: dict[str, np.ndarray], note: Callable[[str], None]) -> pa.Table:
    found: list[pa.RecordBatch] = []
    for site in chosen_sites(run, job.sites):
        note(f"ranking {site}")
        dtype = run.pooled(site, job.pool).attrs["dtype"]
        bits = job.significant_bits or (DEFAULT_BITS if dtype == "float32" else None)
        for block in blocks(run, site, job.pool):
            values = block.values if bits is None else round_significant(block.values, bits)
            scores = np.ascontiguousarray(values.T)
            count = len(scores)
            step = max(1, _SCRATCH_BYTES // (64 * scores.shape[1]))
            for label, positive in wanted.items():
                parts = [average_precision(scores[i : i + step], positive) for i in range(0, count, step)]
                found.append(
                    pa.record_batch(
                        [
                            pa.repeat(site, count),
                            pa.repeat(pa.scalar(block.layer, pa.int32()), count),
                            pa.array(np.arange(block.first, block.first + count, dtype=np.int32)),
                            pa.repeat(label, count),
                            pa.array(np.concatenate(parts)),
                            pa.repeat(pa.scalar(int(positive.sum()), pa.int32()), count),
                            pa.repeat(pa.scalar(len(positive), pa.int32()), count),
                            pa.repeat(pa.scalar(bits, pa.int8()), count),
                        ],
                        schema=SCHEMA,
                    )
                )
    table = pa.Table.from_batches(found, SCHEMA)
    ap = table["ap"].to_numpy()
    return table.take(np.argsort(np.where(np.isnan(ap), np.inf, -ap), kind="stable"))


def summary(run: Run, job: RankJob) -> dict[str, Any]:
    """Counts above the threshold by site and label, and the best ten neurons."""
    table = run.table("rank")
    ap = table["ap"].to_numpy()
    above = table.filter(pa.array(ap > job.threshold))
    counts = Counter(zip(above["label"].to_pylist(), above["site"].to_pylist(), strict=True))
    return {
        "table": "rank",
        "rows": len(table),
        "threshold": job.threshold,
        "above": {f"{label} {site}": n for (label, site), n in sorted(counts.items())},
        "not_a_number": int(np.isnan(ap).sum()),
        "best": table.filter(pa.array(~np.isnan(ap)))
        .slice(0, 10)
        .select(["site", "layer", "neuron", "label", "ap", "n_positive", "n_examples"])
        .to_pylist(),
    }
