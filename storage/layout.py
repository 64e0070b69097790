"""How one array is cut into shards and inner chunks.

An array is a stack of bands, one per partition. A band holds `band` rows of which a partition fills the first few; the
rest is NaN (or -1). One partition of one array is one Zarr shard, which is one object that nobody else writes:

    array  [plane, partition x band, column]      plane: the layer
    shard  [all planes, band, all columns]
    chunk  [1, row_tile, column_tile]             inner chunks, each with its crc32c

Tiling rows and columns keeps both questions cheap: one text reads a few row tiles, one neuron reads one column tile.
"""

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np

ROW_TILE = 256
COLUMN_TILE = 256
Compression = Literal["none", "zstd"]

# zarr has no bfloat16: its 16 bits are kept as uint16, and the true dtype stands in the array's attributes.
STORED_AS = {"bfloat16": "uint16", "float16": "float16", "float32": "float32", "int32": "int32"}
FILL = {"bfloat16": 0x7FC0, "float16": float("nan"), "float32": float("nan"), "int32": -1}


def padded(band: int) -> int:
    """Rows between the first rows of two partitions: `band`, rounded up to whole chunks."""
    tile = min(ROW_TILE, band)
    return ceil(band / tile) * tile


@dataclass(frozen=True)
class BandedArray:
    """One array of a run.

    key: where it lies below the run, such as `activations.zarr/mlp_act`.
    dims: names of its dimensions: ("layer", "row", "neuron") or ("row",).
    dtype: the true dtype; bfloat16 is stored as uint16.
    planes, band, partitions, width: see above; 1-D arrays have planes = width = 1.
    """

    key: str
    dims: tuple[str, ...]
    dtype: str
    planes: int
    band: int
    partitions: int
    width: int
    compression: Compression = "none"

    @property
    def row_tile(self) -> int:
        return min(ROW_TILE, self.band)

    @property
    def row_tiles(self) -> int:
        return ceil(self.band / self.row_tile)

    @property
    def column_tiles(self) -> int:
        return ceil(self.width / COLUMN_TILE)

    @property
    def column_tile(self) -> int:
        return ceil(self.width / self.column_tiles)

    @property
    def padded_band(self) -> int:
        return padded(self.band)

    @property
    def stored_dtype(self) -> np.dtype:
        return np.dtype(STORED_AS[self.dtype]).newbyteorder("<")

    @property
    def fill(self) -> float:
        return FILL[self.dtype]

    @property
    def shape(self) -> tuple[int, ...]:
        rows = self.partitions * self.padded_band
        return (rows,) if len(self.dims) == 1 else (self.planes, rows, self.width)

    @property
    def shard_shape(self) -> tuple[int, ...]:
        if len(self.dims) == 1:
            return (self.padded_band,)
        return (self.planes, self.padded_band, self.column_tiles * self.column_tile)

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        return (self.row_tile,) if len(self.dims) == 1 else (1, self.row_tile, self.column_tile)

    def shard_key(self, partition: int) -> str:
        return f"{self.key}/c/{partition}" if len(self.dims) == 1 else f"{self.key}/c/0/{partition}/0"

    def shard_bytes(self, rows: int) -> int:
        """Bytes of a shard with `rows` rows filled, uncompressed: whole row tiles, checksums and index."""
        tiles = self.planes * self.column_tiles
        chunk = self.row_tile * self.column_tile * self.stored_dtype.itemsize + 4
        return ceil(rows / self.row_tile) * tiles * chunk + self.row_tiles * tiles * 16 + 4
