"""A run's values do not depend on how it is carried out, and nothing is lost however it is interrupted."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

import actlake
from actlake.errors import ActlakeError, RunError
from actlake.pipeline.plan import make_plan
from actlake.pipeline.spec import load_spec
from actlake.pipeline.tokens import Tokens
from actlake.storage.ledger import EXTRACT, Ledger
from actlake.storage.verify import verify
from tests.conftest import TEXTS, records, shard_bytes, write_jsonl

Make = Callable[..., dict[str, Any]]


def by_text(run: actlake.Run, site: str) -> dict[str, np.ndarray]:
    stored = run.activations(site)
    values, owners = stored.values, stored["example"].values
    return {name: values[:, owners == name] for name in set(owners)}


VARIANTS: list[dict[str, Any]] = [
    {"batch_tokens": 1},
    {"batch_tokens": 64, "padding": "left"},
    {"partition_bytes": "4 KiB"},
    {"partition_bytes": "10 MiB"},
]


@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_padding_and_partitions_change_no_value(make_spec: Make, variant: dict[str, Any]) -> None:
    one, other = actlake.run(make_spec(pool=["max"])), actlake.run(make_spec(store="other", pool=["max"], **variant))
    for site in one.sites:
        first, second = by_text(one, site), by_text(other, site)
        assert first.keys() == second.keys()
        for name, values in first.items():
            np.testing.assert_allclose(second[name], values, rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(other.pooled(site).values, one.pooled(site).values, rtol=2e-5, atol=2e-5)


def test_the_order_of_texts_changes_no_value(make_spec: Make, tmp_path: Path) -> None:
    shuffled = write_jsonl(tmp_path / "shuffled.jsonl", records()[::-1])
    one, other = actlake.run(make_spec()), actlake.run(make_spec(store="other", data=shuffled))
    assert other.examples["id"].to_pylist() == one.examples["id"].to_pylist()[::-1]
    first, second = by_text(one, "mlp_act"), by_text(other, "mlp_act")
    for name, values in first.items():
        np.testing.assert_allclose(second[name], values, rtol=2e-5, atol=2e-5)


def test_which_tokens_are_kept_and_pooled(make_spec: Make) -> None:
    whole = actlake.run(make_spec(pool=["max", "mean", "min"], landmarks=("end",)))
    some = actlake.run(
        make_spec(store="some", tokens=["last", "landmarks"], landmarks=("end",), pool=["max"], pool_from="end")
    )
    none = actlake.run(make_spec(store="none", tokens="none", pool=["min"]))
    all_values, kept = by_text(whole, "mlp_act"), by_text(some, "mlp_act")
    places = some.activations("mlp_act")
    marks = {r["id"]: r["landmarks"][0] for r in some.examples.to_pylist()}
    for i, (name, values) in enumerate(sorted(all_values.items(), key=lambda item: int(item[0][1:]))):
        tokens = places["token"].values[places["example"].values == name]
        start, stop = marks[name]["token_start"], marks[name]["token_end"]
        assert set(tokens) == {values.shape[1] - 1, *range(start, stop)}
        np.testing.assert_allclose(kept[name], values[:, tokens], rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(some.pooled("mlp_act").values[:, i], values[:, start:].max(1), rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(whole.pooled("mlp_act", "mean").values[:, i], values.mean(1), rtol=2e-5, atol=2e-5)
        np.testing.assert_allclose(none.pooled("mlp_act", "min").values[:, i], values.min(1), rtol=2e-5, atol=2e-5)
    with pytest.raises(ActlakeError, match="kept no tokens"):
        none.activations("mlp_act")


def test_every_token_of_the_tokenizer_is_kept_and_no_pad(make_spec: Make, tokenizer_files: Path) -> None:
    from transformers import AutoTokenizer

    run = actlake.run(make_spec())
    stored = run.activations("mlp_act")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_files)
    for i, text in enumerate(TEXTS):
        mine = stored["example"].values == f"t{i}"
        assert stored["token_id"].values[mine].tolist() == tokenizer(text)["input_ids"]
        assert stored["token"].values[mine].tolist() == list(range(mine.sum()))


def test_plans_give_every_example_rows_of_its_own() -> None:
    r = np.random.default_rng(0)
    lengths = r.integers(1, 400, 500)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.zeros(offsets[-1], dtype=np.int32)
    tokens = Tokens(ids, offsets, ids, offsets, np.zeros(500, dtype=np.int32), [{}] * 500)
    spec = load_spec(
        {
            "model": {"path": "m"},
            "data": {"path": "d"},
            "store": {"path": "r", "partition_bytes": "1 MiB"},
            "capture": {"pool": ["max", "mean"]},
        }
    )
    plan = make_plan(spec, tokens, {"mlp_act": 4}, {"mlp_act": 100}, "bfloat16")
    rows = np.concatenate([np.arange(s, s + n) for s, n in zip(plan.row_start, lengths, strict=True)])
    assert len(np.unique(rows)) == lengths.sum()
    assert len(np.unique(plan.pooled_row)) == 500
    band = plan.arrays[0].padded_band
    np.testing.assert_array_equal(plan.row_start // band, plan.partition)
    np.testing.assert_array_equal((plan.row_start + lengths - 1) // band, plan.partition)
    used = np.bincount(plan.partition, lengths * (4 * 100 * 2 + 8) + 4 * 100 * 6)
    assert used.max() <= 2**20
    assert plan.digest() == make_plan(spec, tokens, {"mlp_act": 4}, {"mlp_act": 100}, "bfloat16").digest()


def test_long_texts_are_named_or_cut(make_spec: Make, tmp_path: Path) -> None:
    long = write_jsonl(tmp_path / "long.jsonl", [{"id": "long", "text": "word " * 300, "even": 0}, *records()[:3]])
    spec = make_spec(data=long)
    with pytest.raises(ActlakeError, match=r"1 texts are longer than the 128 tokens.*'long' \(30\d\)"):
        actlake.run(spec)
    ends = {}
    for side in ("left", "right"):
        spec["data"]["truncate"], spec["store"]["path"] = side, str(tmp_path / side)
        run = actlake.run(spec)
        assert run.examples["n_tokens"].to_pylist()[0] == 128
        ends[side] = run.activations("mlp_act")["token_id"].values
    assert len(ends["left"]) == len(ends["right"])


def test_nan_is_counted_and_kept(make_spec: Make, llama: Path, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(llama)
    with torch.no_grad():
        model.model.layers[1].mlp.gate_proj.weight[5] = torch.nan
    broken = tmp_path / "broken"
    model.save_pretrained(broken)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((llama / name).read_bytes())
    run = actlake.run(make_spec(broken, sites=["mlp_act"], pool=["max"], layers=[0, 1]) | {"jobs": ["rank"]})
    counted = sum(r.non_finite.get("activations.zarr/mlp_act", 0) for r in run.records.values())
    assert counted == run.plan["tokens"]  # one neuron of one layer, at every token
    best = run.table("rank").to_pylist()
    assert [(row["layer"], row["neuron"]) for row in best if np.isnan(row["ap"])] == [(1, 5)]
    assert np.isnan(best[-1]["ap"])


# What follows runs the real command in processes of their own.


def start(spec: Path, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "actlake.cli", "run", str(spec)]
    return subprocess.Popen(command, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def carry_out(spec: Path, **environment: str) -> tuple[int, str]:
    process = start(spec, **environment)
    out, err = process.communicate(timeout=120)
    return process.returncode, out + err


@pytest.fixture
def spec_file(make_spec: Make, tmp_path: Path) -> Callable[..., Path]:
    def make(**options: Any) -> Path:
        spec = make_spec(**({"partition_bytes": "4 KiB", "pool": ["max"]} | options))
        path = tmp_path / f"{Path(spec['store']['path']).name}.yaml"
        path.write_text(yaml.safe_dump(spec))
        return path

    return make


@pytest.fixture
def undisturbed(make_spec: Make) -> dict[str, bytes]:
    """The shards of a run that nobody disturbed."""
    run = actlake.run(make_spec(store="undisturbed", pool=["max"], partition_bytes="4 KiB"))
    assert run.partitions >= 8
    return shard_bytes(run.path)


@pytest.mark.parametrize("point", ["after-shard", "before-ledger", "mid-ledger"])
@pytest.mark.parametrize("nth", [1, 3])
def test_crash_points_resume(
    spec_file: Callable[..., Path], undisturbed: dict[str, bytes], tmp_path: Path, point: str, nth: int
) -> None:
    spec = spec_file()
    code, said = carry_out(spec, ACTLAKE_FAULT=f"{point}:{nth}")
    assert code == 137, said
    done = Ledger(tmp_path / "run" / "ledger" / EXTRACT).records()
    assert len(done) == (nth - 1 if point != "after-shard" else 0)
    code, said = carry_out(spec)
    assert code == 0, said
    assert shard_bytes(tmp_path / "run") == undisturbed
    again = Ledger(tmp_path / "run" / "ledger" / EXTRACT).records()
    assert all(again[p] == record for p, record in done.items())  # what was committed was not done again


@pytest.mark.parametrize(("fault", "said"), [("enospc:5", "No space left"), ("eio:9", "Input/output error")])
def test_a_full_or_failing_disk(
    spec_file: Callable[..., Path], undisturbed: dict[str, bytes], tmp_path: Path, fault: str, said: str
) -> None:
    spec = spec_file()
    code, text = carry_out(spec, ACTLAKE_FAULT=fault)
    assert code == 1
    assert said in text
    assert "Traceback" not in text
    assert carry_out(spec)[0] == 0
    assert shard_bytes(tmp_path / "run") == undisturbed


def test_a_disk_that_is_really_full(spec_file: Callable[..., Path], tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        code, text = carry_out(spec_file(store="small/run"))
        assert code == 1
        assert "No space left on device" in text
        assert "Traceback" not in text
        run = actlake.open(small / "run")
        assert not [f for f in verify(run, deep=True) if f.what != "is not done"]
        subprocess.run(["mount", "-o", "remount,size=20m", str(small)], check=True)
        assert carry_out(tmp_path / "run.yaml")[0] == 0
        assert not list(verify(actlake.open(small / "run"), deep=True))
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_sigkill_at_random_moments(spec_file: Callable[..., Path], make_spec: Make, tmp_path: Path) -> None:
    """One process after another is killed while it writes, 20 times; the run then equals an undisturbed one."""
    texts = [f"{text} {i}" for i in range(40) for text in TEXTS]
    many = write_jsonl(tmp_path / "many.jsonl", records(texts))
    spec = spec_file(data=many)
    undisturbed = actlake.run(make_spec(store="undisturbed", data=many, pool=["max"], partition_bytes="4 KiB"))
    ledger = Ledger(tmp_path / "run" / "ledger" / EXTRACT)
    r = random.Random(5)
    for _ in range(20):
        before = ledger.records()
        assert len(before) < undisturbed.partitions, "the run was over before it was killed 20 times: use more texts"
        process = start(spec)
        deadline = time.monotonic() + 60
        while len(list(ledger.folder.glob("*.json"))) == len(before) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(r.random() * 0.1)
        process.kill()
        process.communicate()
        after = ledger.records()
        assert len(after) > len(before)
        assert all(after[p] == record for p, record in before.items())  # nothing is done again or taken back
        written = {int(path.parts[-2]) for path in (tmp_path / "run").glob("*.zarr/**/c/0/*/0")}
        assert len(written - set(after)) <= 1  # at most one partition was begun and must be done twice
    code, said = carry_out(spec)
    assert code == 0, said
    assert shard_bytes(tmp_path / "run") == shard_bytes(undisturbed.path)


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_the_command_that_resumes(
    spec_file: Callable[..., Path], tmp_path: Path, sign: signal.Signals
) -> None:
    many = write_jsonl(tmp_path / "many.jsonl", [{"id": str(i), "text": TEXTS[3], "even": i % 2} for i in range(3000)])
    spec = spec_file(data=many)
    process = start(spec)
    ledger = Ledger(tmp_path / "run" / "ledger" / EXTRACT)
    deadline = time.monotonic() + 60
    while not ledger.records() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(sign)
    began = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert f"Carry on with: actlake run {spec}" in err
    assert "Traceback" not in err
    run = actlake.open(tmp_path / "run")
    assert 0 < len(run.records) < run.partitions
    assert not [f for f in verify(run, deep=True) if f.what != "is not done"]


def test_two_processes_on_one_run(spec_file: Callable[..., Path], undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    spec = spec_file()
    first, second = start(spec), start(spec)
    said = [p.communicate(timeout=120)[1] for p in (first, second)]
    codes = sorted((first.returncode, second.returncode))
    assert codes in ([0, 1], [0, 0]), said
    if codes == [0, 1]:
        assert any("is being written by process" in text for text in said)
    assert shard_bytes(tmp_path / "run") == undisturbed


def test_a_run_of_something_else_is_refused_with_the_difference(make_spec: Make, tmp_path: Path, tiny_model: Any) -> None:
    spec = make_spec()
    actlake.run(spec)
    other_data = write_jsonl(tmp_path / "other.jsonl", records(TEXTS[:-1]))
    for change, said in [
        ({"capture": spec["capture"] | {"layers": [0]}}, r'capture.layers: the run has "all", the spec asks for \[0\]'),
        (
            {"store": spec["store"] | {"partition_bytes": 99}},
            "store.partition_bytes: the run has 65536, the spec asks for 99",
        ),
        ({"data": spec["data"] | {"path": str(other_data)}}, "data.examples: the run has 12, the spec asks for 11"),
        ({"model": spec["model"] | {"path": str(tiny_model("gpt2"))}}, "model.weights: the run has"),
        ({"model": spec["model"] | {"dtype": "bfloat16"}}, 'model.dtype: the run has "float32"'),
    ]:
        with pytest.raises(RunError, match=said):
            actlake.run(spec | change)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(RunError, match=r"not a run's \(thesis.txt\)"):
        actlake.run(make_spec(store="mine"))
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_a_changed_tokenizer_is_refused(make_spec: Make, llama: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    for file in llama.iterdir():
        (model / file.name).write_bytes(file.read_bytes())
    spec = make_spec(model)
    actlake.run(spec)
    settings = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(settings | {"note": "changed"}))
    with pytest.raises(RunError, match="tokenizer: the run has"):
        actlake.run(spec)
