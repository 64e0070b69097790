"""Extraction: the partitions that the ledger does not list are computed, written and committed."""

import contextlib
import ctypes
import gc
import json
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import yaml

from ..errors import Interrupted, RunError
from ..storage.files import digest_file, make_directory, replace
from ..storage.ledger import EXTRACT, Ledger, Record, now
from ..storage.lock import locked
from ..storage.paths import RunPaths
from ..storage.run import read_identity
from ..storage.shards import create_arrays
from ..storage.tables import write_table
from .plan import Plan
from .prepare import Prepared, Request, examples_table, prepare, versions
from .spec import Spec

if TYPE_CHECKING:
    import torch

    from .buffers import PartitionBuffers
    from .sites import Point

_OURS = {
    "lock",
    "spec.yaml",
    "identity.json",
    "examples.parquet",
    "activations.zarr",
    "pooled.zarr",
    "ledger",
    "tables",
}


class Progress(Protocol):
    """Who wants to know how an extraction goes."""

    def note(self, message: str) -> None: ...
    def start(self, partitions: int, done: int, tokens: int, bytes_per_token: float) -> None: ...
    def batch(self, tokens: int) -> None: ...
    def committed(self, record: Record) -> None: ...


class Silent:
    """Nobody wants to know."""

    def note(self, message: str) -> None:
        pass

    def start(self, partitions: int, done: int, tokens: int, bytes_per_token: float) -> None:
        pass

    def batch(self, tokens: int) -> None:
        pass

    def committed(self, record: Record) -> None:
        pass


@contextmanager
def writing(paths: RunPaths, what: str) -> Iterator[None]:
    """Hold the run's lock, after making sure that its folder is a run's or empty."""
    if paths.root.exists():
        if not paths.root.is_dir():
            raise RunError(f"store.path: {paths.root} is a file; expected a folder, or a path where there is none yet.")
        strange = sorted(p.name for p in paths.root.iterdir() if p.name.removesuffix(".partial") not in _OURS)
        if strange and not paths.identity.exists():
            raise RunError(
                f"store.path: {paths.root} holds files that are not a run's ({', '.join(strange[:3])}). "
                "Choose a folder of its own for the run."
            )
    make_directory(paths.root)
    with locked(paths.lock, what):
        yield


def extract(request: Request, progress: Progress, *, redo: frozenset[int] = frozenset()) -> list[Record]:
    """Bring the run up to date with `request`: compute what the ledger does not list. Returns the new records.

    The caller holds the run's lock. `redo` names partitions whose records are taken back first. Raises RunError when the
    run on disk is of another spec, model, tokenizer or data.
    """
    paths = RunPaths(Path(request.spec.store.path))
    ledger = Ledger(paths.ledger(EXTRACT))
    identity = check_identity(paths, request)
    if identity is None and ledger.records():
        raise RunError(
            f"{paths.root} has committed partitions but no identity.json to say what they are of. Restore that file, or "
            "remove the folder to begin again."
        )
    ledger.clean()
    for partition in redo:
        ledger.forget(partition)
    done = set(ledger.records())
    if identity and len(done) == identity["plan"]["partitions"]:
        return []

    progress.note("reading and tokenizing")
    prepared = prepare(request)
    if identity:
        _check_plan(paths, identity, prepared)
    import torch

    from .model import choose_device, load_model
    from .sites import resolve

    todo = [p for p in range(prepared.plan.partitions) if p not in done]
    device = choose_device(request.spec.model.device)
    progress.note(f"loading the model on {device}")
    model = load_model(request.source, prepared.config, getattr(torch, prepared.dtype), device)
    points = resolve(model, request.spec.capture, prepared.layers)
    if not identity:
        progress.note("comparing with plain transformers")
        initialise(paths, prepared, model, points, device)
    progress.start(prepared.plan.partitions, len(done), int(tokens_left(prepared, todo)), bytes_per_token(prepared))
    give_back_memory()
    buffers = allocate(prepared.plan, len(todo))  # after loading, which needs memory of its own for a while
    return compute(model, points, prepared, todo, buffers, paths.root, ledger, progress)


def check_identity(paths: RunPaths, request: Request) -> dict[str, Any] | None:
    """The identity of the run on disk, None where there is none. Raises RunError with the difference if it is another's."""
    if not paths.identity.exists():
        return None
    identity = read_identity(paths)
    differences = list(_differences(identity["claims"], json.loads(json.dumps(request.claims))))
    if differences:
        raise RunError(
            f"{paths.root} is a run of something else:\n  "
            + "\n  ".join(differences)
            + "\nGive this run its own store.path, or restore what has changed."
        )
    return identity


def _differences(there: Any, asked: Any, key: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(asked, dict):
        for name in dict.fromkeys([*there, *asked]):
            yield from _differences(there.get(name), asked.get(name), f"{key}.{name}".lstrip("."))
    elif there != asked:
        yield f"{key}: the run has {json.dumps(there)}, the spec asks for {json.dumps(asked)}"


def _check_plan(paths: RunPaths, identity: dict[str, Any], prepared: Prepared) -> None:
    now_planned = plan_digest(prepared)
    if identity["plan"]["digest"] != now_planned:
        before, after = identity["versions"], versions()
        changed = [f"{n} {before.get(n)} -> {after[n]}" for n in after if before.get(n) != after[n]]
        raise RunError(
            f"The same spec now gives another plan than the one {paths.root} was begun with: texts are tokenized otherwise. "
            f"Versions that changed: {', '.join(changed) or 'none'}. Go back to them, or give the run another store.path."
        )


def plan_digest(prepared: Prepared) -> str:
    return f"{prepared.plan.digest()}+{prepared.tokens.digest()}"


def initialise(
    paths: RunPaths, prepared: Prepared, model: "torch.nn.Module", points: list["Point"], device: "torch.device"
) -> None:
    """Make the run on disk, empty. identity.json comes last: without it, there is no run yet."""
    from .parity import parity_receipt

    receipt = parity_receipt(model, points, prepared, device)
    spec = prepared.request.spec
    create_arrays(paths.root, list(prepared.plan.arrays))
    make_directory(paths.ledger(EXTRACT))
    write_table(paths.examples, examples_table(prepared))
    replace(paths.spec, frozen_yaml(spec).encode())
    files = [paths.spec, paths.examples, *sorted(paths.root.glob("*.zarr/**/zarr.json"))]
    identity = {
        "created": now(),
        "claims": prepared.request.claims,
        "model": {"path": spec.model.path, "parameters": prepared.parameters},
        "plan": {
            "digest": plan_digest(prepared),
            "partitions": prepared.plan.partitions,
            "examples": len(prepared.request.examples),
            "rows": int(prepared.tokens.rows.sum()),
            "tokens": int(prepared.tokens.lengths.sum()),
            "dtype": prepared.dtype,
            "layers": list(prepared.layers),
            "planes": prepared.planes,
            "widths": prepared.widths,
            "arrays": {array.key: asdict(array) for array in prepared.plan.arrays},
        },
        "versions": versions(),
        "parity": receipt,
        "files": {str(file.relative_to(paths.root)): digest_file(file) for file in files},
    }
    replace(paths.identity, json.dumps(identity, indent=1, ensure_ascii=False).encode())


def restore(paths: RunPaths, request: Request, names: list[str]) -> None:
    """Write again what describes the run (`names` are keys of the identity's `files`); no value is touched."""
    prepared = prepare(request)
    identity = check_identity(paths, request)
    if identity:
        _check_plan(paths, identity, prepared)
    if str(paths.examples.relative_to(paths.root)) in names:
        write_table(paths.examples, examples_table(prepared))
    for name in names:
        if name.endswith("zarr.json"):
            (paths.root / name).unlink(missing_ok=True)
    create_arrays(paths.root, list(prepared.plan.arrays))


def frozen_yaml(spec: Spec) -> str:
    """The spec in full, with its local paths made absolute, so that it means the same in any folder."""
    raw = spec.model_dump(mode="json", exclude_none=True)
    if not spec.data.path.startswith("hf:"):
        raw["data"]["path"] = str(Path(spec.data.path).resolve())
    if Path(spec.model.path).exists():
        raw["model"]["path"] = str(Path(spec.model.path).resolve())
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def tokens_left(prepared: Prepared, todo: list[int]) -> int:
    chosen = np.isin(prepared.plan.partition, todo)
    return prepared.tokens.lengths[chosen].sum()


def bytes_per_token(prepared: Prepared) -> float:
    """Bytes stored for a token on average, pooled ones included."""
    return stored_bytes(prepared)[0] / max(1, int(prepared.tokens.lengths.sum()))


def stored_bytes(prepared: Prepared, partitions: list[int] | None = None) -> tuple[int, dict[str, int]]:
    """Bytes of the shards of `partitions` (of all, by default), uncompressed: together, and by array."""
    plan = prepared.plan
    chosen = slice(None) if partitions is None else partitions
    rows = np.add.reduceat(prepared.tokens.rows[plan.order], plan.first[:-1])[chosen]
    examples = np.diff(plan.first)[chosen]
    by_array = {
        a.key: sum(a.shard_bytes(int(n)) for n in (examples if a.key.startswith("pooled") else rows)) for a in plan.arrays
    }
    return sum(by_array.values()), by_array


def give_back_memory() -> None:
    """Return to the system what reading checkpoints and the parity check have left in the allocator's hands."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # glibc only
        ctypes.CDLL(None).malloc_trim(0)


def allocate(plan: Plan, partitions: int) -> "list[PartitionBuffers]":
    """Memory for the partition that is computed and the one that is written."""
    from .buffers import PartitionBuffers

    return [PartitionBuffers(plan.arrays) for _ in range(min(2, partitions))]


def compute(
    model: "torch.nn.Module",
    points: list["Point"],
    prepared: Prepared,
    todo: list[int],
    free: "list[PartitionBuffers]",
    root: Path,
    ledger: Ledger,
    progress: Progress,
) -> list[Record]:
    """Run the model over the partitions in `todo`. One is written while the next is computed, so `free` has two buffers.

    Raises Interrupted on Ctrl-C or SIGTERM, after the partition that was being written is safe.
    """
    from .batches import batch_size, groups, make_batch
    from .capture import Capture

    spec, tokens, plan = prepared.request.spec, prepared.tokens, prepared.plan
    device = next(model.parameters()).device
    most = batch_size(spec.capture, device.type)
    capture = Capture(model, points)
    in_flight: Future[Record] | None = None
    records: list[Record] = []

    def settle() -> None:
        """Wait for the partition that is being written; its buffers are free again."""
        nonlocal in_flight
        if in_flight is not None:
            record = in_flight.result()
            in_flight = None
            records.append(record)
            progress.committed(record)

    with ThreadPoolExecutor(1, thread_name_prefix="writer") as writer, capture.hooks():
        try:
            for n, partition in enumerate(todo):
                buffers = free[n % len(free)]
                buffers.start(partition)
                members = plan.members(partition)
                for group in groups(tokens.lengths[members], most):
                    batch = make_batch(tokens, members[group], prepared.pad_id, spec.capture.padding, device)
                    buffers.begin(batch, tokens)
                    capture.forward(batch, buffers.take)
                    buffers.end(batch, tokens)
                    progress.batch(int(tokens.lengths[batch.examples].sum()))
                settle()
                in_flight = writer.submit(buffers.commit, root, ledger)
            settle()
        except KeyboardInterrupt:
            settle()
            left = len(todo) - len(records)
            raise Interrupted(f"Interrupted: {len(records)} partitions were committed, {left} are left.") from None
    return records
