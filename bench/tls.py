"""`python -m bench.tls`: what TLS costs a message, out and in: with a whole handshake for each connection, with sessions that go on, and within one.

One engine sends to another, which throws the mail away: "out" is the CPU of the first one's delivery process, "in" that of the second one's listener.
"""

from __future__ import annotations

import argparse
import os
import smtplib
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from bench.engine_process import EngineProcess
from tests.certificates import Authority

FAR = """
listener-workers 1
delivery-workers 1
total-max-smtp-in 1000
smtp-server-tls-certificate {pem}
<source 127.0.0.0/8>
    always-allow-relaying yes
    allow-starttls {starttls}
</source>
<domain *>
    type discard
</domain>
"""
NEAR = """
listener-workers 1
delivery-workers 1
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    max-msg-per-connection {per_connection}
    reuse-ssl-session {resumes}
</domain>
"""
TICK = os.sysconf("SC_CLK_TCK")


class Row(NamedTuple):
    """One way to send."""

    name: str
    starttls: str
    resumes: str
    per_connection: int


ROWS = (
    Row("plain, 1 message a connection", "no", "no", 1),
    Row("TLS, whole handshakes, 1 message a connection", "yes", "no", 1),
    Row("TLS, sessions resumed, 1 message a connection", "yes", "yes", 1),
    Row("plain, 100 messages a connection", "no", "no", 100),
    Row("TLS, 100 messages a connection", "yes", "no", 100),
)


def cpu_s(engine: EngineProcess, role: str) -> float:
    """Seconds of CPU that the process *role* of *engine* has used."""
    fields = Path(f"/proc/{engine.pids()[role][0]}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


@contextmanager
def engines(row: Row, directory: Path) -> Iterator[tuple[EngineProcess, EngineProcess]]:
    """(near, far), at work."""
    pem = directory / "key.pem"
    pem.write_bytes(Authority().issue("127.0.0.1"))
    with EngineProcess(directory / "far", FAR.format(pem=pem, starttls=row.starttls)) as far:
        near_text = NEAR.format(port=far.port, per_connection=row.per_connection, resumes=row.resumes)
        with EngineProcess(directory / "near", near_text) as near:
            for engine, role in ((near, "delivery/0"), (far, "listener/0")):
                while role not in engine.pids():
                    time.sleep(0.05)
            yield near, far


def inject(port: int, messages: int, size_bytes: int) -> None:
    """Hand *messages* in, over one connection."""
    text = "Subject: bench\r\n\r\n" + ("x" * 76 + "\r\n") * (size_bytes // 78)
    with smtplib.SMTP("127.0.0.1", port, timeout=60) as client:
        for _ in range(messages):
            client.sendmail("a@sender.example", ["b@d0.example"], text)


def measure(row: Row, messages: int, size_bytes: int) -> tuple[float, float]:
    """Microseconds of CPU a message: (out, in)."""
    with tempfile.TemporaryDirectory(prefix="engine-bench-tls-") as name:
        Path(name).chmod(0o711)
        with engines(row, Path(name)) as (near, far):
            before = cpu_s(near, "delivery/0"), cpu_s(far, "listener/0")
            inject(near.port, messages, size_bytes)
            deadline = time.monotonic() + 120
            while sum(1 for _ in near.records("d")) < messages:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{row.name}: not every message has arrived")
                time.sleep(0.1)
            after = cpu_s(near, "delivery/0"), cpu_s(far, "listener/0")
    return tuple((end - start) / messages * 1e6 for start, end in zip(before, after, strict=True))  # type: ignore[return-value]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(prog="python -m bench.tls", description=__doc__)
    parser.add_argument("--messages", type=int, default=2_000)
    parser.add_argument("--size", type=int, default=10_240, help="bytes of each body")
    arguments = parser.parse_args()
    print("| way | out, us of CPU a message | in |\n| --- | --- | --- |")
    for row in ROWS:
        out, into = measure(row, arguments.messages, arguments.size)
        print(f"| {row.name} | {out:.0f} | {into:.0f} |", flush=True)


if __name__ == "__main__":
    main()
