"""The command as a user meets it: results on stdout, one sentence on stderr, an exit code."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

import actlake
from actlake.pipeline.estimate import _warnings
from tests.conftest import records

Make = Callable[..., dict[str, Any]]


def command(*arguments: str | Path) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "actlake.cli", *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def spec_file(make_spec: Make, tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(make_spec(pool=["max"]) | {"jobs": [{"rank": {"threshold": 0.9}}]}))
    return path


def test_plan_run_status_query(spec_file: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    code, out, _ = command("plan", spec_file, "--json")
    assert code == 0
    plan = json.loads(out)
    assert plan["partitions_done"] == 0
    assert not run.exists()
    assert plan["flops"] == 2 * plan["parameters"] * plan["tokens"]
    assert plan["flops_training"] == 3 * plan["flops"]

    code, out, err = command("run", spec_file)
    assert code == 0, err
    assert "Best neurons" in out
    assert f"{plan['partitions']} of {plan['partitions']} partitions were extracted" in out
    stored = sum(r.bytes for r in actlake.open(run).records.values())
    assert stored == plan["bytes_total"]
    code, out, _ = command("run", spec_file, "--json")
    assert json.loads(out)["new_partitions"] == 0
    code, out, _ = command("plan", spec_file, "--json")
    assert json.loads(out)["partitions_done"] == plan["partitions"]
    assert json.loads(out)["bytes_left"] == 0

    code, out, _ = command("status", run, "--json")
    status = json.loads(out)
    assert (status["done"], status["left"]) == (plan["partitions"], 0)
    assert status["rows"] == plan["rows"] == status["tokens"]
    assert "partitions" in command("status", run)[1]

    select = "SELECT id, text FROM examples WHERE id = 't1'"
    text = records()[1]["text"]
    assert json.loads(command("query", run, select, "--format", "json")[1]) == [{"id": "t1", "text": text}]
    assert command("query", run, select, "--format", "csv")[1] == f'"id","text"\n"t1","{text}"\n'
    assert text in command("query", run, select)[1]
    command("query", run, "SELECT ap FROM rank", "--format", "parquet", "-o", tmp_path / "ap.parquet")
    assert pq.read_table(io.BytesIO((tmp_path / "ap.parquet").read_bytes())).num_rows == 3 * (88 + 32)


def test_schema_is_json_schema() -> None:
    code, out, _ = command("schema")
    assert code == 0
    schema = json.loads(out)
    assert set(schema["required"]) == {"model", "data", "store"}
    assert schema["additionalProperties"] is False


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model.path": "no/such/model/here"}, "there is no folder no/such/model/here"),
        ({"model.path": "./absent.gguf"}, "there is no file absent.gguf"),
        ({"model.path": "package:not_installed/x.gguf"}, "the package 'not_installed' is not installed"),
        ({"model.device": "cuda:7"}, "'cuda:7' is not here"),
        ({"data.path": "absent.jsonl"}, "There is no data file"),
        ({"capture.sites": "[mlp_acts]"}, "did you mean mlp_act?"),
        ({"capture.layers": "[9]"}, "[9] do not exist: the model has 3 blocks, 0 to 2"),
        ({"capture.batch": "3"}, "unknown key 'capture.batch'"),
        ({"data.labels": "[odd]", "jobs": "[]"}, "no column 'odd'"),
        ({"data.id": "even"}, "stand more than once"),
    ],
)
def test_bad_input_is_one_sentence(spec_file: Path, tmp_path: Path, change: dict[str, str], said: str) -> None:
    options = [part for key, value in change.items() for part in ("--set", f"{key}={value}")]
    code, out, err = command("run", spec_file, *options)
    assert code == 1
    assert said in err
    assert "Traceback" not in err
    assert not out
    assert not (tmp_path / "run" / "identity.json").exists()


def test_questions_that_cannot_be_answered(spec_file: Path, tmp_path: Path) -> None:
    command("run", spec_file)
    run = tmp_path / "run"
    for arguments, said in [
        (("query", run, "SELECT nothing FROM examples"), "The query failed"),
        (("query", run, "SELECT 1", "--format", "xml"), "expected table, json, csv or parquet"),
        (("job", "rank", run, "--label", "odd"), "no label 'odd'"),
        (("job", "rank", run, "--threshold", "7"), "less than or equal to 1"),
        (("status", tmp_path / "absent"), "is not a run"),
        (("run", tmp_path / "absent.yaml"), "no spec file"),
    ]:
        code, _, err = command(*arguments)
        assert code == 1
        assert said in err
        assert "Traceback" not in err


def test_a_plan_that_does_not_fit_is_warned_of() -> None:
    fits = {"left": 5, "free": 10, "memory": 5, "available": 10, "total": 5, "keeps_tokens": True}
    assert not _warnings(**fits)
    assert "will not fit" in _warnings(**fits | {"left": 11})[0]
    assert "out of memory" in _warnings(**fits | {"memory": 11})[0]
    assert "Every token" in _warnings(**fits | {"total": 2**40})[0]
