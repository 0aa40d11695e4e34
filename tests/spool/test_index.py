"""The index appears whole, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.spool import format, index


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return format.claim(tmp_path / "spool")


def test_a_new_index_takes_its_place_when_it_is_whole(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(old: Path, new: Path) -> None:
        assert new == root / format.INDEX / format.DATA
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            index.open_for_writing(root)
    assert not (root / format.INDEX / format.DATA).exists()
    with index.open_copy(root / format.DRAFT) as env:  # what was about to be renamed
        assert env.stat()["entries"] == len(format.TABLES)
    (root / format.DRAFT / format.DATA).write_bytes(bytes(8192))  # as a power cut may leave it
    env, tables = index.open_for_writing(root)
    with env, env.begin() as txn:
        assert txn.get(format.VERSION, db=tables.meta) == format.U32.pack(format.FORMAT_VERSION)
    assert not (root / format.DRAFT).exists()


def test_its_name_is_synced_at_every_start(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str | Path] = []
    monkeypatch.setattr(format, "sync_directory", synced.append)
    for _ in range(2):
        index.open_for_writing(root)[0].close()
    assert synced == [root / format.INDEX] * 2
