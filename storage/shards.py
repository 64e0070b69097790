"""Zarr v3 shards, filled in place and written with one call.

The crash protocol of a partition:

    values copied into the shard buffers -> every shard written -> file and directory fsynced
    -> ledger record written under a temporary name, fsynced, renamed -> directory fsynced

Nothing is done until the ledger says so: a shard on disk proves nothing, whole or not. What is there without a
record is overwritten when its partition is done again.

zarr's own sharding codec copies each value several times. Here a buffer already has the layout of the finished file:

    [row tile 0: chunk, crc32c, chunk, crc32c ...] [row tile 1 ...] ... [index: offset and size of each chunk] [crc32c]

so a value is copied once, from the model's output to its final place. Row tiles that hold no row are left out.
Format: https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/index.html
"""

import mmap
from collections.abc import Iterator
from math import ceil
from pathlib import Path

from crc32c import crc32c
import numpy as np
import zarr
from numcodecs import zstd
from zarr.codecs import Crc32cCodec, ZstdCodec

from ..errors import StorageError
from .files import Buffer, make_directory, write_in_place
from .layout import BandedArray

ZSTD_LEVEL = 1
_MISSING = np.uint64(2**64 - 1)
_FLOAT_BITS = {  # dtype -> (unsigned integer of its size, mask of all but the sign, bits of infinity)
    "float32": (np.uint32, 0x7FFFFFFF, 0x7F800000),
    "float16": (np.uint16, 0x7FFF, 0x7C00),
    "bfloat16": (np.uint16, 0x7FFF, 0x7F80),
}


def create_arrays(root: Path, arrays: list[BandedArray]) -> None:
    """Write the metadata of all arrays and their groups. One process does this, once, before anything is filled."""
    for array in arrays:
        group = root
        for part in Path(array.key).parent.parts:
            group = group / part
            make_directory(group)
            zarr.open_group(str(group), mode="a", zarr_format=3)
        compressors: list = [ZstdCodec(level=ZSTD_LEVEL)] if array.compression == "zstd" else []
        zarr.create_array(
            str(root / array.key),
            shape=array.shape,
            dtype=array.stored_dtype,
            shards=array.shard_shape,
            chunks=array.chunk_shape,
            compressors=[*compressors, Crc32cCodec()],  # without it a flipped bit goes unnoticed
            fill_value=array.fill,
            dimension_names=array.dims,
            attributes={"dtype": array.dtype, "band": array.padded_band},
            overwrite=True,
        )


class ShardBuffer:
    """The memory of one shard, reused for partition after partition.

    `values` is a view on it of shape [row_tiles, planes, row_tile, column_tiles, column_tile] in the stored dtype:
    whoever fills it writes straight into the future file.
    """

    def __init__(self, array: BandedArray) -> None:
        self.array = array
        item = array.stored_dtype.itemsize
        elements = array.row_tile * array.column_tile
        self._chunk_bytes = elements * item
        self._slot = self._chunk_bytes + 4  # a chunk and its checksum
        self._tiles = array.planes * array.column_tiles  # chunks in a row tile
        size = array.row_tiles * self._tiles * self._slot
        self._bytes = mmap.mmap(-1, size)  # page-aligned, and given back when dropped
        slot = self._slot
        self.values = np.ndarray(
            (array.row_tiles, array.planes, array.row_tile, array.column_tiles, array.column_tile),
            dtype=array.stored_dtype,
            buffer=self._bytes,
            strides=(self._tiles * slot, array.column_tiles * slot, array.column_tile * item, slot, item),
        )

    def put(self, row: int, values: np.ndarray) -> None:
        """Copy `values` [rows, width] (or [rows]) of plane 0 to `row` onwards; for what is small."""
        tile = self.array.row_tile
        for source, (t, start, stop) in row_pieces(row, len(values), tile):
            self.values[t, 0, start:stop, 0, 0] = values[source]

    def finish(self, rows: int) -> tuple[list[Buffer], int]:
        """Close the shard over its first `rows` rows: the buffers of the file in order, and the non-finite values."""
        array = self.array
        used = ceil(rows / array.row_tile)
        if used and (tail := rows - (used - 1) * array.row_tile) < array.row_tile:
            self.values[used - 1, :, tail:] = array.fill
        view = memoryview(self._bytes)
        non_finite = 0
        encoded: list[Buffer] = []
        sizes = np.empty(used * self._tiles, dtype=np.uint64)
        for i in range(used * self._tiles):
            chunk = view[i * self._slot : i * self._slot + self._chunk_bytes]
            valid = min(array.row_tile, rows - i // self._tiles * array.row_tile)
            non_finite += count_non_finite(chunk[: self._chunk_bytes // array.row_tile * valid], array.dtype)
            if array.compression == "zstd":
                packed = zstd.compress(chunk, ZSTD_LEVEL)
                encoded += [packed, crc32c(packed).to_bytes(4, "little")]
                sizes[i] = len(packed) + 4
            else:
                end = i * self._slot + self._chunk_bytes
                view[end : end + 4] = crc32c(chunk).to_bytes(4, "little")
                sizes[i] = self._slot
        if array.compression == "none":
            encoded = [view[: used * self._tiles * self._slot]]
        return [*encoded, self._index(sizes)], non_finite

    def _index(self, sizes: np.ndarray) -> bytes:
        """The shard's index [row_tile x plane x column_tile] -> (offset, size), in zarr's order: plane first."""
        array = self.array
        index = np.full((array.row_tiles * self._tiles, 2), _MISSING)
        index[: len(sizes), 0] = np.concatenate([[0], np.cumsum(sizes)[:-1]]) if len(sizes) else 0
        index[: len(sizes), 1] = sizes
        ordered = index.reshape(array.row_tiles, array.planes, array.column_tiles, 2).transpose(1, 0, 2, 3)
        data = np.ascontiguousarray(ordered).astype("<u8").tobytes()
        return data + crc32c(data).to_bytes(4, "little")


def row_pieces(row: int, count: int, tile: int) -> Iterator[tuple[slice, tuple[int, int, int]]]:
    """Cut `count` rows that begin at `row` where row tiles end: (slice of the rows, (tile, start, stop))."""
    done = 0
    while done < count:
        t, start = divmod(row + done, tile)
        stop = min(tile, start + count - done)
        yield slice(done, done + stop - start), (t, start, stop)
        done += stop - start


def count_non_finite(data: memoryview, dtype: str) -> int:
    """NaN and infinite values among the little-endian floats of `dtype` in `data`; integers have none."""
    if dtype not in _FLOAT_BITS or not len(data):
        return 0
    unsigned, mask, infinity = _FLOAT_BITS[dtype]
    magnitude = np.frombuffer(data, dtype=unsigned) & unsigned(mask)
    return int(np.count_nonzero(magnitude >= infinity)) if magnitude.max() >= infinity else 0


def write_shard(path: Path, buffers: list[Buffer]) -> tuple[int, int]:
    """Write a finished shard durably. Returns its size in bytes and the crc32c of the whole file."""
    crc, size = 0, 0
    for buffer in buffers:
        crc = crc32c(buffer, crc)
        size += len(buffer)
    write_in_place(path, buffers)
    return size, crc


def check_shard(path: Path, size: int, crc: int, *, deep: bool) -> str | None:
    """What is wrong with the shard at `path`, in words, or None. `deep` reads all of it."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return "is missing"
    if found != size:
        return f"has {found} bytes where the ledger says {size}"
    if deep:
        actual = 0
        with path.open("rb") as handle:
            while block := handle.read(1 << 24):
                actual = crc32c(block, actual)
        if actual != crc:
            return f"has checksum {actual:08x} where the ledger says {crc:08x}"
    return None


def open_array(root: Path, key: str) -> zarr.Array:
    """The Zarr array at `key`, for reading."""
    try:
        return zarr.open_array(str(root / key), mode="r")
    except (FileNotFoundError, zarr.errors.ArrayNotFoundError) as error:
        raise StorageError(
            f"There is no array {key} in {root}. `actlake status {root}` lists what is there."
        ) from error
