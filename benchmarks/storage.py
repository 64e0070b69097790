"""What do checksums, tiles and the ledger cost? Committing partitions against writing the same bytes to plain files.

    python benchmarks/storage.py [RUNS]

plain    as many random bytes: write, fsync the file
commit   `PartitionBuffers.commit`: checksums of all chunks and of the file, write, fsync of file and folder, ledger
"""

import shutil
import sys
import tempfile
from itertools import count
from pathlib import Path

import numpy as np

from actlake.pipeline.buffers import PartitionBuffers
from actlake.storage.layout import BandedArray
from actlake.storage.ledger import Ledger
from common import interleaved, report

PARTITIONS = 4


def main(runs: int = 5) -> None:
    array = BandedArray("activations.zarr/mlp_act", ("layer", "row", "neuron"), "float32", 30, 1024, PARTITIONS, 1536)
    buffers = PartitionBuffers((array,))
    shard = buffers._shards[array.key]
    shard.values[...] = np.random.default_rng(0).normal(size=shard.values.shape)
    data = memoryview(np.random.default_rng(0).bytes(array.shard_bytes(array.band)))
    names = count()
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)

        def plain() -> None:
            import os

            for _ in range(PARTITIONS):
                fd = os.open(folder / f"plain{next(names)}", os.O_WRONLY | os.O_CREAT)
                rest = data
                while rest:
                    rest = rest[os.write(fd, rest) :]
                os.fsync(fd)
                os.close(fd)

        def commit() -> None:
            root = folder / f"run{next(names)}"
            for partition in range(PARTITIONS):
                buffers.start(partition)
                buffers._filled.rows = array.band
                buffers.commit(root, Ledger(root / "ledger"))

        def clear() -> None:
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()

        seconds = interleaved(runs, clear, plain=plain, commit=commit)
    print(f"{PARTITIONS} x {len(data) / 2**20:.0f} MiB")
    report(seconds, "plain")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
