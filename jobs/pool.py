"""Pool what is stored: the maximum over each example's tokens, for runs that kept all tokens and pooled nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ..errors import RunError
from ..kernels.pool import pool
from ..pipeline.buffers import as_tensor, store_rows
from ..pipeline.spec import MaxJob
from ..storage.arrays import read_rows
from ..storage.layout import BandedArray
from ..storage.ledger import Ledger, Record
from ..storage.paths import activations_key, pooled_key
from ..storage.run import Run
from ..storage.shards import ShardBuffer, create_arrays, open_array
from .base import chosen_sites, require_complete


def maximum(run: Run, job: MaxJob, note: Callable[[str], None]) -> dict[str, Any]:
    """Fill `pooled.zarr/max/SITE` one partition at a time, with a ledger of its own per site; resumable.

    Raises RunError when the run did not keep all tokens.
    """
    require_complete(run)
    made = {}
    for site in chosen_sites(run, job.sites):
        key = pooled_key("max", site)
        if key in run.plan["arrays"]:
            made[site] = "pooled while it was extracted"
            continue
        if run.identity["claims"]["capture"]["tokens"] != "all":
            raise RunError(
                f"The run did not keep all tokens of {site}, so their maximum is not known. Extract with pool: [max]."
            )
        capture = run.identity["claims"]["capture"]
        if capture["pool_from"] or capture["pool_skip_first"]:
            raise RunError(
                "The run leaves the beginning of its texts out of the pool, which this job cannot: it takes all stored "
                "tokens. Extract with pool: [max]."
            )
        note(f"max over tokens of {site}")
        made[site] = f"{_pool_site(run, site, key)} partitions pooled"
    return {"pooled": made}


def ledger_of(run: Run, site: str) -> Ledger:
    return Ledger(run.paths.ledger(f"max-{site}"))


def _pool_site(run: Run, site: str, key: str) -> int:
    source = run.array_layout(activations_key(site))
    band = int(np.bincount(run.examples["partition"].to_numpy()).max())
    target = replace(source, key=key, dims=("layer", "example", "neuron"), band=band)
    ledger = ledger_of(run, site)
    ledger.clean()
    done = {p: r for p, r in ledger.records().items() if r.source == run.records[p].finished}
    if not ledger.folder.exists():
        create_arrays(run.path, [target])
    todo = [p for p in range(run.partitions) if p not in done]
    shard = ShardBuffer(target)
    for partition in todo:
        ledger.commit(_pool_partition(run, source, target, shard, partition))
    return len(todo)


def _pool_partition(run: Run, source: BandedArray, target: BandedArray, shard: ShardBuffer, partition: int) -> Record:
    """Pool one partition's examples into `shard` and write it."""
    members = np.flatnonzero(run.examples["partition"].to_numpy() == partition)
    starts = run.examples["row_start"].to_numpy()[members]
    counts = run.examples["n_rows"].to_numpy()[members]
    places = run.examples["pooled_row"].to_numpy()[members] - partition * target.padded_band
    order = np.argsort(places)
    first = int(starts.min())
    rows = np.arange(first, int((starts + counts).max()))
    segments = [(int(starts[i]) - first, int(starts[i] + counts[i]) - first) for i in order]
    array, tensor = open_array(run.path, source.key), as_tensor(shard)
    for plane in range(source.planes):
        values = torch.from_numpy(read_rows(array, slice(plane, plane + 1), rows)[0]).to(tensor.dtype)
        store_rows(tensor, plane, 0, pool(values, segments, "max"))
    finished = shard.finish(len(members))
    key = target.shard_key(partition)
    finished.write(run.path / key)
    return Record(
        partition,
        0,
        len(members),
        len(members),
        0,
        {key: (finished.size, finished.crc)},
        {target.key: finished.non_finite} if finished.non_finite else {},
        source=run.records[partition].finished,
    )
