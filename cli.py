"""The `actlake` command: parse, call, print."""

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .errors import ActlakeError, Interrupted

app = typer.Typer(
    help="Run a language model over texts once, keep what its neurons did, and ask for ever after.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
job_app = typer.Typer(help="Compute something from a complete run.", no_args_is_help=True)
app.add_typer(job_app, name="job")

SpecPath = Annotated[Path, typer.Argument(help="The spec, a YAML file.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(help="The run's folder.", show_default=False)]
Set = Annotated[list[str] | None, typer.Option("--set", help="Override a key of the spec: a.b=value.", show_default=False)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Sites = Annotated[
    list[str] | None, typer.Option("--site", help="A site; repeat for several. Default: all.", show_default=False)
]
Labels = Annotated[
    list[str] | None, typer.Option("--label", help="A label; repeat for several. Default: all.", show_default=False)
]
Pooled = Annotated[str, typer.Option("--pool", help="Which pooled response: max, mean or min.")]


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, ensure_ascii=False))


@app.command()
def run(spec: SpecPath, set_: Set = None, as_json: AsJson = False) -> None:
    """Carry out a spec: extract what is missing, then its jobs. Run it again to resume."""
    from .jobs.run import carry_out
    from .pipeline.spec import load_spec
    from .terminal import LiveProgress, out, show_job

    loaded = load_spec(spec, set_)
    try:
        with LiveProgress() as progress:
            outcome = carry_out(loaded, progress)
    except (Interrupted, KeyboardInterrupt) as error:
        again = shlex.join(["actlake", "run", str(spec), *(part for o in set_ or () for part in ("--set", o))])
        said = str(error) or "Interrupted: what was committed is safe."
        raise Interrupted(f"{said} Carry on with: {again}") from None
    if as_json:
        done = {
            "run": str(outcome.run.path),
            "partitions": outcome.run.partitions,
            "new_partitions": len(outcome.records),
        }
        _print_json(done | {"parity": outcome.run.identity["parity"], "jobs": outcome.jobs})
        return
    for name, summary in outcome.jobs.items():
        show_job(name, summary)
    parity = outcome.run.identity["parity"]
    off = ", ".join(f"{site} {value:.1e}" for site, value in parity["relative"].items())
    out.print(f"Largest difference from plain transformers ({parity['dtype']}, share of a layer's largest value): {off}.")
    new = len(outcome.records)
    what = (
        f"{new} of {outcome.run.partitions} partitions were extracted"
        if new
        else f"All {outcome.run.partitions} partitions were done already"
    )
    out.print(f"{what}. Run: {outcome.run.path}")


@app.command()
def plan(spec: SpecPath, set_: Set = None, as_json: AsJson = False) -> None:
    """What a run will cost; loads the config and tokenizer only."""
    from .pipeline.estimate import plan_spec
    from .pipeline.spec import load_spec
    from .terminal import show_estimate

    estimate = plan_spec(load_spec(spec, set_))
    _print_json(estimate.as_dict()) if as_json else show_estimate(estimate)


@app.command()
def schema() -> None:
    """The spec's JSON Schema, for editors."""
    from .pipeline.spec import Spec

    _print_json(Spec.model_json_schema())


@app.command()
def status(run: RunPath, as_json: AsJson = False) -> None:
    """How far a run is."""
    from .storage.run import open_run
    from .storage.status import status as status_of
    from .terminal import show_status

    found = status_of(open_run(run))
    _print_json(found.as_dict()) if as_json else show_status(found)


@app.command()
def verify(
    run: RunPath,
    deep: Annotated[bool, typer.Option("--deep", help="Read every byte and compare checksums.")] = False,
    repair: Annotated[bool, typer.Option("--repair", help="Do the bad partitions again.")] = False,
) -> None:
    """Compare a run with its ledger; names each bad or missing partition and exits with 1 if there is one."""
    from .jobs.run import repair as put_right
    from .storage.run import open_run
    from .storage.verify import verify as check
    from .terminal import LiveProgress, out

    opened = open_run(run)
    faults = list(check(opened, deep=deep))
    for fault in faults:
        out.print(str(fault))
    if faults and repair:
        with LiveProgress() as progress:
            left = put_right(opened, faults, progress)
        bad = {(f.ledger, f.partition) for f in faults if not f.file}
        out.print(
            "Still wrong:" if left else f"Repaired {len(bad)} partitions and {sum(bool(f.file) for f in faults)} files."
        )
        faults = left
        for fault in faults:
            out.print(str(fault))
    if faults:
        raise typer.Exit(1)
    out.print(f"{opened.partitions} partitions are as the ledger says{' (all bytes read)' if deep else ''}.")


@app.command()
def query(
    run: RunPath,
    sql: Annotated[str, typer.Argument(help="SELECT ... over examples, rank and the other tables (DuckDB).")],
    form: Annotated[str, typer.Option("--format", help="table, json, csv or parquet.")] = "table",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write there instead of printing.")] = None,
) -> None:
    """Ask SQL of a run's tables."""
    from .storage.run import open_run
    from .storage.tables import render
    from .terminal import show_rows

    found = open_run(run).sql(sql)
    if form == "table" and output is None:
        show_rows(found.to_pylist())
        return
    data = render(found, form)
    if output:
        output.write_bytes(data)
    else:
        sys.stdout.buffer.write(data)


def _job(path: Path, name: str, job: Any, as_json: bool) -> None:
    from .jobs.run import run_job
    from .storage.run import open_run
    from .terminal import LiveProgress, show_job

    with LiveProgress() as progress:
        summary = run_job(open_run(path), name, job, progress.note)
    _print_json(summary) if as_json else show_job(name, summary)


@job_app.command("max")
def max_(run: RunPath, sites: Sites = None, as_json: AsJson = False) -> None:
    """Maximum over the stored tokens of every example."""
    from .pipeline.spec import MaxJob

    _job(run, "max", MaxJob(sites=tuple(sites or ())), as_json)


@job_app.command()
def median(run: RunPath, labels: Labels = None, sites: Sites = None, pool: Pooled = "max", as_json: AsJson = False) -> None:
    """Median response of every neuron by class of a label."""
    from .pipeline.spec import MedianJob, make_job

    _job(run, "median", make_job(MedianJob, labels=labels or (), sites=sites or (), pool=pool), as_json)


@job_app.command()
def rank(
    run: RunPath,
    labels: Labels = None,
    sites: Sites = None,
    pool: Pooled = "max",
    threshold: Annotated[float, typer.Option(help="Count neurons with AP above this.")] = 0.999,
    significant_bits: Annotated[
        int | None,
        typer.Option(help="Round responses first; default 12 for float32, none for 16-bit.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Average precision of every neuron for every label."""
    from .pipeline.spec import RankJob, make_job

    job = make_job(
        RankJob,
        labels=labels or (),
        sites=sites or (),
        pool=pool,
        threshold=threshold,
        significant_bits=significant_bits,
    )
    _job(run, "rank", job, as_json)


def main() -> None:
    """The command line, with every failure as one sentence on stderr: exit 1, or 130 when interrupted."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' own progress bars; ours says what is loaded
    try:
        app()
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(130)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
    except ActlakeError as error:
        print(f"actlake: {error}", file=sys.stderr)
        sys.exit(1)
    except OSError as error:
        print(f"actlake: {error.strerror or error}: {error.filename or ''}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
