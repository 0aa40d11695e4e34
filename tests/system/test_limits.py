"""Limits on connections hold at every instant, as the peer counts them: over two delivery workers, and while connections say QUIT."""

from __future__ import annotations

import smtplib
import threading
import time
from collections import Counter

from tests.sinks.session import Session
from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import eventually

CONF = """
delivery-workers 2
total-max-smtp-out 5
smtp-listener 127.0.0.1:@port@
<source 127.0.0.1>
    always-allow-relaying yes
    process-x-virtual-mta yes
</source>
{vmtas}
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    max-smtp-out 2
    max-msg-per-connection 2
    max-rcpt-per-message 3
</domain>
"""
VMTAS = "".join(f"<virtual-mta mta{n}>\n    smtp-source-host 127.0.0.1{n} mta{n}.example\n    max-smtp-out 3\n</virtual-mta>\n" for n in (1, 2, 3))


class Census:
    """What the peer sees at once, and the most of it that there ever was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now: Counter[str] = Counter()
        self.most: Counter[str] = Counter()

    def count(self, change: int, *what: str) -> None:
        with self._lock:
            for each in what:
                self._now[each] += change
                self.most[each] = max(self.most[each], self._now[each])


class Counted(Session):
    """Takes its time over QUIT, and counts as open until just before it answers."""

    name = "counted"
    census = Census()
    queue = ""

    def answer(self, stage: str, argument: str) -> bytes:
        """See Session."""
        source = self.dialog.peer[0]
        if stage == "greeting":
            self.census.count(1, "total", source)
        elif stage == "rcpt":
            queue = f"{argument.partition('@')[2].partition('>')[0]}/{source}"
            if queue != self.queue:
                self.census.count(-1, self.queue)
                self.census.count(1, queue)
                self.queue = queue
        elif stage == "quit":
            time.sleep(0.02)
            self.census.count(-1, "total", source, self.queue)
        return super().answer(stage, argument)


def test_limits_hold_as_the_peer_counts(make_engine: MakeEngine) -> None:
    census = Census()
    with Sink(Counted, census=census) as sink:
        engine = make_engine(CONF.format(vmtas=VMTAS, port=sink.port))
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            for number in range(90):
                recipients = [f"u{index}@d{number % 5}.example" for index in range(1 + number % 4)]
                client.sendmail("s@origin.example", recipients, f"X-Virtual-MTA: mta{1 + number % 3}\r\nSubject: {number}\r\n\r\nbody\r\n")
        wanted = sum(1 + number % 4 for number in range(90))
        eventually(lambda: len(engine.records("d")) == wanted, f"{wanted} d records", timeout_s=60)
        assert not engine.records("t") and not engine.records("b")
    assert sum(len(message.recipients) for message in sink.messages) == wanted
    assert max(len(message.recipients) for message in sink.messages) == 3
    assert census.most["total"] <= 5
    assert all(most <= 3 for what, most in census.most.items() if what.startswith("127.")), census.most
    assert all(most <= 2 for what, most in census.most.items() if "/" in what), census.most
    assert all(count <= 2 for count in Counter(message.connection for message in sink.messages).values())
