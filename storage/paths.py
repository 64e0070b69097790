"""The one place that knows where things are in a run."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunPaths:
    """Every path of a run."""

    root: Path

    @property
    def spec(self) -> Path:
        return self.root / "spec.yaml"

    @property
    def identity(self) -> Path:
        return self.root / "identity.json"

    @property
    def examples(self) -> Path:
        return self.root / "examples.parquet"

    @property
    def lock(self) -> Path:
        return self.root / "lock"

    @property
    def tables(self) -> Path:
        return self.root / "tables"

    def table(self, name: str) -> Path:
        return self.tables / f"{name}.parquet"

    @property
    def ledgers(self) -> Path:
        return self.root / "ledger"

    def ledger(self, name: str) -> Path:
        return self.ledgers / name


# Keys of arrays
ACTIVATIONS = "activations.zarr"
POOLED = "pooled.zarr"
TOKENS = f"{ACTIVATIONS}/tokens"
POSITIONS = f"{ACTIVATIONS}/positions"


def activations_key(site: str) -> str:
    return f"{ACTIVATIONS}/{site}"


def pooled_key(operation: str, site: str) -> str:
    return f"{POOLED}/{operation}/{site}"
