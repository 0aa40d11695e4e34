"""A dead server's spool, attached by one line: its mail leaves through ours, once, whatever is killed meanwhile."""

from __future__ import annotations

import smtplib
from pathlib import Path

import pytest

from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

MESSAGES = 300
ROUTE = """
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1h
    max-smtp-out 3
</domain>
"""
ATTACHED = """
<spool @dir@/spool>
</spool>
<spool {other}>
    deliver-only yes
</spool>
"""


@pytest.fixture
def dead(make_engine: MakeEngine) -> Path:
    """The spool of an engine that was killed with mail in it."""
    with Sink("refuse-connection") as nobody:
        running = make_engine(ROUTE.format(port=nobody.port), name="dead")
        with smtplib.SMTP("127.0.0.1", running.port, timeout=20) as client:
            for number in range(MESSAGES):
                client.sendmail("a@b.example", [f"{number}@one.example", f"{number}@two.example"], f"Subject: {number}\r\n\r\nbody\r\n")
        running.kill9_all()
        return running.directory / "spool"


def delivered(running: Engine) -> list[str]:
    return sorted(record["rcpt"] for record in running.records("d"))


def wanted() -> list[str]:
    return sorted(f"{number}@{domain}.example" for number in range(MESSAGES) for domain in ("one", "two"))


def test_its_mail_leaves_once_through_kills(make_engine: MakeEngine, dead: Path) -> None:
    with Sink() as sink:
        running = make_engine(ATTACHED.format(other=dead) + ROUTE.format(port=sink.port), name="heir")
        for role in ("mover", "spool", "mover", "mover"):
            left = 2 * MESSAGES - len(running.records("d"))
            eventually(lambda left=left: not left or 2 * MESSAGES - len(running.records("d")) < left, "more mail leaves")  # type: ignore[misc]
            eventually(lambda role=role: any(name.startswith(role) for name in running.pids()), f"{role} lives")  # type: ignore[misc]
            running.kill9(role)
        eventually(lambda: len(set(delivered(running))) == 2 * MESSAGES, "all mail of the dead server's leaves", 60)
        eventually(lambda: f"{dead} is empty" in running.log(), "the mover says that nothing is left")
        assert running.stop() == 0
        assert delivered(running) == wanted()
        assert running.run("spool", "check").returncode == 0
        assert list((dead / "bodies").iterdir()) == []
    with Sink() as sink:  # and it could be an engine's own again
        again = make_engine(ROUTE.format(port=sink.port), name="dead")
        with smtplib.SMTP("127.0.0.1", again.port, timeout=20) as client:
            client.sendmail("a@b.example", ["new@one.example"], "Subject: new\r\n\r\n")
        eventually(lambda: len(sink.messages) == 1, "its own new mail, and nothing else")


def test_one_in_use_is_refused(make_engine: MakeEngine) -> None:
    living = make_engine(name="living")
    with pytest.raises(Exception, match="already running on the spool"):
        make_engine(ATTACHED.format(other=living.directory / "spool"), name="heir")
    assert living.alive()


def test_one_that_is_not_there_is_refused(make_engine: MakeEngine, engine_dir: Path) -> None:
    with pytest.raises(Exception, match="there is no such directory"):
        make_engine(ATTACHED.format(other=engine_dir / "nowhere"), name="heir")
