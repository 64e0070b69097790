"""Stored arrays, read lazily: float values for bfloat16, and only the rows that are committed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from xarray.backends import BackendArray
from xarray.core import indexing

from ..errors import StorageError
from .layout import ROW_TILE


def to_float(values: np.ndarray, dtype: str) -> np.ndarray:
    """bfloat16 kept as uint16 becomes float32 (exactly); everything else is returned as it is."""
    if dtype != "bfloat16":
        return values
    return (values.astype(np.uint32) << 16).view(np.float32)


def true_dtype(array: zarr.Array) -> str:
    return str(array.attrs["dtype"])


def _runs(rows: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cover sorted `rows` by spans [start, stop), read across gaps shorter than a row tile."""
    if len(rows):
        breaks = np.flatnonzero(np.diff(rows) > ROW_TILE) + 1
        for part in np.split(rows, breaks):
            yield int(part[0]), int(part[-1]) + 1


def read_rows(array: zarr.Array, planes: Any, rows: np.ndarray, columns: Any = slice(None)) -> np.ndarray:
    """Values [planes, len(rows), columns] of a 3-D array in any order of rows; a 1-D array gives [len(rows)].

    `planes` and `columns` are slices or integer arrays. bfloat16 comes back as float32.
    """
    rows = np.asarray(rows, dtype=np.int64)
    order = np.argsort(rows, kind="stable")
    ordered = rows[order]
    parts = []
    for start, stop in _runs(ordered):
        inside = ordered[np.searchsorted(ordered, start) : np.searchsorted(ordered, stop)] - start
        span = slice(start, stop)
        try:
            block = np.asarray(array[span] if array.ndim == 1 else array.oindex[planes, span, columns])
        except (ValueError, RuntimeError) as error:  # what zarr raises for a bad checksum, a cut shard, a bad codec
            raise StorageError(
                f"The array {array.store_path} is damaged: {error}. `actlake verify RUN --deep --repair` puts it right."
            ) from error
        if array.ndim == 1:
            parts.append(block[inside])
            continue
        parts.append(block if len(inside) == stop - start and inside[0] == 0 else block[:, inside])
    axis = 0 if array.ndim == 1 else 1
    if not parts:
        empty: tuple[Any, ...] = (slice(0, 0),) if array.ndim == 1 else (planes, slice(0, 0), columns)
        return to_float(np.asarray(array.oindex[empty]), true_dtype(array))
    found = np.concatenate(parts, axis=axis) if len(parts) > 1 else parts[0]
    if not np.array_equal(order, np.arange(len(rows))):
        back = np.empty_like(order)
        back[order] = np.arange(len(rows))
        found = np.take(found, back, axis=axis)
    return to_float(found, true_dtype(array))


class CommittedRows(BackendArray):
    """A view of some `rows` of a Zarr array, for xarray: nothing is read before it is indexed and asked for."""

    def __init__(self, array: zarr.Array, rows: np.ndarray) -> None:
        self._array = array
        self._rows = rows
        self.shape = (array.shape[0], len(rows), array.shape[2])
        self.dtype = np.dtype(np.float32) if true_dtype(array) == "bfloat16" else array.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> np.ndarray:
        scalars = tuple(i for i, k in enumerate(key) if np.ndim(k) == 0 and not isinstance(k, slice))
        planes, rows, columns = (np.asarray([k]) if i in scalars else k for i, k in enumerate(key))
        values = read_rows(self._array, planes, self._rows[rows], columns)
        return values.squeeze(axis=scalars) if scalars else values
