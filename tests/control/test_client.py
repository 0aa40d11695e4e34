"""The asking side against a supervisor that goes away in the middle."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from engine.control import ask
from engine.control.client import HungUp, NotRunning


@pytest.mark.parametrize("unread", [False, True], ids=["it has read the question", "the question is reset"])
def test_who_hangs_up_before_the_answer_is_named(tmp_path: Path, unread: bool) -> None:
    """A supervisor that becomes another program closes its connections: read or not, that is no fault of the asker's."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "s"))
        listening.listen(1)

        def hang_up() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 if unread else 65536)

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(HungUp):
            ask(str(tmp_path / "s"), "status")
        thread.join(10)


def test_nobody_there_is_told_from_that(tmp_path: Path) -> None:
    with pytest.raises(NotRunning) as raised:
        ask(str(tmp_path / "s"), "status")
    assert not isinstance(raised.value, HungUp)
