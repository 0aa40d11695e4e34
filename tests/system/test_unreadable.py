"""Root may keep the engine's own files to itself, as a clone in /root does: workers import everything before they become somebody else."""

from __future__ import annotations

import os
import shutil
import smtplib
import sys
from pathlib import Path

import pytest

import engine
from tests.sinks import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
<domain dest.example>
    smtp-hosts [127.0.0.1]:{port}
</domain>
<domain origin.example>
    smtp-hosts [127.0.0.1]:{port}
</domain>
"""


@pytest.fixture
def private_site(tmp_path: Path) -> Path:
    """A copy of the engine and of what it needs in a directory that only its owner may enter."""
    site = tmp_path / "site"
    site.mkdir(mode=0o700)
    shutil.copytree(Path(engine.__file__).parent, site / "engine", ignore=shutil.ignore_patterns("__pycache__"))
    import lmdb
    import msgspec
    import setproctitle
    import uvloop

    for package in (lmdb, msgspec, setproctitle, uvloop):
        shutil.copytree(Path(str(package.__file__)).parent, site / package.__name__, ignore=shutil.ignore_patterns("__pycache__"))
    return site


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's workers become another user")
def test_mail_goes_through_files_that_workers_cannot_read(make_engine: MakeEngine, private_site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Engine, "_environment", lambda self: {**os.environ, "PYTHONPATH": str(private_site)})
    with Sink("rcpt-5xx", addresses=["bad@dest.example"]) as sink:
        running = make_engine(CONF.format(port=sink.port))
        with smtplib.SMTP("127.0.0.1", running.port, timeout=20) as client:
            client.sendmail("me@origin.example", ["good@dest.example", "bad@dest.example"], "Subject: x\r\n\r\nbody\r\n")
        eventually(lambda: len(running.records("d")) == 2 and len(running.records("b")) == 1, "delivery, bounce and DSN")
        assert str(private_site) not in sys.path
        assert "Traceback" not in running.said()
        assert "crashed" not in running.log()
