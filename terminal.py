"""What a person sees: tables, sizes, and a live progress bar that is quiet when nobody looks."""

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .pipeline.estimate import Estimate, gib
from .storage.ledger import Record
from .storage.status import Status

out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


class LiveProgress:
    """Progress of an extraction on stderr: partitions, tokens/s, bytes/s, time left."""

    def __init__(self) -> None:
        self._status = err.status("starting") if err.is_terminal else None
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[partitions]} partitions"),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=err,
            disable=not err.is_terminal,
        )
        self._bytes_per_token = 0.0
        self._done = self._partitions = 0

    def __enter__(self) -> "LiveProgress":
        if self._status:
            self._status.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._status:
            self._status.stop()
        self._bar.stop()

    def note(self, message: str) -> None:
        if self._status:
            self._bar.stop()
            self._status.update(message)
            self._status.start()

    def start(self, partitions: int, done: int, tokens: int, bytes_per_token: float) -> None:
        if self._status:
            self._status.stop()
        self._bytes_per_token = bytes_per_token
        self._done, self._partitions = done, partitions
        self._task = self._bar.add_task("extracting", total=tokens, partitions=f"{done}/{partitions}", rate="")
        self._bar.start()

    def batch(self, tokens: int) -> None:
        self._bar.advance(self._task, tokens)
        speed = self._bar.tasks[self._task].speed
        if speed:
            rate = f"{speed:,.0f} tokens/s, {gib(speed * self._bytes_per_token)}/s"
            self._bar.update(self._task, rate=rate)

    def committed(self, record: Record) -> None:
        self._done += 1
        self._bar.update(self._task, partitions=f"{self._done}/{self._partitions}")
        for key, count in record.non_finite.items():
            self._bar.console.print(
                f"Warning: partition {record.partition}: {count} NaN or infinite values in {key}", style="yellow"
            )


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "unknown"
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def show_pairs(title: str, pairs: list[tuple[str, str]]) -> None:
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for name, value in pairs:
        table.add_row(name, value)
    out.print(table)


def show_estimate(plan: Estimate) -> None:
    show_pairs(
        "Plan",
        [
            ("examples", f"{plan.examples:,} ({plan.tokens:,} tokens, longest {plan.longest_text:,})"),
            ("rows", f"{plan.rows:,} in {plan.partitions:,} partitions, {plan.partitions_done:,} of them done"),
            ("padding", f"{plan.padded_tokens:,} positions computed, {plan.padding_waste:.1%} of them pads"),
            ("model", f"{plan.parameters:,} parameters, {plan.layers} layers captured, {plan.dtype} on {plan.device}"),
            (
                "arithmetic",
                f"{plan.flops:.3g} FLOPs (2 x parameters x tokens); training would take {plan.flops_training:.3g}",
            ),
            *((key, gib(size)) for key, size in plan.bytes_per_site.items()),
            (
                "bytes",
                f"{gib(plan.bytes_total)} in all, {gib(plan.bytes_left)} to write, {gib(plan.free_disk_bytes)} free",
            ),
            (
                "memory",
                f"about {gib(plan.peak_memory_bytes)} at the peak, {gib(plan.available_memory_bytes)} available",
            ),
            ("time", f"about {duration(plan.seconds)} of computing"),
        ],
    )
    for warning in plan.warnings:
        out.print(f"Warning: {warning}", style="yellow")


def show_status(status: Status) -> None:
    pairs = [
        ("partitions", f"{status.done:,} done, {status.left:,} left of {status.partitions:,}"),
        ("stored", f"{status.examples:,} examples, {status.rows:,} rows, {gib(status.bytes)}"),
        (
            "rate",
            " ".join(
                (
                    f"{status.tokens_per_second:,.0f} tokens/s,",
                    f"{status.rows_per_second:,.0f} rows/s,",
                    f"{gib(status.bytes_per_second)}/s",
                )
            ),
        ),
        ("time to go", duration(status.seconds_left)),
        ("tables", ", ".join(status.tables) or "none"),
        ("written by", status.written_by or "nobody now"),
    ]
    if status.non_finite:
        pairs.append(("NaN or infinite", ", ".join(f"{n:,} in {key}" for key, n in status.non_finite.items())))
    show_pairs(status.path, pairs)


def show_rows(rows: list[dict[str, Any]], title: str = "") -> None:
    table = Table(title=title or None, title_justify="left")
    for name in rows[0] if rows else ():
        table.add_column(name)
    for row in rows:
        table.add_row(*(f"{v:.6g}" if isinstance(v, float) else str(v) for v in row.values()))
    out.print(table)


def show_job(name: str, summary: dict[str, Any]) -> None:
    if name == "rank":
        show_rows(summary["best"], "Best neurons")
        if summary["above"]:
            counts = ", ".join(f"{count:,} for {of}" for of, count in summary["above"].items())
            out.print(f"AP above {summary['threshold']}: {counts}.")
        else:
            out.print(f"No neuron has AP above {summary['threshold']}.")
        if summary["not_a_number"]:
            out.print(f"Warning: {summary['not_a_number']:,} neurons have NaN responses and no AP.", style="yellow")
    elif "pooled" in summary:
        for site, made in summary["pooled"].items():
            out.print(f"{name} of {site}: {made}.")
    else:
        out.print(f"Table {summary['table']}: {summary['rows']:,} rows.")
