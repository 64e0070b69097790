"""Where every row will be, before anything runs. A pure function of spec, data, tokenizer and the model's shape."""

import hashlib
from dataclasses import dataclass

import numpy as np

from ..storage.layout import ROW_TILE, BandedArray, padded
from ..storage.paths import POSITIONS, TOKENS, activations_key, pooled_key
from .spec import Spec
from .tokens import Tokens


@dataclass(frozen=True)
class Plan:
    """The place of every example.

    order: examples by length, the order in which they are extracted. first: int64 [partitions + 1], where each
    partition begins in `order`. row_start, pooled_row: int64 [examples], the example's first row in the activation
    arrays and its row in the pooled ones.
    """

    order: np.ndarray
    first: np.ndarray
    partition: np.ndarray
    row_start: np.ndarray
    pooled_row: np.ndarray
    arrays: tuple[BandedArray, ...]

    @property
    def partitions(self) -> int:
        return len(self.first) - 1

    def members(self, partition: int) -> np.ndarray:
        """The examples of a partition, shortest first."""
        return self.order[self.first[partition] : self.first[partition + 1]]

    def digest(self) -> str:
        sha = hashlib.sha256()
        for array in (self.order, self.first, self.row_start, self.pooled_row):
            sha.update(np.ascontiguousarray(array).tobytes())
        sha.update(repr(sorted(self.arrays, key=lambda a: a.key)).encode())
        return f"sha256:{sha.hexdigest()}"


def make_plan(spec: Spec, tokens: Tokens, planes: dict[str, int], widths: dict[str, int], dtype: str) -> Plan:
    """Pack examples, sorted by length, into partitions of at most `store.partition_bytes`.

    planes, widths: layers and columns of each site. dtype: of the activations. An example that is larger than a
    partition should be gets one of its own.
    """
    item = 4 if dtype == "float32" else 2
    columns = {site: planes[site] * widths[site] for site in widths}
    row_bytes = sum(columns.values()) * item + 8  # 8: token id and position
    pooled_bytes = sum(c * (4 if op == "mean" else item) for op in spec.capture.pool for c in columns.values())
    keeps_rows = bool(spec.capture.kept)

    order = np.lexsort((np.arange(len(tokens.lengths)), tokens.lengths))
    rows = tokens.rows[order]
    limit = spec.store.partition_bytes
    sizes = rows * row_bytes * keeps_rows + pooled_bytes
    most_rows, most_examples = _whole_tiles(limit // row_bytes), _whole_tiles(limit // max(pooled_bytes, 1))
    first = _pack(sizes, rows, most_rows, most_examples, limit)

    counts = np.diff(first)
    rows_in = np.add.reduceat(rows, first[:-1])
    band, pooled_band = int(rows_in.max()), int(counts.max())
    arrays = _arrays(spec, planes, widths, dtype, len(counts), band, pooled_band)

    partition_sorted = np.repeat(np.arange(len(counts)), counts)
    row_offset = np.concatenate([[0], np.cumsum(rows)[:-1]]) - np.repeat(
        np.concatenate([[0], np.cumsum(rows_in)[:-1]]), counts
    )
    example_offset = np.arange(len(order)) - np.repeat(first[:-1], counts)
    return Plan(
        order=order,
        first=first,
        partition=_unsort(partition_sorted, order),
        row_start=_unsort(partition_sorted * padded(max(band, 1)) + row_offset, order),
        pooled_row=_unsort(partition_sorted * padded(pooled_band) + example_offset, order),
        arrays=arrays,
    )


def _pack(sizes: np.ndarray, rows: np.ndarray, most_rows: int, most_examples: int, limit: int) -> np.ndarray:
    """Where partitions begin: as many examples in a row as fit, at least one."""
    first = [0]
    used = filled = 0
    for i, (size, count) in enumerate(zip(sizes.tolist(), rows.tolist(), strict=True)):
        if i > first[-1] and (used + size > limit or filled + count > most_rows or i - first[-1] >= most_examples):
            first.append(i)
            used = filled = 0
        used += size
        filled += count
    return np.array([*first, len(sizes)], dtype=np.int64)


def _whole_tiles(rows: int) -> int:
    """Round a limit down to whole chunks, so that full partitions leave no chunk half empty."""
    return rows // ROW_TILE * ROW_TILE if rows >= ROW_TILE else max(rows, 1)


def _unsort(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    out = np.empty_like(values)
    out[order] = values
    return out


def _arrays(
    spec: Spec, planes: dict[str, int], widths: dict[str, int], dtype: str, partitions: int, band: int, pooled_band: int
) -> tuple[BandedArray, ...]:
    compression = spec.store.compression
    found = []
    if spec.capture.kept:
        for key in (TOKENS, POSITIONS):
            found.append(BandedArray(key, ("row",), "int32", 1, band, partitions, 1))
        for site, width in widths.items():
            dims = ("layer", "row", "neuron")
            found.append(BandedArray(activations_key(site), dims, dtype, planes[site], band, partitions, width, compression))
    for operation in spec.capture.pool:
        kind = "float32" if operation == "mean" else dtype
        for site, width in widths.items():
            dims = ("layer", "example", "neuron")
            key = pooled_key(operation, site)
            found.append(BandedArray(key, dims, kind, planes[site], pooled_band, partitions, width, compression))
    return tuple(found)
