"""Labelled texts in: JSONL, CSV, Parquet or a Hugging Face dataset, checked before anything is computed."""

import csv
import hashlib
import io
import json
import string
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import DataError
from .spec import DataSpec, nearest

# Columns of examples.parquet that a label may not be called.
RESERVED = ("id", "text", "landmarks", "n_tokens", "n_rows", "partition", "row_start", "pooled_row")
Label = int | str
Span = tuple[int, int]  # characters [start, stop)


@dataclass(frozen=True)
class Examples:
    """The input texts in file order.

    labels: column -> one value per example. landmarks: per example, name -> character span.
    """

    ids: list[str]
    texts: list[str]
    labels: dict[str, list[Label]]
    landmarks: list[dict[str, Span]]

    def __len__(self) -> int:
        return len(self.ids)

    def digest(self) -> str:
        """sha256 of ids, texts, labels and landmarks: the same data give the same digest wherever they come from."""
        sha = hashlib.sha256()
        names = sorted(self.labels)
        for i, (name, text) in enumerate(zip(self.ids, self.texts, strict=True)):
            row = [name, text, [self.labels[n][i] for n in names], sorted(self.landmarks[i].items())]
            sha.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n")
        return f"sha256:{sha.hexdigest()}"


def load_examples(spec: DataSpec) -> Examples:
    """Read and check all examples. Raises DataError, naming the records at fault."""
    records = list(_records(spec.path))
    if not records:
        raise DataError(f"{spec.path} holds no examples; expected at least one record.")
    fields = _template_columns(spec.text) if spec.is_template else [spec.text]
    needed = [spec.id, *fields, *spec.labels]
    for number, record in enumerate(records, 1):
        for column in needed:
            if column not in record:
                raise DataError(
                    f"{spec.path}: record {number} has no column {column!r}{nearest(column, record)}. "
                    f"Its columns are {', '.join(record)}."
                )
    for label in spec.labels:
        if label in RESERVED:
            raise DataError(f"A label cannot be called {label!r}: the run has a column of that name. Rename it in the data.")
    for number, record in enumerate(records, 1):
        if record[spec.id] is None or record[spec.id] == "":
            raise DataError(f"{spec.path}: record {number} has an empty {spec.id!r}. Every example needs its own id.")
    ids = [str(r[spec.id]) for r in records]
    _check_ids(spec.path, ids)
    texts, landmarks = [], []
    for name, record in zip(ids, records, strict=True):
        text, parts = _fill(spec, record, name)
        if any(0xD800 <= ord(c) < 0xE000 for c in name + text):
            raise DataError(f"{spec.path}: example {name!r} holds half a surrogate pair, which is no character. Mend it.")
        if not text.strip():
            raise DataError(f"{spec.path}: example {name!r} has an empty text. Remove it or give it a text.")
        texts.append(text)
        landmarks.append(_landmarks(spec, record, name, text, parts))
    labels = {label: _labels(spec, label, [r[label] for r in records], ids) for label in spec.labels}
    return Examples(ids, texts, labels, landmarks)


def classes(values: list[Label]) -> dict[str | None, list[bool]]:
    """What a label column asks to be told apart: {None: positives} for 0/1, else {class: members} for each class."""
    if set(values) <= {0, 1}:
        return {None: [bool(v) for v in values]}
    return {str(c): [v == c for v in values] for c in sorted(set(values), key=str)}


def check_labels(labels: dict[str, list[Label]], wanted: tuple[str, ...]) -> None:
    """Raise DataError for a label with a single class: nothing can be ranked by it."""
    for label in wanted or labels:
        counts = Counter(labels[label])
        if len(counts) < 2:
            only = next(iter(counts), None)
            raise DataError(
                f"The label {label!r} has one class: all {len(labels[label])} examples are {only!r}. "
                "Ranking needs examples with and without the property: add some, or leave the label out of the job."
            )


def _records(path: str) -> Iterator[dict[str, Any]]:
    if path.startswith("hf:"):
        yield from _hub_records(path)
        return
    file = Path(path)
    if not file.is_file():
        raise DataError(
            f"There is no data file {path}. Expected a .jsonl, .csv or .parquet file, or hf:NAME[/CONFIG]:SPLIT."
        )
    if file.suffix == ".parquet":
        try:
            yield from pq.read_table(file).to_pylist()
        except pa.ArrowException as error:
            raise DataError(f"{path} is not a readable Parquet file: {error}") from None
    elif file.suffix in (".jsonl", ".ndjson"):
        yield from _json_lines(file)
    elif file.suffix == ".csv":
        yield from _csv_rows(file)
    else:
        raise DataError(f"{path} has the ending {file.suffix or 'none'!r}; expected .jsonl, .csv or .parquet.")


def _decoded_lines(file: Path) -> Iterator[tuple[int, str]]:
    with file.open("rb") as handle:
        for number, line in enumerate(handle, 1):
            try:
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{file}: line {number} is not valid UTF-8 at byte {error.start}. Save the file as UTF-8."
                ) from None


def _json_lines(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in _decoded_lines(file):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{file}: line {number} is not valid JSON: {error.msg} at column {error.colno}.") from None
        if not isinstance(record, dict):
            raise DataError(f"{file}: line {number} holds {type(record).__name__}; expected an object.")
        yield record


def _csv_rows(file: Path) -> Iterator[dict[str, Any]]:
    text = "".join(line for _, line in _decoded_lines(file))
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    if len(set(reader.fieldnames or ())) < len(reader.fieldnames or ()):
        raise DataError(f"{file}: two columns have one name: {', '.join(reader.fieldnames or ())}. Rename one.")
    for number, row in enumerate(reader, 1):
        if None in row or None in row.values():
            raise DataError(f"{file}: record {number} has not as many fields as the header. Quote fields that hold commas.")
        yield dict(row)


def _hub_records(path: str) -> Iterator[dict[str, Any]]:
    name, colon, split = path.removeprefix("hf:").rpartition(":")
    if not colon or not name or not split:
        raise DataError(
            f"{path!r} is not a Hugging Face data set: expected hf:NAME[/CONFIG]:SPLIT, such as hf:openai/gsm8k/main:test."
        )
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"{path} needs the datasets package: pip install 'actlake[hub]'.") from None
    config = None
    if not Path(name).exists() and name.count("/") == 2:
        name, _, config = name.rpartition("/")
    try:
        yield from load_dataset(name, config, split=split)
    except Exception as error:  # datasets raises many kinds; each says in its message what is wrong
        raise DataError(f"Could not load {path}: {type(error).__name__}: {' '.join(str(error).split())}") from None


def _template_columns(template: str) -> list[str]:
    try:
        parts = [(f, form, conversion) for _, f, form, conversion in string.Formatter().parse(template) if f is not None]
    except ValueError as error:
        raise DataError(f"data.text: {template!r} is not a template: {error}.") from None
    if not parts or any(not f or form or conversion for f, form, conversion in parts):
        raise DataError(f"data.text: {template!r} should hold plain {{column}} fields, at least one, without formats.")
    return [f for f, _, _ in parts]


def _check_ids(path: str, ids: list[str]) -> None:
    repeated = [name for name, count in Counter(ids).items() if count > 1]
    if repeated:
        shown = ", ".join(map(repr, repeated[:5])) + (" ..." if len(repeated) > 5 else "")
        raise DataError(f"{path}: {len(repeated)} ids stand more than once: {shown}. Every example needs its own id.")


def _fill(spec: DataSpec, record: dict[str, Any], name: str) -> tuple[str, dict[str, Span]]:
    """The example's text, and the spans of a template's columns in it."""
    if not spec.is_template:
        text = record[spec.text]
        if not isinstance(text, str):
            raise DataError(f"{spec.path}: the text of example {name!r} is {text!r}; expected a string.")
        return text, {}
    text, parts = "", {}
    for literal, field, _, _ in string.Formatter().parse(spec.text):
        text += literal
        if field is not None:
            if record[field] is None:
                raise DataError(f"{spec.path}: the column {field!r} of example {name!r} is empty; the template needs it.")
            value = str(record[field])
            parts[field] = (len(text), len(text) + len(value))
            text += value
    return text, parts


def _landmarks(spec: DataSpec, record: dict[str, Any], name: str, text: str, parts: dict[str, Span]) -> dict[str, Span]:
    if not spec.landmarks:
        return {}
    given = record.get("landmarks") or {}
    if isinstance(given, str):  # CSV has no objects
        try:
            given = json.loads(given)
        except json.JSONDecodeError:
            raise DataError(f"{spec.path}: the landmarks of example {name!r} are not valid JSON: {given!r}.") from None
    if not isinstance(given, dict):
        raise DataError(f"{spec.path}: the landmarks of example {name!r} are {given!r}; expected an object of places.")
    given = parts | {k: v for k, v in given.items() if v is not None}
    found: dict[str, Span] = {}
    for landmark in spec.landmarks:
        if landmark not in given:
            raise DataError(
                f"{spec.path}: example {name!r} has no landmark {landmark!r}{nearest(landmark, given)}. "
                f"It has {', '.join(given) or 'none'}."
            )
        place = given[landmark]
        span = (place, place + 1) if type(place) is int else tuple(place) if isinstance(place, list | tuple) else ()
        if len(span) != 2 or not all(type(p) is int for p in span) or not 0 <= span[0] < span[1] <= len(text):
            raise DataError(
                f"{spec.path}: landmark {landmark!r} of example {name!r} is {place!r}; expected a character offset below "
                f"{len(text)}, the text's length, or [start, end] with start < end."
            )
        found[landmark] = (span[0], span[1])
    return found


def _labels(spec: DataSpec, label: str, values: list[Any], ids: list[str]) -> list[Label]:
    """A label column as integers 0/1, or as classes of one type."""
    found: list[Label] = []
    for value, name in zip(values, ids, strict=True):
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if not isinstance(value, int | str) or value == "":
            raise DataError(
                f"{spec.path}: the label {label!r} of example {name!r} is {value!r}; expected 0, 1 or the name of a class."
            )
        found.append(int(value) if isinstance(value, bool) else value)
    if set(found) <= {"0", "1"}:  # CSV knows only strings
        return [int(v) for v in found]
    kinds = {type(v).__name__ for v in found}
    if len(kinds) > 1:
        raise DataError(f"{spec.path}: the label {label!r} mixes {' and '.join(sorted(kinds))}; expected one kind of class.")
    return found
