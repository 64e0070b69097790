"""A run on disk, for reading: examples, lazy arrays, tables, SQL."""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xarray as xr
import yaml
import zarr
from xarray.core import indexing

from ..errors import RunError, StorageError
from .arrays import CommittedRows, read_rows, true_dtype
from .layout import BandedArray
from .ledger import EXTRACT, Ledger, Record
from .paths import POSITIONS, TOKENS, RunPaths, activations_key, pooled_key
from .shards import open_array
from .tables import query, read_table, table_names


def open_run(path: str | Path) -> "Run":
    """Open the run at `path`. Raises RunError when there is none."""
    return Run(Path(path))


def read_identity(paths: RunPaths) -> dict[str, Any]:
    """The run's identity.json. Raises RunError where there is none and StorageError where it is damaged."""
    try:
        identity = json.loads(paths.identity.read_text())
    except FileNotFoundError:
        what = "is not a run: it has no identity.json. Give the folder that `actlake run` printed."
        raise RunError(f"{paths.root} {what}") from None
    except ValueError:
        identity = None
    if not isinstance(identity, dict) or not {"claims", "plan", "files", "parity", "versions"} <= identity.keys():
        raise StorageError(f"{paths.identity} is damaged: restore it from a copy, or remove the folder to begin again.")
    return identity


class Run:
    """What a run holds. Arrays show committed rows only; a run that grows is seen as it was when opened."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.paths = RunPaths(path)
        self.identity = read_identity(self.paths)

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {len(self.records)} of {self.partitions} partitions, sites {', '.join(self.sites)})"

    @cached_property
    def spec(self) -> dict[str, Any]:
        """The spec as it was when the run began."""
        return yaml.safe_load(self.paths.spec.read_text(encoding="utf-8"))

    @cached_property
    def examples(self) -> pa.Table:
        """One row per example in the order of the input: id, text, labels, landmarks, n_tokens, partition, row_start ..."""
        return read_table(self.paths.examples)

    @cached_property
    def records(self) -> dict[int, Record]:
        """The ledger: committed partitions."""
        return Ledger(self.paths.ledger(EXTRACT)).records()

    @property
    def plan(self) -> dict[str, Any]:
        return self.identity["plan"]

    @property
    def partitions(self) -> int:
        return self.plan["partitions"]

    @property
    def complete(self) -> bool:
        return len(self.records) == self.partitions

    @property
    def sites(self) -> list[str]:
        return list(self.plan["widths"])

    @property
    def dtype(self) -> str:
        """The dtype of computing and storing."""
        return self.plan["dtype"]

    def layers(self, site: str) -> list[int]:
        """Block numbers of the site's planes."""
        return self.plan["layers"][: self.plan["planes"][site]]

    @cached_property
    def committed(self) -> np.ndarray:
        """Indices of the committed examples, in the order of the input."""
        return np.flatnonzero(np.isin(self._column("partition"), list(self.records)))

    def activations(self, site: str) -> xr.DataArray:
        """Stored values of `site`, lazy, dims (layer, row, neuron), in the order in which rows are stored.

        Coordinates of a row: example (its id), token (position in the text), token_id. bfloat16 is given as float32.
        Raises StorageError when the run kept no tokens of this site.
        """
        self._check_site(site)
        if activations_key(site) not in self.plan["arrays"]:
            raise StorageError(f"The run kept no tokens of {site}: capture.tokens was none. Use pooled({site!r}, ...).")
        starts, counts = self._column("row_start")[self.committed], self._column("n_rows")[self.committed]
        stored = np.argsort(starts)
        starts, counts = starts[stored], counts[stored]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = np.repeat(starts, counts) + within
        ids = np.asarray(self.examples["id"], dtype=object)[self.committed[stored]]
        return self._array(
            activations_key(site),
            site,
            "row",
            rows,
            {
                "example": ("row", np.repeat(ids, counts)),
                "token": ("row", read_rows(self._zarr(POSITIONS), None, rows)),
                "token_id": ("row", read_rows(self._zarr(TOKENS), None, rows)),
            },
        )

    def pooled(self, site: str, operation: str = "max") -> xr.DataArray:
        """Pooled values of `site`, lazy, dims (layer, example, neuron), examples in the order of the input.

        Raises StorageError when the run has no such pool.
        """
        self._check_site(site)
        key = pooled_key(operation, site)
        if not (self.path / key).exists():
            hint = f" `actlake job max {self.path}` makes it if all tokens were kept." if operation == "max" else ""
            raise StorageError(f"The run has no pooled {operation} of {site}: it was not among capture.pool.{hint}")
        ids = np.asarray(self.examples["id"], dtype=object)[self.committed]
        if key not in self.plan["arrays"]:
            made = Ledger(self.paths.ledger(f"{operation}-{site}")).records()
            current = [p for p, r in self.records.items() if p in made and made[p].source == r.finished]
            if len(current) < len(self.records):
                raise StorageError(
                    f"The pooled {operation} of {site} is there for {len(current)} of {len(self.records)} partitions. "
                    f"`actlake job {operation} {self.path}` completes it."
                )
        return self._array(key, site, "example", self._column("pooled_row")[self.committed], {"example": ids})

    def table(self, name: str) -> pa.Table:
        """A job's result, such as `rank`. Raises RunError when there is none of that name."""
        if name not in table_names(self.paths):
            there = ", ".join(table_names(self.paths)) or "none yet"
            raise RunError(f"The run has no table {name!r} (it has: {there}). `actlake job {name} {self.path}` makes it.")
        return read_table(self.paths.table(name))

    def sql(self, text: str) -> pa.Table:
        """Run SQL (DuckDB) over `examples` and the tables."""
        return query(self.paths, text)

    def array_layout(self, key: str) -> BandedArray:
        """How an array of the extraction is cut."""
        fields = dict(self.plan["arrays"][key])
        return BandedArray(**(fields | {"dims": tuple(fields["dims"])}))

    def _array(self, key: str, site: str, dim: str, rows: np.ndarray, coords: dict[str, Any]) -> xr.DataArray:
        array = self._zarr(key)
        lazy = indexing.LazilyIndexedArray(CommittedRows(array, rows))
        return xr.DataArray(
            xr.Variable(("layer", dim, "neuron"), lazy),
            coords={"layer": self.layers(site), **coords},
            name=site,
            attrs={"site": site, "dtype": true_dtype(array), "run": str(self.path)},
        )

    def _zarr(self, key: str) -> zarr.Array:
        return open_array(self.path, key)

    def _column(self, name: str) -> np.ndarray:
        return self.examples[name].to_numpy()

    def _check_site(self, site: str) -> None:
        if site not in self.sites:
            raise StorageError(f"The run has no site {site!r}; it has {', '.join(self.sites)}.")
