"""The facts about the machine that the check of a configuration gets."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from engine.config.surroundings import FileFact
from engine.supervisor import surroundings


def test_files_are_looked_at_and_not_opened(tmp_path: Path) -> None:
    key, link, locked = tmp_path / "key", tmp_path / "link", tmp_path / "locked"
    key.touch(mode=0o600)
    key.chmod(0o644)
    link.symlink_to(key)
    locked.touch()
    locked.chmod(0)
    paths = {str(key): FileFact(0o644), str(link): FileFact(0o644), str(locked): FileFact(0)}
    paths |= {str(tmp_path / "none"): FileFact(missing=True), str(key / "below"): FileFact(missing=True)}
    assert surroundings.look(paths).files == paths


@pytest.mark.parametrize("name", ["x" * 300, "nul\0inside"])
def test_what_cannot_be_looked_at_says_why(tmp_path: Path, name: str) -> None:
    path = str(tmp_path / name)
    fact = surroundings.look([path]).files[path]
    assert (fact.missing, bool(fact.problem)) == (False, True)


def test_the_addresses_of_this_machine() -> None:
    addresses = surroundings.look([]).addresses
    assert addresses is not None
    assert ipaddress.ip_address("127.0.0.1") in addresses
    assert ipaddress.ip_address("192.0.2.77") not in addresses


def test_addresses_that_cannot_be_found_out_are_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> list[ipaddress.IPv4Address]:
        raise FileNotFoundError(2, "no /proc")

    monkeypatch.setattr(surroundings, "local_addresses", nothing)
    assert surroundings.look([]).addresses is None
