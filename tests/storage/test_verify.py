"""Damage of every kind is named, and repaired."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import actlake
from actlake.storage.ledger import EXTRACT, Ledger
from actlake.storage.verify import verify
from tests.conftest import shard_bytes


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


DAMAGE: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "a flipped byte": (
        "activations.zarr/mlp_act/c/0/1/0",
        flip,
        "extract partition 1: activations.zarr/mlp_act/c/0/1/0 has checksum",
    ),
    "a truncated shard": (
        "pooled.zarr/max/attn_out/c/0/0/0",
        truncate,
        "extract partition 0: pooled.zarr/max/attn_out/c/0/0/0 has",
    ),
    "a deleted shard": (
        "activations.zarr/tokens/c/2",
        Path.unlink,
        "extract partition 2: activations.zarr/tokens/c/2 is missing",
    ),
    "a torn record": (
        "ledger/extract/p0000001-r000.json",
        tear,
        "extract partition 1: its record p0000001-r000.json is torn",
    ),
    "a deleted record": ("ledger/extract/p0000000-r000.json", Path.unlink, "extract partition 0: is not done"),
}


def actlake_verify(run: Path, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", "actlake.cli", "verify", str(run), *options], capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout + done.stderr


def test_each_damage_is_named_and_all_are_repaired(make_spec: Callable[..., dict[str, Any]]) -> None:
    run = actlake.run(make_spec(pool=["max"], partition_bytes="16 KiB"))
    whole = shard_bytes(run.path)
    assert not list(verify(run, deep=True))
    for key, harm, said in DAMAGE.values():
        path = run.path / key
        before = path.read_bytes()
        harm(path)
        assert str(next(verify(run, deep=True))).startswith(said)
        path.write_bytes(before)
    assert not list(verify(run, deep=True))

    for key, harm, _ in DAMAGE.values():
        harm(run.path / key)
    code, text = actlake_verify(run.path, "--deep")
    assert code == 1
    # A partition whose record is bad is named for that, not for its shards.
    assert all(DAMAGE[name][2] in text for name in ("a deleted shard", "a torn record", "a deleted record"))
    good = {p: r for p, r in Ledger(run.paths.ledger(EXTRACT)).records().items() if p not in (0, 1, 2)}
    code, text = actlake_verify(run.path, "--deep", "--repair")
    assert code == 0, text
    assert "Repaired 3 partitions" in text
    assert shard_bytes(run.path) == whole
    assert actlake_verify(run.path, "--deep")[0] == 0
    after = Ledger(run.paths.ledger(EXTRACT)).records()
    assert all(after[p] == record for p, record in good.items())  # only the bad ones were done again


def test_a_quick_verify_does_not_read_and_a_deep_one_does(make_spec: Callable[..., dict[str, Any]]) -> None:
    run = actlake.run(make_spec())
    flip(next(run.path.glob("activations.zarr/mlp_act/c/0/*/0")))
    assert not list(verify(run))
    assert len(list(verify(run, deep=True))) == 1


DESCRIPTION = ("examples.parquet", "activations.zarr/attn_out/zarr.json", "pooled.zarr/zarr.json")


def test_what_describes_the_run_is_verified_and_restored(make_spec: Callable[..., dict[str, Any]]) -> None:
    run = actlake.run(make_spec(pool=["max"]))
    before = {name: (run.path / name).read_bytes() for name in DESCRIPTION}
    whole, values = shard_bytes(run.path), run.activations("attn_out").values
    (run.path / DESCRIPTION[0]).write_bytes(b"PAR1")
    (run.path / DESCRIPTION[1]).unlink()
    flip(run.path / DESCRIPTION[2])
    code, text = actlake_verify(run.path)
    assert code == 1
    assert all(f"description: {name}" in text for name in DESCRIPTION)
    code, text = actlake_verify(run.path, "--repair")
    assert code == 0, text
    assert {name: (run.path / name).read_bytes() for name in DESCRIPTION} == before
    assert shard_bytes(run.path) == whole
    np.testing.assert_array_equal(actlake.open(run.path).activations("attn_out").values, values)


def test_a_lost_identity_loses_nothing(make_spec: Callable[..., dict[str, Any]]) -> None:
    spec = make_spec()
    run = actlake.run(spec)
    whole, identity = shard_bytes(run.path), run.paths.identity.read_bytes()
    run.paths.identity.unlink()
    with pytest.raises(actlake.ActlakeError, match="committed partitions but no identity"):
        actlake.run(spec)
    run.paths.identity.write_bytes(identity[:100])
    with pytest.raises(actlake.ActlakeError, match="is damaged"):
        actlake.run(spec)
    run.paths.identity.write_bytes(identity)
    assert shard_bytes(actlake.run(spec).path) == whole


def test_damaged_values_are_not_read(make_spec: Callable[..., dict[str, Any]]) -> None:
    run = actlake.run(make_spec())
    path = next(run.path.glob("activations.zarr/mlp_act/c/0/*/0"))
    data = bytearray(path.read_bytes())
    data[100] ^= 1  # in the first chunk
    path.write_bytes(data)
    with pytest.raises(actlake.ActlakeError, match="is damaged"):
        run.activations("mlp_act").load()


def test_what_is_not_a_run(tmp_path: Path) -> None:
    code, text = actlake_verify(tmp_path)
    assert code == 1
    assert "is not a run: it has no identity.json" in text
    with pytest.raises(actlake.ActlakeError):
        actlake.open(tmp_path)
