"""What a run will cost, before it runs: rows, bytes, arithmetic, memory, time, and what is there already."""

import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

from ..storage.ledger import EXTRACT, Ledger
from ..storage.paths import RunPaths
from .extract import check_identity, stored_bytes
from .prepare import Prepared, make_request, prepare
from .spec import Spec, load_spec

_LIBRARIES_BYTES = 700 * 2**20  # the interpreter, torch and its scratch memory
_EFFICIENCY = 0.75  # of a bare matrix product's rate that a forward pass reaches; seen on CPU
_LARGE_BYTES = 50 * 2**30  # storing every token beyond this deserves a word


@dataclass(frozen=True)
class Estimate:
    """Figures of a plan. *_bytes are bytes, seconds are seconds, flops are floating-point operations.

    bytes_per_site: by array, when complete. partitions_done: what a run at store.path already has. warnings: sentences.
    """

    examples: int
    tokens: int
    padded_tokens: int
    padding_waste: float
    rows: int
    partitions: int
    partitions_done: int
    longest_text: int
    dtype: str
    device: str
    layers: int
    parameters: int
    flops: float
    flops_training: float
    bytes_total: int
    bytes_per_site: dict[str, int]
    bytes_left: int
    free_disk_bytes: int
    peak_memory_bytes: int
    available_memory_bytes: int
    seconds: float
    warnings: list[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def plan_spec(spec: Spec | str | Path | dict[str, Any], overrides: list[str] | None = None) -> Estimate:
    """Plan a run; loads config and tokenizer, not the weights. Raises SpecError, DataError, ModelError, RunError."""
    from .model import choose_device

    spec = spec if isinstance(spec, Spec) else load_spec(spec, overrides)
    request = make_request(spec)
    paths = RunPaths(Path(spec.store.path))
    check_identity(paths, request)
    device = choose_device(spec.model.device)
    return _estimate(prepare(request), device.type, paths)


def _estimate(prepared: Prepared, device: str, paths: RunPaths) -> Estimate:
    from .batches import batch_size, padded_tokens

    plan, tokens, spec = prepared.plan, prepared.tokens, prepared.request.spec
    lengths = tokens.lengths
    total = int(lengths.sum())
    most = batch_size(spec.capture, device)
    padded = sum(padded_tokens(lengths[plan.members(p)], most) for p in range(plan.partitions))
    done = Ledger(paths.ledger(EXTRACT)).records()
    bytes_total, by_array = stored_bytes(prepared)
    left = bytes_total - stored_bytes(prepared, list(done))[0]  # what is stored may be compressed
    item = 4 if prepared.dtype == "float32" else 2
    buffers = min(2, plan.partitions) * sum(a.shard_bytes(a.band) for a in plan.arrays)
    memory = prepared.parameters * item + buffers + _LIBRARIES_BYTES
    share_left = 1 - sum(r.tokens for r in done.values()) / total
    rate = _matmul_rate(prepared.dtype, device) if share_left else 1.0
    seconds = 2 * prepared.parameters_run * padded * share_left / (rate * _EFFICIENCY)
    free = shutil.disk_usage(_existing(paths.root)).free
    available = psutil.virtual_memory().available
    return Estimate(
        examples=len(prepared.request.examples),
        tokens=total,
        padded_tokens=padded,
        padding_waste=round(1 - total / padded, 4),
        rows=int(tokens.rows.sum()),
        partitions=plan.partitions,
        partitions_done=len(done),
        longest_text=int(lengths.max()),
        dtype=prepared.dtype,
        device=device,
        layers=len(prepared.layers),
        parameters=prepared.parameters,
        flops=2.0 * prepared.parameters * total,
        flops_training=6.0 * prepared.parameters * total,
        bytes_total=bytes_total,
        bytes_per_site=by_array,
        bytes_left=left,
        free_disk_bytes=free,
        peak_memory_bytes=memory,
        available_memory_bytes=available,
        seconds=round(seconds, 1),
        warnings=_warnings(left, free, memory, available, bytes_total, bool(spec.capture.kept)),
    )


def _warnings(left: int, free: int, memory: int, available: int, total: int, keeps_tokens: bool) -> list[str]:
    found = []
    if left > free:
        found.append(
            f"The run will not fit: it needs {gib(left)} more and {gib(free)} are free. Keep fewer sites or layers, keep "
            "only the pool (tokens: none, pool: [max]), or choose another store.path."
        )
    if memory > available:
        found.append(
            f"It may run out of memory: about {gib(memory)} are needed and {gib(available)} are available. "
            "Lower store.partition_bytes, or use bfloat16."
        )
    if keeps_tokens and total > _LARGE_BYTES:
        found.append(f"Every token of every site is {gib(total)}; with tokens: none and pool: [max] it is far less.")
    return found


def gib(n: float) -> str:
    """Bytes for people."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(n) >= size:
            return f"{n / size:.1f} {unit}"
    return f"{n:.0f} B"


def _existing(path: Path) -> Path:
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _matmul_rate(dtype: str, device: str) -> float:
    """Floating-point operations per second of a matrix product here, measured in a fraction of a second."""
    import torch

    a = torch.randn(512, 1024, device=device).to(getattr(torch, dtype))
    b = torch.randn(1024, 1024, device=device).to(getattr(torch, dtype))
    best = 0.0
    until = time.perf_counter() + 0.3
    while time.perf_counter() < until:
        began = time.perf_counter()
        torch.mm(a, b)
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * 512 * 1024 * 1024 / (time.perf_counter() - began))
    return best
