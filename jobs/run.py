"""A whole run: extract what is missing, then the jobs that are not up to date; and putting right what went bad."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import SpecError
from ..pipeline.extract import Progress, Silent, extract, restore, writing
from ..pipeline.prepare import make_request
from ..pipeline.spec import Job, Spec, load_spec
from ..storage.ledger import EXTRACT, Ledger, Record
from ..storage.paths import RunPaths
from ..storage.run import Run, open_run
from ..storage.verify import DESCRIPTION, Fault, verify
from .median import median
from .pool import maximum
from .rank import rank

JOB_FUNCTIONS: dict[str, Callable[..., dict[str, Any]]] = {"max": maximum, "median": median, "rank": rank}


@dataclass(frozen=True)
class Outcome:
    """What a call of `carry_out` did: new records, and each job's summary."""

    run: Run
    records: list[Record]
    jobs: dict[str, dict[str, Any]]


def carry_out(spec: Spec, progress: Progress, *, jobs: bool = True) -> Outcome:
    """Extract what the ledger lacks and compute the spec's jobs. Raises ActlakeError of every kind; see there."""
    request = make_request(spec)
    paths = RunPaths(Path(spec.store.path))
    with writing(paths, "run the same command"):
        records = extract(request, progress)
        run = open_run(paths.root)
        entries = spec.jobs if jobs else ()
        return Outcome(run, records, {e.name: JOB_FUNCTIONS[e.name](run, e.job, progress.note) for e in entries})


def run_spec(spec: Spec | str | Path | dict[str, Any], overrides: list[str] | None = None) -> Run:
    """Carry out a spec (a path, a dict or a Spec) and its jobs; what is done already is not done again."""
    return carry_out(spec if isinstance(spec, Spec) else load_spec(spec, overrides), Silent()).run


def extract_spec(spec: Spec | str | Path | dict[str, Any], overrides: list[str] | None = None) -> Run:
    """Carry out a spec without its jobs."""
    return carry_out(spec if isinstance(spec, Spec) else load_spec(spec, overrides), Silent(), jobs=False).run


def run_job(run: Run, name: str, job: Job, note: Callable[[str], None]) -> dict[str, Any]:
    """Compute one job over a complete run. Raises SpecError for an unknown one."""
    if name not in JOB_FUNCTIONS:
        raise SpecError(f"There is no job {name!r}; jobs are {', '.join(JOB_FUNCTIONS)}.")
    with writing(run.paths, f"run the job {name}"):
        return JOB_FUNCTIONS[name](run, job, note)


def repair(run: Run, faults: list[Fault], progress: Progress) -> list[Fault]:
    """Do the bad partitions again. Returns what is still wrong after that (nothing, unless the disk is failing)."""
    from ..pipeline.spec import MaxJob

    spec = load_spec(run.paths.spec)
    spec = spec.model_copy(update={"store": spec.store.model_copy(update={"path": str(run.path)})})
    request = make_request(spec)
    with writing(run.paths, "repair"):
        if described := [f.file for f in faults if f.file]:
            restore(run.paths, request, described)
        extract(request, progress, redo=frozenset(f.partition for f in faults if f.ledger == EXTRACT))
        mended = open_run(run.path)
        pooled = {f.ledger for f in faults if f.ledger not in (EXTRACT, DESCRIPTION)}
        for fault in faults:
            if fault.ledger in pooled:
                Ledger(run.paths.ledger(fault.ledger)).forget(fault.partition)
        if pooled:
            sites = tuple(name.removeprefix("max-") for name in sorted(pooled))
            maximum(mended, MaxJob(sites=sites), progress.note)
    return list(verify(mended, deep=True))
