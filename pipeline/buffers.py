"""Host memory of one partition: from captured tensors to finished shards."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from ..kernels.pool import Pool, pool
from ..storage import faults
from ..storage.layout import BandedArray
from ..storage.ledger import Ledger, Record
from ..storage.paths import POOLED, POSITIONS, TOKENS, activations_key, pooled_key
from ..storage.shards import ShardBuffer, row_pieces
from .batches import Batch
from .sites import Point
from .tokens import Tokens


def store_rows(shard: torch.Tensor, plane: int, row: int, values: torch.Tensor) -> None:
    """Copy `values` [rows, width] to `row` onwards of a plane of a shard, laid out as `ShardBuffer.values`."""
    tile, column = shard.shape[2], shard.shape[4]
    whole = values.shape[1] // column * column
    for source, (t, start, stop) in row_pieces(row, len(values), tile):
        target, piece = shard[t, plane, start:stop], values[source]
        target[:, : whole // column].copy_(piece[:, :whole].unflatten(1, (-1, column)))
        if whole < values.shape[1]:
            target[:, -1, : values.shape[1] - whole].copy_(piece[:, whole:])


def as_tensor(buffer: ShardBuffer) -> torch.Tensor:
    """A shard buffer's memory, in the array's true dtype."""
    if buffer.array.dtype == "bfloat16":
        return torch.from_numpy(buffer.values).view(torch.bfloat16)
    return torch.from_numpy(buffer.values)


@dataclass
class _Filled:
    """How far a partition has come."""

    partition: int = 0
    examples: int = 0
    rows: int = 0
    tokens: int = 0
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0


class PartitionBuffers:
    """All shards of a partition in memory. Used again and again: `start`, then for each batch `begin`, `take` for each
    captured tensor, `end`; at last `commit`."""

    def __init__(self, arrays: tuple[BandedArray, ...]) -> None:
        self._shards = {array.key: ShardBuffer(array) for array in arrays}
        self._tensors = {key: as_tensor(shard) for key, shard in self._shards.items() if len(shard.array.dims) > 1}
        self._keeps_rows = TOKENS in self._shards
        self._pools = [p for p in get_args(Pool) if any(a.key.startswith(f"{POOLED}/{p}/") for a in arrays)]
        self._filled = _Filled()
        self._pieces: list[tuple[slice | torch.Tensor, int]] = []
        self._segments: list[tuple[int, int]] = []
        self._later: list[tuple[str, int, int, torch.Tensor]] = []  # copies that are still on their way from a GPU
        self._rows = 0

    def start(self, partition: int) -> None:
        self._filled = _Filled(partition)

    def begin(self, batch: Batch, tokens: Tokens) -> None:
        """Work out where the batch's positions go: which rows are stored, and which are pooled."""
        device = batch.input_ids.device
        row = self._filled.rows
        self._pieces, self._segments = [], []
        for example, first in zip(batch.examples.tolist(), batch.starts.tolist(), strict=True):
            length, kept = int(tokens.lengths[example]), tokens.kept_of(example)
            self._segments.append((first + int(tokens.pool_from[example]), first + length))
            if not self._keeps_rows or not len(kept):
                continue
            whole = len(kept) == length
            source = slice(first, first + length) if whole else torch.from_numpy(first + kept.astype(np.int64)).to(device)
            last = self._pieces[-1][0] if self._pieces else None
            if whole and isinstance(last, slice) and last.stop == first:  # no pads between the two: one copy for both
                self._pieces[-1] = (slice(last.start, first + length), self._pieces[-1][1])
            else:
                self._pieces.append((source, row))
            self._shards[TOKENS].put(row, tokens.ids_of(example)[kept])
            self._shards[POSITIONS].put(row, kept)
            row += len(kept)
        self._rows = row

    def take(self, point: Point, values: torch.Tensor) -> None:
        """Copy what is wanted of `values` [positions, width]; the model may overwrite them right after."""
        for source, row in self._pieces:
            self._copy(activations_key(point.site), point.plane, row, values[source])
        for operation in self._pools:
            pooled = pool(values, self._segments, operation)
            self._copy(pooled_key(operation, point.site), point.plane, self._filled.examples, pooled)

    def _copy(self, key: str, plane: int, row: int, values: torch.Tensor) -> None:
        if values.device.type == "cpu":
            store_rows(self._tensors[key], plane, row, values)
            return
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        self._later.append((key, plane, row, host))

    def end(self, batch: Batch, tokens: Tokens) -> None:
        """The batch's forward pass is over."""
        if self._later:
            torch.cuda.current_stream(batch.input_ids.device).synchronize()
            for key, plane, row, host in self._later:
                store_rows(self._tensors[key], plane, row, host)
            self._later = []
        self._filled.rows = self._rows
        self._filled.examples += len(batch.examples)
        self._filled.tokens += int(tokens.lengths[batch.examples].sum())
        self._filled.seconds = time.perf_counter() - self._filled.began

    def commit(self, root: Path, ledger: Ledger) -> Record:
        """Write all shards durably, then the record that says so (the protocol is in storage/shards.py)."""
        done = self._filled
        shards: dict[str, tuple[int, int]] = {}
        non_finite: dict[str, int] = {}
        for key, shard in self._shards.items():
            rows = done.examples if key.startswith(POOLED) else done.rows
            finished = shard.finish(rows)
            if finished.non_finite:
                non_finite[key] = finished.non_finite
            path = shard.array.shard_key(done.partition)
            finished.write(root / path)
            shards[path] = (finished.size, finished.crc)
            faults.crash_point("after-shard")
        faults.crash_point("before-ledger")
        record = Record(done.partition, 0, done.examples, done.rows, done.tokens, shards, non_finite, round(done.seconds, 3))
        ledger.commit(record)
        return record
