"""A log is for whom the configuration says, whoever of the processes is first to make it."""

from __future__ import annotations

import smtplib

from tests.system.conftest import MakeEngine
from tests.system.engine import eventually

CONF = """
log-file @dir@/log
log-file-world-readable yes
<domain *>
    smtp-hosts [127.0.0.1]:1
</domain>
"""


def test_a_log_that_was_renamed_is_made_again_readable_for_all(make_engine: MakeEngine) -> None:
    engine = make_engine(CONF)
    log = engine.directory / "log"
    assert log.stat().st_mode & 0o777 == 0o644
    for number in range(3):
        log.rename(log.with_name(f"gone.{number}"))

        def made_again() -> bool:
            with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
                client.sendmail("a@b.example", ["c@d.example"], "Subject: hello\r\n\r\n")
            return log.exists() and log.stat().st_size > 0

        eventually(made_again, "some process writes to a new log")
        assert log.stat().st_mode & 0o777 == 0o644
    assert engine.stop() == 0
