"""Shards that we lay out are read by zarr itself: the independent truth."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from actlake.storage.arrays import read_rows
from actlake.storage.layout import BandedArray
from actlake.storage.shards import ShardBuffer, check_shard, create_arrays, open_array

FILL_BITS = {"float32": np.float32(np.nan), "float16": np.float16(np.nan), "bfloat16": np.uint16(0x7FC0)}


def fill(buffer: ShardBuffer, values: np.ndarray) -> None:
    """Put [planes, rows, width] into a buffer, the slow and plain way."""
    a = buffer.array
    for row in range(values.shape[1]):
        for column in range(a.width):
            place = (row // a.row_tile, slice(None), row % a.row_tile, column // a.column_tile, column % a.column_tile)
            buffer.values[place] = values[:, row, column]


def random_values(array: BandedArray, rows: int, seed: int) -> np.ndarray:
    r = np.random.default_rng(seed)
    if array.dtype == "bfloat16":
        return (r.normal(size=(array.planes, rows, array.width)).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return r.normal(size=(array.planes, rows, array.width)).astype(array.stored_dtype)


@settings(max_examples=25, deadline=None)
@given(
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    compression=st.sampled_from(["none", "zstd"]),
    planes=st.integers(1, 3),
    band=st.sampled_from([1, 7, 256, 300]),
    width=st.sampled_from([1, 5, 256, 257]),
    seed=st.integers(0, 1000),
)
def test_zarr_reads_what_was_written(
    tmp_path_factory: pytest.TempPathFactory,
    dtype: str,
    compression: str,
    planes: int,
    band: int,
    width: int,
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("run")
    array = BandedArray("a.zarr/x", ("layer", "row", "neuron"), dtype, planes, band, 2, width, compression)  # type: ignore[arg-type]
    create_arrays(root, [array])
    r = np.random.default_rng(seed)
    buffer = ShardBuffer(array)
    values = {}
    for partition in (1, 0):  # the buffer is used again, with other and fewer rows
        rows = int(r.integers(1, band + 1)) if partition == 0 else band
        values[partition] = random_values(array, rows, seed + partition)
        fill(buffer, values[partition])
        finished = buffer.finish(rows)
        path = root / array.shard_key(partition)
        finished.write(path)
        assert finished.non_finite == 0
        assert check_shard(path, finished.size, finished.crc, deep=True) is None
        if compression == "none":
            assert path.stat().st_size == array.shard_bytes(rows)
    stored = zarr.open_array(str(root / array.key), mode="r")
    for partition, expected in values.items():
        start = partition * array.padded_band
        band_read = np.asarray(stored[:, start : start + array.padded_band])
        np.testing.assert_array_equal(band_read[:, : expected.shape[1]], expected)
        rest = band_read[:, expected.shape[1] :]
        assert np.all(rest == FILL_BITS[dtype]) if dtype == "bfloat16" else np.isnan(rest).all()


def test_same_values_give_the_same_bytes_whatever_the_buffer_held(tmp_path: Path) -> None:
    array = BandedArray("a.zarr/x", ("layer", "row", "neuron"), "float32", 2, 300, 1, 257)
    values = random_values(array, 20, 3)
    used = ShardBuffer(array)
    used.values[...] = 7.0
    used.finish(300)
    for buffer, name in ((used, "used"), (ShardBuffer(array), "fresh")):
        fill(buffer, values)
        buffer.finish(20).write(tmp_path / name)
    assert (tmp_path / "used").read_bytes() == (tmp_path / "fresh").read_bytes()


def test_counts_what_is_not_finite_among_the_rows_only() -> None:
    array = BandedArray("a.zarr/x", ("layer", "row", "neuron"), "float16", 1, 10, 1, 5)
    buffer = ShardBuffer(array)
    buffer.values[...] = np.nan
    fill(buffer, np.zeros((1, 4, 5)))
    buffer.values[0, 0, 1, 0, 2] = np.inf
    buffer.values[0, 0, 3, 0, 4] = np.nan
    assert buffer.finish(4).non_finite == 2


def test_zarr_notices_a_flipped_byte(tmp_path: Path) -> None:
    array = BandedArray("a.zarr/x", ("layer", "row", "neuron"), "float32", 1, 10, 1, 5)
    create_arrays(tmp_path, [array])
    buffer = ShardBuffer(array)
    fill(buffer, random_values(array, 10, 0))
    path = tmp_path / array.shard_key(0)
    finished = buffer.finish(10)
    finished.write(path)
    data = bytearray(path.read_bytes())
    data[17] ^= 4
    path.write_bytes(data)
    assert "checksum" in (check_shard(path, finished.size, finished.crc, deep=True) or "")
    with pytest.raises(ValueError, match="checksum"):
        zarr.open_array(str(tmp_path / array.key), mode="r")[:]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.lists(st.integers(0, 599), max_size=30),
    columns=st.sampled_from([slice(None), slice(3, 9), np.array([8, 1])]),
)
def test_rows_are_read_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[int], columns: slice | np.ndarray
) -> None:
    root = tmp_path_factory.mktemp("run")
    array = BandedArray("a.zarr/x", ("layer", "row", "neuron"), "bfloat16", 2, 300, 2, 10)
    create_arrays(root, [array])
    whole = zarr.open_array(str(root / array.key), mode="r+")
    bits = np.random.default_rng(0).integers(0, 0x7F80, whole.shape, dtype=np.uint16)
    whole[:] = bits
    expected = (bits.astype(np.uint32) << 16).view(np.float32)[:, rows][:, :, columns]
    found = read_rows(open_array(root, array.key), slice(None), np.array(rows, dtype=int), columns)
    np.testing.assert_array_equal(found, expected)
