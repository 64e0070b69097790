from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from actlake.errors import SpecError
from actlake.pipeline.spec import RankJob, Section, Spec, load_spec

BASE: dict[str, Any] = {"model": {"path": "m"}, "data": {"path": "d.jsonl", "labels": ["a"]}, "store": {"path": "r"}}


def changed(**sections: Any) -> dict[str, Any]:
    return BASE | {
        name: (BASE.get(name, {}) | value if isinstance(value, dict) else value) for name, value in sections.items()
    }


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (changed(model={"dtyp": "float32"}), r"unknown key 'model.dtyp' \(did you mean dtype\?\)"),
        (changed(capture={"sites": ["mlp_acts"]}), r"'mlp_acts' is not a site \(did you mean mlp_act\?\)"),
        (changed(capture={"sites": [{"r": "model.layers.{layer}.gate"}]}), "not a module path"),
        (changed(capture={"sites": ["mlp_act", "mlp_act"]}), "no site twice"),
        (changed(capture={"layers": [3, 3]}), "different block numbers"),
        (changed(capture={"tokens": "none"}), "stores nothing"),
        (changed(capture={"tokens": "landmarks"}), "needs data.landmarks"),
        (changed(capture={"pool": ["max"], "pool_from": "x"}), "not among data.landmarks"),
        (changed(capture={"pool_skip_first": 2}), "need pool"),
        (changed(store={"partition_bytes": "9 parsecs"}), "is not a size"),
        (
            changed(capture={"pool": ["max"]}, jobs=[{"rank": {"labels": ["b"]}}]),
            "label 'b', which is not among data.labels",
        ),
        (changed(capture={"pool": ["max"]}, data={"labels": []}, jobs=["rank"]), "rank needs labels"),
        (changed(capture={"pool": ["mean"]}, jobs=["rank"]), "rank needs the pooled max: add it"),
        (changed(capture={"pool": ["max"]}, jobs=["rank", {"rank": {"labels": ["a"]}}]), "each job once"),
        (changed(capture={"sites": [{"tokens": "model.norm:output"}]}), "'tokens' cannot name a site"),
        (changed(jobs=[{"rnk": {}}]), r"unknown key 'jobs.0.rnk' \(did you mean rank\?\)"),
        (changed(jobs=[{"rank": {}, "median": {}}]), "one job per entry"),
        ({"model": {"path": "m"}, "store": {"path": "r"}}, "data is missing"),
    ],
)
def test_what_does_not_fit_is_a_sentence_that_names_the_key(spec: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        load_spec(spec)


def test_overrides_are_yaml_and_do_not_change_the_dict() -> None:
    spec = load_spec(BASE, ["capture.layers=[2, 0]", "store.partition_bytes=1 MiB", "model.dtype=bfloat16"])
    assert spec.capture.layers == (0, 2)
    assert spec.store.partition_bytes == 2**20
    assert spec.model.dtype == "bfloat16"
    assert BASE["model"] == {"path": "m"}
    ranked = changed(capture={"pool": ["max"]}, jobs=[{"rank": {}}])
    assert load_spec(ranked, ["jobs.0.rank.threshold=0.5"]).jobs[0].job == RankJob(threshold=0.5)
    for nowhere in ("model.path.x=1", "jobs.first.rank=1", "jobs.7.rank.pool=max"):
        with pytest.raises(SpecError, match="no such place"):
            load_spec(ranked, [nowhere])
    with pytest.raises(SpecError, match="expected KEY=VALUE"):
        load_spec(BASE, ["capture.layers"])


def test_specs_are_frozen() -> None:
    with pytest.raises(ValidationError):
        load_spec(BASE).model.path = "other"  # type: ignore[misc]


def test_a_data_path_is_relative_to_the_spec_file(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("model: {path: m}\ndata: {path: d.jsonl}\nstore: {path: r}\n")
    assert load_spec(tmp_path / "s.yaml").data.path == str(tmp_path / "d.jsonl")


@pytest.mark.parametrize("text", ["a: [", "just words", "\xff\xfe"])
def test_files_that_are_no_spec(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_bytes(text.encode("latin-1"))
    with pytest.raises(SpecError, match=r"s\.yaml"):
        load_spec(tmp_path / "s.yaml")
    with pytest.raises(SpecError, match="no spec file"):
        load_spec(tmp_path / "absent.yaml")


def test_sites_may_be_a_mapping() -> None:
    spec = load_spec(changed(capture={"sites": {"mlp_act": None, "router": "model.layers.{layer}.mlp.gate:output"}}))
    assert spec.capture.site_paths == {"mlp_act": None, "router": "model.layers.{layer}.mlp.gate:output"}


def test_every_field_has_a_line_of_help() -> None:
    def sections(model: type[Section]) -> None:
        for name, field in model.model_fields.items():
            assert field.description, f"{model.__name__}.{name}"
            if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
                sections(field.annotation)

    sections(Spec)
    assert "description" in str(Spec.model_json_schema())
