import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actlake.errors import DataError
from actlake.pipeline.data import check_labels, classes, load_examples
from actlake.pipeline.spec import DataSpec

RECORDS: list[dict[str, Any]] = [
    {"id": "a", "text": 'りんご, "two"\nlines', "cot": 1, "kind": "x"},
    {"id": "b", "text": "plain", "cot": 0, "kind": "y"},
]


def write(path: Path, records: list[dict[str, Any]]) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    else:
        import csv

        with path.open("w", newline="", encoding="utf-8-sig") as handle:  # as spreadsheets save it
            writer = csv.DictWriter(handle, list(records[0]))
            writer.writeheader()
            writer.writerows(records)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_all_formats_give_the_same_examples(tmp_path: Path, suffix: str) -> None:
    found = load_examples(DataSpec(path=str(write(tmp_path / f"d{suffix}", RECORDS)), labels=("cot", "kind")))
    assert found.ids == ["a", "b"]
    assert found.texts == [r["text"] for r in RECORDS]
    assert found.labels == {"cot": [1, 0], "kind": ["x", "y"]}
    reference = load_examples(DataSpec(path=str(write(tmp_path / "r.jsonl", RECORDS)), labels=("cot", "kind")))
    assert found.digest() == reference.digest()


def test_a_hugging_face_data_set_from_a_local_folder(tmp_path: Path) -> None:
    pytest.importorskip("datasets", reason="needs the hub extra")
    (tmp_path / "set").mkdir()
    write(tmp_path / "set" / "train.jsonl", RECORDS)
    found = load_examples(DataSpec(path=f"hf:{tmp_path / 'set'}:train", labels=("cot",)))
    assert found.texts == [r["text"] for r in RECORDS]


def test_templates_make_texts_and_landmarks(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"id": 1, "q": "何?", "a": "42"}])
    found = load_examples(DataSpec(path=str(path), text="Q: {q}\nA: {a}!", landmarks=("a", "q")))
    assert found.texts == ["Q: 何?\nA: 42!"]
    assert found.landmarks == [{"a": (9, 11), "q": (3, 5)}]
    assert found.texts[0][9:11] == "42"


def test_landmarks_are_offsets_or_spans_also_in_csv(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "hello", "landmarks": json.dumps({"h": 0, "rest": [1, 5]})}]
    found = load_examples(DataSpec(path=str(write(tmp_path / "d.csv", rows)), landmarks=("h", "rest")))
    assert found.landmarks == [{"h": (0, 1), "rest": (1, 5)}]


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        ({"id": "b"}, {}, "1 ids stand more than once: 'b'"),
        ({"text": "  \n"}, {}, "example 'a' has an empty text"),
        ({"text": 7}, {}, "expected a string"),
        ({}, {"labels": ("cots",)}, r"no column 'cots' \(did you mean cot\?\)"),
        ({"cot": None}, {"labels": ("cot",)}, "is None; expected 0, 1 or the name of a class"),
        ({"cot": "maybe"}, {"labels": ("cot",)}, "mixes int and str"),
        ({}, {"labels": ("text",)}, "cannot be called 'text'"),
        ({}, {"landmarks": ("end",)}, "no landmark 'end'"),
        ({"landmarks": {"end": 99}}, {"landmarks": ("end",)}, "expected a character offset below"),
        ({"landmarks": {"end": [3, 3]}}, {"landmarks": ("end",)}, "start < end"),
        ({}, {"text": "{text} {answer}"}, "no column 'answer'"),
        ({"kind": None}, {"text": "{text} {kind}"}, "the column 'kind' of example 'a' is empty"),
        ({"id": None}, {}, "record 1 has an empty 'id'"),
        ({"text": "half \ud800"}, {}, "half a surrogate pair"),
        ({}, {"text": "{text"}, "is not a template"),
        ({}, {"text": "{{text}}"}, "at least one"),
        ({"landmarks": {"end": 1.0}}, {"landmarks": ("end",)}, "expected a character offset"),
        ({"landmarks": [1]}, {"landmarks": ("end",)}, "expected an object of places"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, change: dict[str, Any], options: dict[str, Any], said: str) -> None:
    path = write(tmp_path / "d.jsonl", [RECORDS[0] | change, RECORDS[1]])
    with pytest.raises(DataError, match=said):
        load_examples(DataSpec(path=str(path), **options))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("d.jsonl", b'{"id": 1, "text": "ok"}\n{"id": 2, "text": "\xff"}\n', "line 2 is not valid UTF-8"),
        ("d.jsonl", b'{"id": 1\n', "line 1 is not valid JSON"),
        ("d.jsonl", b"[1]\n", "holds list; expected an object"),
        ("d.jsonl", b"", "holds no examples"),
        ("d.csv", b"id,text\n1,a,b\n", "not as many fields"),
        ("d.csv", b"id,text,text\n1,a,b\n", "two columns have one name"),
        ("d.txt", b"hi", "expected .jsonl, .csv or .parquet"),
        ("d.parquet", b"hi", "not a readable Parquet file"),
    ],
)
def test_bad_files_are_sentences(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=said):
        load_examples(DataSpec(path=str(tmp_path / name)))
    with pytest.raises(DataError, match="no data file"):
        load_examples(DataSpec(path=str(tmp_path / "absent.jsonl")))
    with pytest.raises(DataError, match="expected hf:NAME"):
        load_examples(DataSpec(path="hf:nothing"))


def test_labels_with_one_class_cannot_be_ranked() -> None:
    check_labels({"a": [0, 1], "b": ["x", "x"]}, ("a",))
    with pytest.raises(DataError, match="'b' has one class: all 2 examples are 'x'"):
        check_labels({"a": [0, 1], "b": ["x", "x"]}, ())


def test_classes_are_one_against_the_rest() -> None:
    assert classes([1, 0]) == {None: [True, False]}
    assert classes(["x", "y", "x"]) == {"x": [True, False, True], "y": [False, True, False]}
