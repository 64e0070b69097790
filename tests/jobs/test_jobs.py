"""Jobs over tiny runs against NumPy and scikit-learn, and the ranking of a real model against an independent one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

import actlake
from actlake.errors import ActlakeError
from actlake.jobs.pool import ledger_of
from actlake.jobs.run import run_job
from actlake.kernels.rounding import round_significant
from actlake.pipeline.spec import MaxJob, MedianJob, RankJob
from actlake.storage.verify import verify
from tests.conftest import SHARED_DATA, SMOLLM, TEXTS, records, write_jsonl

Make = Callable[..., dict[str, Any]]


def quiet(_: str) -> None:
    pass


def test_rank_equals_scikit_learn_on_the_stored_values(make_spec: Make, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", [r | {"kind": "abc"[i % 3]} for i, r in enumerate(records())])
    spec = make_spec(data=data, pool=["max", "min"]) | {"jobs": [{"rank": {"labels": ["even", "kind"]}}]}
    spec["data"]["labels"] = ["even", "kind"]
    run = actlake.run(spec)
    table = run.table("rank").to_pandas()
    assert list(table.columns[:7]) == ["site", "layer", "neuron", "label", "ap", "n_positive", "n_examples"]
    assert table["ap"].is_monotonic_decreasing
    assert len(table) == 3 * (88 + 32) * 4
    assert set(table["significant_bits"]) == {12}
    truths = {"even": [1 - i % 2 for i in range(len(TEXTS))]}
    truths |= {f"kind={k}": [int("abc"[i % 3] == k) for i in range(len(TEXTS))] for k in "abc"}
    pooled = {site: run.pooled(site).values for site in run.sites}
    for row in table.sample(300, random_state=0).itertuples():
        scores = round_significant(pooled[row.site][row.layer, :, row.neuron], 12)
        assert row.ap == pytest.approx(average_precision_score(truths[row.label], scores), abs=1e-12)
        assert row.n_positive == sum(truths[row.label])
    run_job(run, "rank", RankJob(sites=("attn_out",), labels=("even",), significant_bits=24, pool="min"), quiet)
    again = run.table("rank").to_pandas()
    assert set(again["site"]) == {"attn_out"}
    lowest = run.pooled("attn_out", "min").values
    for row in again.itertuples():
        assert row.ap == pytest.approx(average_precision_score(truths["even"], lowest[row.layer, :, row.neuron]), abs=1e-12)


def test_median_by_class_is_numpys(make_spec: Make) -> None:
    run = actlake.run(make_spec(pool=["max"]) | {"jobs": ["median"]})
    even = np.array([1 - i % 2 for i in range(len(TEXTS))])
    values = run.pooled("mlp_act").values
    rows = [r for r in run.table("median").to_pylist() if r["site"] == "mlp_act"]
    assert len(rows) == 3 * 88 * 2
    for row in rows:
        expected = np.median(values[row["layer"], even == int(row["class"]), row["neuron"]].astype(np.float64))
        assert row["median"] == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_max_of_stored_tokens_equals_the_pool_of_the_forward_pass(make_spec: Make, dtype: str) -> None:
    stored = actlake.run(make_spec(dtype=dtype, partition_bytes="16 KiB"))
    pooled = actlake.run(make_spec(dtype=dtype, partition_bytes="16 KiB", pool=["max"], store="pooled"))
    assert "pooled" in run_job(stored, "max", MaxJob(), quiet)
    for site in stored.sites:
        np.testing.assert_allclose(
            stored.pooled(site).values,
            pooled.pooled(site).values,
            rtol=2e-2 if dtype == "bfloat16" else 2e-5,
            atol=1e-5,
        )
        whole = stored.activations(site)
        for i in range(len(TEXTS)):
            np.testing.assert_array_equal(
                stored.pooled(site).values[:, i], whole.values[:, whole["example"].values == f"t{i}"].max(1)
            )
    assert run_job(stored, "max", MaxJob(), quiet)["pooled"]["mlp_act"] == "0 partitions pooled"
    assert not list(verify(stored, deep=True))


def test_a_half_done_max_is_not_read(make_spec: Make) -> None:
    run = actlake.run(make_spec(partition_bytes="16 KiB"))
    run_job(run, "max", MaxJob(), quiet)
    ledger = ledger_of(run, "mlp_act")
    ledger.forget(1)
    with pytest.raises(ActlakeError, match=r"is there for \d+ of"):
        run_job(run, "rank", RankJob(), quiet)
    run_job(run, "max", MaxJob(), quiet)
    run_job(run, "rank", RankJob(), quiet)
    assert not np.isnan(run.table("rank")["ap"].to_numpy()).any()


def test_results_are_kept_until_what_they_are_made_from_changes(make_spec: Make) -> None:
    run = actlake.run(make_spec(pool=["max"]) | {"jobs": ["rank"]})
    path = run.paths.table("rank")
    before = path.stat().st_mtime_ns
    run_job(run, "rank", RankJob(), quiet)
    assert path.stat().st_mtime_ns == before
    run_job(run, "rank", RankJob(significant_bits=10), quiet)
    assert path.stat().st_mtime_ns > before


@pytest.mark.parametrize(
    ("job", "said"),
    [
        (RankJob(labels=("nope",)), "no label 'nope'; its labels are even"),
        (RankJob(sites=("resid_pre",)), "no site 'resid_pre'"),
        (RankJob(pool="mean"), "no pooled mean of mlp_act"),
    ],
)
def test_jobs_refuse_in_sentences(make_spec: Make, job: RankJob, said: str) -> None:
    run = actlake.run(make_spec(pool=["max"]))
    with pytest.raises(ActlakeError, match=said):
        run_job(run, "rank", job, quiet)
    run.paths.ledger("extract").joinpath("p0000000-r000.json").unlink()
    with pytest.raises(ActlakeError, match="is not complete"):
        run_job(actlake.open(run.path), "median", MedianJob(), quiet)


def test_a_label_of_one_class_is_refused_before_anything_is_computed(make_spec: Make, tmp_path: Path) -> None:
    data = write_jsonl(tmp_path / "d.jsonl", [r | {"even": 1} for r in records()])
    with pytest.raises(ActlakeError, match="'even' has one class"):
        actlake.run(make_spec(data=data, pool=["max"]) | {"jobs": ["rank"]})
    assert not (tmp_path / "run").exists()


def multiarith_pairs(count: int) -> list[dict[str, Any]]:
    path = SHARED_DATA / "multiarith_cot_texts.jsonl"
    if not path.exists():
        pytest.skip(f"needs {path.name}: set ACTLAKE_SHARED_DATA to its folder")
    found = []
    for i, line in enumerate(path.read_text(encoding="utf-8").splitlines()[:count]):
        r = json.loads(line)
        question = f"Q: {r['question']}\nA:"
        found.append({"id": f"{i}+", "text": f"{question} {r['prompt']} {r['rationale']} {r['answer']}", "cot": 1})
        found.append({"id": f"{i}-", "text": f"{question} The numeric Answer (Arabic number) is {r['gold']}.", "cot": 0})
    return found


@pytest.mark.timeout(600)
def test_the_ranking_of_a_real_model_equals_an_independent_one(tmp_path: Path) -> None:
    """64 + 64 MultiArith texts through SmolLM2: plain transformers, one text at a time, and scikit-learn."""
    import torch

    from actlake.pipeline.model import load_config, load_model, load_tokenizer
    from actlake.pipeline.source import locate
    from actlake.pipeline.spec import ModelSpec

    pairs = multiarith_pairs(64)
    spec = {
        "model": {"path": SMOLLM, "dtype": "float32"},
        "data": {"path": str(write_jsonl(tmp_path / "d.jsonl", pairs)), "labels": ["cot"]},
        "capture": {"sites": ["mlp_act", "attn_out"], "tokens": "none", "pool": ["max"]},
        "store": {"path": str(tmp_path / "run"), "partition_bytes": "16 MiB"},
        "jobs": [{"rank": {"significant_bits": 24}}],
    }
    run = actlake.run(spec)

    source = locate(ModelSpec(path=SMOLLM))
    model = load_model(source, load_config(source), torch.float32, torch.device("cpu"))
    tokenizer = load_tokenizer(source)
    kept: dict[tuple[str, int], torch.Tensor] = {}
    for i, block in enumerate(model.model.layers):  # type: ignore[union-attr,arg-type]
        block.mlp.down_proj.register_forward_hook(lambda _, args, __, i=i: kept.update({("mlp_act", i): args[0][0].amax(0)}))
        block.self_attn.o_proj.register_forward_hook(lambda _, __, out, i=i: kept.update({("attn_out", i): out[0].amax(0)}))
    truth: dict[str, list[np.ndarray]] = {"mlp_act": [], "attn_out": []}
    for pair in pairs:
        with torch.inference_mode():
            model(**tokenizer(pair["text"], return_tensors="pt"))
        for site in truth:
            truth[site].append(np.stack([kept[site, i].numpy() for i in range(30)]))
    labels = [pair["cot"] for pair in pairs]
    ap = {(r["site"], r["layer"], r["neuron"]): r["ap"] for r in run.table("rank").to_pylist()}
    picks = np.random.default_rng(0)
    for site, found in truth.items():
        reference, mine = np.stack(found, axis=1), run.pooled(site).values
        assert np.all(np.abs(mine - reference) <= 2e-5 * (np.abs(reference) + 1))
        for layer, neuron in zip(picks.integers(0, 30, 1500), picks.integers(0, mine.shape[2], 1500), strict=True):
            expected = average_precision_score(labels, mine[layer, :, neuron])
            assert ap[site, layer, neuron] == pytest.approx(expected, abs=1e-12)
