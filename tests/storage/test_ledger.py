from pathlib import Path

import pytest

from actlake.errors import RunError, StorageError
from actlake.storage import faults
from actlake.storage.files import aligned_buffer, replace, write_in_place
from actlake.storage.ledger import Ledger, Record
from actlake.storage.lock import holder, locked

RECORD = Record(3, 0, 2, 9, 11, {"a.zarr/x/c/0/3/0": (100, 0xDEADBEEF)}, {"a.zarr/x": 1}, 0.5)


def test_a_record_comes_back_as_it_was(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit(RECORD)
    assert ledger.records() == {3: RECORD}


@pytest.mark.parametrize("damage", [lambda d: d[: len(d) // 2], lambda d: d.replace(b"100", b"101"), lambda d: b""])
def test_a_torn_record_is_not_there_and_is_named(tmp_path: Path, damage: object) -> None:
    ledger = Ledger(tmp_path)
    ledger.commit(RECORD)
    path = ledger.path(3)
    path.write_bytes(damage(path.read_bytes()))  # type: ignore[operator]
    records, torn = ledger.read()
    assert not records
    assert torn == {3: path}


def test_leftovers_of_a_crash_are_no_records(tmp_path: Path) -> None:
    (tmp_path / "p0000001-r000.json.partial").write_bytes(b"half")
    ledger = Ledger(tmp_path)
    assert not ledger.records()
    ledger.clean()
    assert not list(tmp_path.iterdir())


def test_one_process_holds_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert holder(path) is None
    with locked(path, "try"):
        assert "process" in (holder(path) or "")
        with pytest.raises(RunError, match="being written by process"), locked(path, "try"):
            pass
    assert holder(path) is None
    with locked(path, "try"):
        pass


@pytest.mark.parametrize(("name", "said"), [("enospc", "No space left"), ("eio", "Input/output error")])
def test_write_errors_are_sentences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: str) -> None:
    monkeypatch.setattr(faults, "_passed", type(faults._passed)())
    monkeypatch.setenv("ACTLAKE_FAULT", f"{name}:2")
    write_in_place(tmp_path / "a", b"1234", 4)
    with pytest.raises(StorageError, match=said):
        replace(tmp_path / "b", b"5678")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("size", [1, 4096, 10_000, 3 << 20])
def test_aligned_memory_is_written_byte_for_byte(tmp_path: Path, size: int) -> None:
    buffer = aligned_buffer(size)
    expected = bytes(i * 31 % 251 for i in range(1000)) * (size // 1000 + 1)
    buffer[:size] = expected[:size]
    write_in_place(tmp_path / "deep" / "file", buffer, size)
    assert (tmp_path / "deep" / "file").read_bytes() == expected[:size]
