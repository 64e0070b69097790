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

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path

import numpy as np
import zarr
from crc32c import crc32c
from numcodecs import zstd
from zarr.codecs import Crc32cCodec, ZstdCodec

from ..errors import StorageError
from .checksums import joiner
from .files import PAGE, Buffer, aligned_buffer, make_directory, write_in_place
from .layout import BandedArray

ZSTD_LEVEL = 1
_CRC = 4  # bytes of a checksum
_INDEX_ENTRY = 16  # bytes of a chunk's offset and size
_MISSING = np.uint64(2**64 - 1)
_INFINITY: dict[str, np.unsignedinteger] = {  # dtype -> the bits of infinity; those of every NaN of the same sign are above
    "float32": np.uint32(0x7F800000),
    "float16": np.uint16(0x7C00),
    "bfloat16": np.uint16(0x7F80),
}


def create_arrays(root: Path, arrays: list[BandedArray]) -> None:
    """Write the metadata of all arrays and their groups; shards that are there stay.

    One process does this, before anything is filled, so that nobody else ever writes metadata.
    """
    for array in arrays:
        group = root
        for part in Path(array.key).parent.parts:
            group = group / part
            make_directory(group)
            zarr.open_group(str(group), mode="a", zarr_format=3)
        (root / array.key / "zarr.json").unlink(missing_ok=True)
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
        )


class ShardBuffer:
    """The memory of one shard, reused for partition after partition.

    `values` is a view on it of shape [row_tiles, planes, row_tile, column_tiles, column_tile] in the stored dtype:
    whoever fills it writes straight into the future file.
    """

    def __init__(self, array: BandedArray) -> None:
        self.array = array
        item = array.stored_dtype.itemsize
        self._chunk_bytes = array.row_tile * array.column_tile * item
        self._slot = slot = self._chunk_bytes + _CRC  # a chunk and its checksum
        self._tiles = array.planes * array.column_tiles  # chunks in a row tile
        chunks = array.row_tiles * self._tiles
        self._buffer = aligned_buffer(chunks * (slot + _INDEX_ENTRY) + _CRC)
        self.values = np.ndarray(
            (array.row_tiles, array.planes, array.row_tile, array.column_tiles, array.column_tile),
            dtype=array.stored_dtype,
            buffer=self._buffer,
            strides=(self._tiles * slot, array.column_tiles * slot, array.column_tile * item, slot, item),
        )
        np.frombuffer(self._buffer, np.uint8)[::PAGE] = 0  # have the memory now, not while the model waits

    def put(self, row: int, values: np.ndarray) -> None:
        """Copy `values` [rows] to `row` onwards of a 1-D array."""
        for source, (t, start, stop) in row_pieces(row, len(values), self.array.row_tile):
            self.values[t, 0, start:stop, 0, 0] = values[source]

    def finish(self, rows: int) -> "FinishedShard":
        """Close the shard over its first `rows` rows. What is returned shares this buffer's memory."""
        self._fill_padding(rows)
        if self.array.compression == "zstd":
            return self._compressed(rows)
        view = memoryview(self._buffer)
        count = self._chunks(rows)
        non_finite = crc = 0
        join = joiner(self._chunk_bytes)
        for start in range(0, count * self._slot, self._slot):
            end = start + self._chunk_bytes
            chunk = view[start:end]
            non_finite += self._non_finite(chunk, start // self._slot, rows)
            own = crc32c(chunk)
            view[end : end + _CRC] = stored = own.to_bytes(_CRC, "little")
            crc = crc32c(stored, join(crc, own))
        index = self._index(np.full(count, self._slot))
        end = count * self._slot
        view[end : end + len(index)] = index
        return FinishedShard(self._buffer, end + len(index), crc32c(index, crc), non_finite)

    def _compressed(self, rows: int) -> "FinishedShard":
        view = memoryview(self._buffer)
        encoded: list[bytes] = []
        non_finite = 0
        for i in range(self._chunks(rows)):
            chunk = view[i * self._slot : i * self._slot + self._chunk_bytes]
            non_finite += self._non_finite(chunk, i, rows)
            packed = zstd.compress(chunk, ZSTD_LEVEL)
            encoded.append(packed + crc32c(packed).to_bytes(_CRC, "little"))
        data = b"".join([*encoded, self._index(np.array([len(e) for e in encoded]))])
        return FinishedShard(data, len(data), crc32c(data), non_finite)

    def _chunks(self, rows: int) -> int:
        """Chunks in the row tiles that hold a row."""
        return ceil(rows / self.array.row_tile) * self._tiles

    def _fill_padding(self, rows: int) -> None:
        """Make the rows and columns of used chunks that hold nothing say so, whatever was there before."""
        array = self.array
        used = ceil(rows / array.row_tile)
        if used:
            self.values[used - 1, :, rows - (used - 1) * array.row_tile :] = array.fill
        if pad := array.column_tiles * array.column_tile - array.width:
            self.values[:used, :, :, -1, -pad:] = array.fill

    def _non_finite(self, chunk: memoryview, i: int, rows: int) -> int:
        array = self.array
        tile, column = i // self._tiles, i % array.column_tiles
        valid_rows = min(array.row_tile, rows - tile * array.row_tile)
        valid_columns = min(array.column_tile, array.width - column * array.column_tile)
        return count_non_finite(chunk, array.dtype, array.column_tile, valid_rows, valid_columns)

    def _index(self, sizes: np.ndarray) -> bytes:
        """The shard's index [plane, row_tile, column_tile] -> (offset, bytes), for chunks written row tile first."""
        array = self.array
        index = np.full((array.row_tiles * self._tiles, 2), _MISSING)
        index[: len(sizes), 0] = np.cumsum(sizes) - sizes
        index[: len(sizes), 1] = sizes
        ordered = index.reshape(array.row_tiles, array.planes, array.column_tiles, 2).transpose(1, 0, 2, 3)
        data = np.ascontiguousarray(ordered).astype("<u8").tobytes()
        return data + crc32c(data).to_bytes(_CRC, "little")


def row_pieces(row: int, count: int, tile: int) -> Iterator[tuple[slice, tuple[int, int, int]]]:
    """Cut `count` rows that begin at `row` where row tiles end: (slice of the rows, (tile, start, stop))."""
    done = 0
    while done < count:
        t, start = divmod(row + done, tile)
        stop = min(tile, start + count - done)
        yield slice(done, done + stop - start), (t, start, stop)
        done += stop - start


def count_non_finite(chunk: memoryview, dtype: str, columns: int, valid_rows: int, valid_columns: int) -> int:
    """NaN and infinite values among the first rows and columns of a chunk of floats; integers have none."""
    if dtype not in _INFINITY:
        return 0
    infinity = _INFINITY[dtype]
    sign = ~(~infinity.dtype.type(0) >> 1)
    bits = np.frombuffer(chunk, dtype=infinity.dtype).reshape(-1, columns)[:valid_rows, :valid_columns]
    # Read as signed numbers, the largest is the largest positive float; unsigned, it is the largest negative one.
    if bits.view(f"i{bits.itemsize}").max() < infinity and bits.max() < sign | infinity:
        return 0
    return int(np.count_nonzero(bits & ~sign >= infinity))


@dataclass(frozen=True)
class FinishedShard:
    """A shard ready to be written: the first `size` bytes of `buffer`, their crc32c, and its non-finite values."""

    buffer: Buffer
    size: int
    crc: int
    non_finite: int

    def write(self, path: Path) -> None:
        """Put the shard at `path`, durably."""
        write_in_place(path, self.buffer, self.size)


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
        raise StorageError(f"There is no array {key} in {root}. `actlake status {root}` lists what is there.") from error
