"""What a message demands of the host that it goes to: who cannot be sent there as the host is, and why (RFC 6531 §3.2, 3030 §3).  Pure.

Asked only for messages that need something (`Message.needs`).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from engine.delivery.outcome import Result
from engine.mail.address import in_ascii
from engine.mail.envelope import NEEDS_BINARYMIME, NEEDS_SMTPUTF8, Message
from engine.scheduler.queue import Row
from engine.smtp.client import ClientConnection, Transaction


def refused(message: Message, rows: Sequence[Row], client: ClientConnection, host: str) -> list[Result]:
    """The bounces of those among *rows* that *message* cannot go to by *host*, to which *client* has said EHLO."""
    if message.needs & NEEDS_BINARYMIME and not (client.chunking and "BINARYMIME" in client.extensions):
        return [_bounce(row, "5.6.3", f"the message is BINARYMIME, which {host} does not offer, and it is never converted") for row in rows]
    if message.needs & NEEDS_SMTPUTF8 and "SMTPUTF8" not in client.extensions:
        if in_ascii(message.return_path) is None:
            return [_bounce(row, "5.6.7", f"the sender's address needs SMTPUTF8, which {host} does not offer") for row in rows]
        wide = [row for row in rows if in_ascii(row.due.address) is None]
        return [_bounce(row, "5.6.7", f"the address needs SMTPUTF8, which {host} does not offer") for row in wide]
    return []


def _bounce(row: Row, status: str, why: str) -> Result:
    return Result(row, "b", status, f"x-engine;{status} {why}")


def adapted(transaction: Transaction, needs: int, client: ClientConnection) -> Transaction:
    """*transaction*, whose recipients `refused` let pass, as it is said to the host: with what was needed, or with addresses that do without."""
    if needs & NEEDS_BINARYMIME:
        transaction = msgspec.structs.replace(transaction, binary=True)
    if needs & NEEDS_SMTPUTF8:
        if "SMTPUTF8" in client.extensions:
            return msgspec.structs.replace(transaction, utf8=True)
        recipients = tuple([in_ascii(address) or address for address in transaction.recipients])
        return msgspec.structs.replace(transaction, sender=in_ascii(transaction.sender) or "", recipients=recipients)
    return transaction
