"""Does memory grow with the number of texts? Peak resident memory of `actlake run` on 1x and 10x as many texts.

    python benchmarks/memory.py [TEXTS]

Each size runs in a process of its own: all tokens of mlp_act and attn_out of all layers, 256 MiB partitions. The bound is
model + 2 partitions + 700 MB.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

from actlake.pipeline.estimate import gib
from actlake.storage.run import open_run
from common import spec_dict, texts_file

PARTITION = 256 * 2**20
LIBRARIES = 700 * 10**6


def peak_of_run(folder: Path, texts: int, repeat: int) -> tuple[int, dict[str, object]]:
    spec = spec_dict(texts_file(texts, folder, repeat), folder / f"run{repeat}")
    spec["store"]["partition_bytes"] = PARTITION
    path = folder / f"spec{repeat}.yaml"
    path.write_text(yaml.safe_dump(spec))
    process = subprocess.Popen([sys.executable, "-m", "actlake.cli", "run", str(path)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, f"actlake run ended with {status}"
    return usage.ru_maxrss * 1024, open_run(folder / f"run{repeat}").identity


def main(texts: int = 32) -> None:
    with tempfile.TemporaryDirectory(dir=".") as name:
        for repeat in (1, 10):
            peak, identity = peak_of_run(Path(name), texts, repeat)
            plan = identity["plan"]
            bound = identity["model"]["parameters"] * 4 + 2 * PARTITION + LIBRARIES  # type: ignore[index,operator]
            found = {"texts": texts * repeat, "tokens": plan["tokens"], "partitions": plan["partitions"]}  # type: ignore[index]
            print(json.dumps(found), f"peak {gib(peak)}, bound {gib(bound)}, ratio {peak / bound:.3f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
