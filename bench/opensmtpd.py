"""OpenSMTPD, which the table names but does not run.

Run in a mount namespace of its own, from Debian's package unpacked (6.8.0p2), it was traced from connection to 250: it opens, writes and renames
its queue files and calls neither fsync nor fdatasync, so that a power cut loses what it has acknowledged.  It also listens with a backlog that 50
clients with a connection for each message overflow: they wait for SYN-ACKs to be sent again, and the rate measured is that of these waits (4/s).
"""

from __future__ import annotations

from pathlib import Path

from bench.peer import Daemon, Peer, PeerError

REASON = "not supported: not durable (6.8.0p2 syncs nothing before its 250)"


def _never(_directory: Path, _port: int) -> Daemon:
    raise PeerError(REASON)


OPENSMTPD = Peer("opensmtpd", lambda: REASON, lambda: "", _never)
