"""Whose a spool is: a shadow's mail never goes to the world, real mail never to the sink, and an empty spool is anybody's."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.errors import StartError
from engine.process import SHADOW_MARK
from engine.spool.shadow import admit


def test_an_empty_spool_is_anybodys(tmp_path: Path) -> None:
    mark = tmp_path / SHADOW_MARK
    admit(tmp_path, 0, shadow=False)
    assert not mark.exists()
    admit(tmp_path, 0, shadow=True)
    assert mark.exists()
    admit(tmp_path, 0, shadow=False)
    assert not mark.exists()


def test_real_mail_is_not_for_the_sink(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"3 recipients wait in it for real delivery.*--state-dir"):
        admit(tmp_path, 3, shadow=True)
    assert not (tmp_path / SHADOW_MARK).exists()
    admit(tmp_path, 3, shadow=False)


def test_a_shadows_mail_is_not_for_the_world(tmp_path: Path) -> None:
    admit(tmp_path, 0, shadow=True)
    admit(tmp_path, 3, shadow=True)  # started again
    with pytest.raises(StartError, match=f"3 recipients wait in it that were meant for the sink.*remove {tmp_path / SHADOW_MARK}"):
        admit(tmp_path, 3, shadow=False)
    assert (tmp_path / SHADOW_MARK).exists()
    (tmp_path / SHADOW_MARK).unlink()  # as the operator was told
    admit(tmp_path, 3, shadow=False)


def test_without_its_mark_no_shadow_starts(tmp_path: Path) -> None:
    (tmp_path / "no-directory").touch()
    with pytest.raises(StartError, match="cannot be written"):
        admit(tmp_path / "no-directory", 0, shadow=True)
