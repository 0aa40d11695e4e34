"""One connection to an MX: feeds what arrives to `smtp.client`, writes what that wants written, and knows its deadline.  It decides nothing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from enum import Enum, auto
from typing import Protocol, cast

from engine.delivery.demands import adapted
from engine.delivery.encryption import HANDSHAKE_S, Encryption
from engine.delivery.outcome import told
from engine.delivery.pool import Route
from engine.delivery.trace import Trace
from engine.errors import RemoteProtocolError, SpoolError
from engine.fastpath import unstuff
from engine.mail.envelope import NEEDS_BINARYMIME, Message
from engine.mail.reply import Reply
from engine.scheduler.queue import Queue, Transaction
from engine.smtp.chunking import unstuffed
from engine.smtp.client import ClientConnection, Finished, Insecure, Lost, Ready, RecipientOutcome, Refused, SendBody, Stage, StartTls
from engine.smtp.client import Transaction as ClientTransaction
from engine.smtp.extensions import format_rcpt_parameters, read_limits
from engine.tls.layer import Layer, Lower
from engine.tls.pump import TlsError

QUIT_TIMEOUT_S = 2.0
WRITE_BUFFER_BYTES = 256 * 1024


class OpenFailure(Exception):
    """The peer could be reached or greeted no further; *reply* if it said why."""

    def __init__(self, why: str, stage: Stage, reply: Reply | None = None, tls_status: str = "") -> None:
        """*tls_status*: the enhanced status code, where it was TLS that failed."""
        super().__init__(why)
        self.why = why
        self.stage = stage
        self.reply = reply
        self.tls_status = tls_status


class Owner(Protocol):
    """Who decides: the delivery slot."""

    def watch(self, connection: Connection) -> None:
        """The socket is connected: `check` must be called until `unwatch`."""

    def unwatch(self, connection: Connection) -> None:
        """The connection is gone, opened or not."""

    def opened(self, connection: Connection) -> None:
        """It greeted us; the connection waits for its first transaction."""

    def body_of(self, connection: Connection) -> tuple[bytes, ...] | Iterator[bytes]:
        """What goes on the wire after 354, our prefix first, without the final dot: whole, or in chunks.  SpoolError: it cannot be read."""

    def body_unreadable(self, connection: Connection, error: SpoolError) -> None:
        """`body_of` or a chunk of it failed: the connection is being closed without a final dot."""

    def finished(self, connection: Connection, outcomes: tuple[RecipientOutcome, ...]) -> None:
        """The transaction is over, and the peer has said what becomes of each recipient."""

    def idle(self, connection: Connection) -> None:
        """The connection can take another transaction."""

    def idle_too_long(self, connection: Connection) -> None:
        """Nobody wanted it for connection-idle-timeout: it says QUIT now."""

    def lost(self, connection: Connection, lost: Lost, why: str) -> None:
        """The connection is gone in the middle of a transaction."""

    def closed(self, connection: Connection) -> None:
        """The connection, which had been opened, is gone; always the last call."""


class _State(Enum):
    OPENING = auto()
    OPEN = auto()
    CLOSED = auto()


class Connection:
    """Opened for one queue; may serve others along the same route later."""

    def __init__(self, owner: Owner, queue: Queue, route: Route, local_ip: str, now_s: float, encryption: Encryption | None = None) -> None:
        """*encryption*: the slot's TLS; None: there is none."""
        settings = queue.settings
        self._encryption = encryption
        self.owner = owner
        self.queue = queue
        self.route = route
        self.local_ip = local_ip  # route.source_ip, or what the kernel chose
        self.client = ClientConnection(
            route.ehlo,
            ignore_pipelining=settings.ignore_pipelining,
            ignore_8bitmime=settings.ignore_8bitmime,
            ignore_dsn=settings.ignore_dsn,
            ignore_chunking=settings.ignore_chunking,
            tls="off" if encryption is None else encryption.mode(route, now_s),
        )
        self.tls: Layer | None = None  # the stream that it speaks TLS on
        self.transaction: Transaction | None = None
        self.message: Message | None = None  # of the transaction
        self.esmtp = ""  # what it offers, comma separated
        self.mail_max = 0  # messages that it takes in one session, 0: as many as come
        self.rcpt_max = 0  # recipients of one, likewise
        self.transactions = 0  # that have come to an end
        self.refusals = 0  # recipients refused over its life
        self.opening: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.now_s = now_s  # monotonic, of the slot's last look at it: good enough for timeouts of seconds
        self.began_s = now_s  # its opening, or its last transaction
        self.deadline_s = now_s + settings.smtp_greeting_timeout_s
        self.is_idle = False
        self.trace: Trace | None = None  # log-commands and its like
        self.timed_out = False  # it ended because the peer kept us waiting ...
        self.our_doing = False  # ... or because we ended it for a reason of ours
        self._state = _State.OPENING
        self._transport: asyncio.Transport | Layer | None = None
        self._chunks: Iterator[bytes] | None = None  # what is still to be sent of a large body
        self._may_write = True
        self._dot_waits = False  # the final dot goes out in a segment of its own, at the next look

    # --- what the slot asks -----------------------------------------------------------------------------------------------------------

    def send(self, transaction: Transaction, message: Message) -> None:
        """Start *transaction*, whose recipients are all of *message*."""
        self.transaction = transaction
        self.message = message
        self.began_s = self.now_s
        said = ClientTransaction(
            sender=message.return_path,
            recipients=tuple([row.due.address for row in transaction.rows]),
            size_bytes=message.body.size_bytes + len(message.prefix),
            eight_bit=message.eight_bit,
            ret=message.ret,
            env_id=message.env_id,
            rcpt_parameters=_rcpt_parameters(transaction),
        )
        self.client.start(adapted(said, message.needs, self.client) if message.needs else said)
        self._flush()
        self._set_deadline()

    def quit(self) -> None:
        """Say QUIT, and close when it is answered or soon after."""
        if self._transport is None or self._transport.is_closing():
            return
        self.is_idle = False
        self.client.quit()
        self._flush()
        self.deadline_s = self.now_s + QUIT_TIMEOUT_S

    def abort(self, why: str, our_doing: bool = False) -> None:
        """Close at once; a transaction under way is lost, because of *why*, which may have nothing to do with the peer."""
        self.our_doing |= our_doing
        transport, self._transport = self._transport, None
        if transport is not None:
            transport.abort()
        self._gone(why)

    def check(self, now_s: float) -> None:
        """The slot's regular look: close what has passed its deadline."""
        self.now_s = now_s
        if self._dot_waits and self._transport is not None and not self._transport.get_write_buffer_size():
            self._write_dot()
        if now_s < self.deadline_s:
            return
        if self.is_idle:
            self.owner.idle_too_long(self)
            self.quit()
        else:
            self.timed_out = True
            self.abort(f"timed out waiting at {self.client.stage.name}")

    # --- asyncio ----------------------------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is connected, and the greeting awaited."""
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self.owner.watch(self)
        if self.trace is not None:
            self.trace.opened()

    def data_received(self, data: bytes) -> None:
        """Replies, whole or in part."""
        if self._transport is None:
            return
        if self.trace is not None:
            self.trace.got(data)
        try:
            events = self.client.receive(data)
        except RemoteProtocolError as error:
            self.abort(str(error))
            return
        self._flush()
        for event in events:
            if isinstance(event, Finished):
                self._finish(event)
            elif isinstance(event, SendBody):
                self._begin_body()
            elif isinstance(event, Ready):
                self._opened(event)
            elif isinstance(event, Refused):
                self._refused(event)
            else:
                self._secure(event)
        if self._transport is None:
            return
        stage = self.client.stage
        if stage is Stage.CLOSED:
            self.abort("closed")
            return
        if self._chunks is not None and stage is Stage.BODY:  # a chunk was answered
            self._send_chunks(self._chunks)
        if self.client.progressed:  # a peer that says one byte now and then gains nothing by it
            self._set_deadline()
        if stage is Stage.IDLE and not self.is_idle and self.transaction is None:
            self.owner.idle(self)

    def eof_received(self) -> bool:
        """The peer has closed its side; so do we."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        self._transport = None
        self._gone(f"connection lost: {exc}" if exc else "connection closed by the peer")

    def pause_writing(self) -> None:
        """The peer reads slowly."""
        self._may_write = False

    def resume_writing(self) -> None:
        """There is room again: the peer has made progress, and the body goes on."""
        self._may_write = True
        self._set_deadline()
        if self._chunks is not None:
            self._send_chunks(self._chunks)

    # --- TLS --------------------------------------------------------------------------------------------------------------------------

    def _secure(self, event: StartTls | Insecure) -> None:
        """Shake hands, or give up, since TLS is demanded and cannot be had."""
        if isinstance(event, Insecure):
            why = f"STARTTLS was answered {told(self.queue.settings, event.reply)}" if event.reply is not None else "the host does not offer STARTTLS"
            if not self.opening.done():
                self.opening.set_exception(OpenFailure(why, Stage.STARTTLS, event.reply, "4.7.4"))
            self.abort(why)
            return
        assert self._encryption is not None
        try:
            layer = Layer(cast(Lower, self._transport), self, self._encryption.pump(self.route))
            layer.begin()
        except TlsError as error:
            self.not_secured(str(error))
            return
        self._transport = layer

    def secured(self, layer: Layer) -> None:
        """The handshake is done: EHLO once more."""
        self.tls = layer
        if self.trace is not None:
            self.trace.secured(layer.protocol, layer.cipher, layer.pump.resumed)
        self.client.secured()
        self._flush()
        self._set_deadline()

    def not_secured(self, why: str) -> None:
        """The handshake failed."""
        self.abort(f"the TLS handshake failed: {why}")

    # --- inside -----------------------------------------------------------------------------------------------------------------------

    def _opened(self, event: Ready) -> None:
        self.esmtp = ",".join(event.extensions)
        if "LIMITS" in event.extensions:
            self.mail_max, self.rcpt_max = read_limits(event.extensions["LIMITS"])
        if self.tls is not None and self._encryption is not None:
            self._encryption.established(self.route, self.tls.pump)
        self._state = _State.OPEN
        self.owner.opened(self)
        if not self.opening.done():
            self.opening.set_result(None)

    def _refused(self, event: Refused) -> None:
        why = f"{event.stage.name} was answered {told(self.queue.settings, event.reply)}"
        if self._state is _State.OPENING and not self.opening.done():
            self.opening.set_exception(OpenFailure(why, event.stage, event.reply))
        self.abort(why)

    def _finish(self, event: Finished) -> None:
        self.transactions += 1
        self.owner.finished(self, event.replies)
        self.transaction = None

    def _begin_body(self) -> None:
        try:
            body = self.owner.body_of(self)
        except SpoolError as error:
            self._unreadable(error)
            return
        if self.trace is not None:
            self.trace.begin_body()
        if self.client.by_chunks:
            self._begin_chunks(body)
        elif isinstance(body, tuple):
            assert self._transport is not None
            if self.trace is not None:
                self.trace.body(body)
            if self.client.masked and self.queue.settings.pix_bug_workaround:
                self._transport.writelines(body)
                self._dot_waits = True
            else:
                self._transport.writelines((*body, self.client.end_of_body()))
        else:
            self._send_chunks(body)

    def _begin_chunks(self, body: tuple[bytes, ...] | Iterator[bytes]) -> None:
        """*body* goes by BDAT: at once, or in chunks of its own while the peer takes them."""
        assert self._transport is not None and self.message is not None
        binary = self.message.needs & NEEDS_BINARYMIME
        if not isinstance(body, tuple):
            self._send_chunks(body if binary else unstuffed(body))
            return
        content = b"".join(body) if binary else unstuff(b"".join(body))
        command = self.client.chunk(len(content), True)
        if self.trace is not None:
            self.trace.sent(command)
            self.trace.body((content,))
        self._transport.writelines((command, content))

    def _send_chunks(self, chunks: Iterator[bytes]) -> None:
        """Write while the transport, and the peer, take it; when the chunks end, the final dot or the last chunk."""
        self._chunks = chunks
        try:
            while self._may_write and self._transport is not None and not self._transport.is_closing() and not self.client.chunk_waits:
                chunk = next(chunks, None)
                if chunk is None:
                    self._chunks = None
                    if self.client.by_chunks:
                        self._write_chunk(b"", True)
                        self._set_deadline()
                    elif self.client.masked and self.queue.settings.pix_bug_workaround:
                        self._dot_waits = True
                    else:
                        self._write_dot()
                    return
                if self.client.by_chunks:
                    self._write_chunk(chunk, False)
                    continue
                if self.trace is not None:
                    self.trace.body((chunk,))
                self._transport.write(chunk)
        except SpoolError as error:
            self._unreadable(error)

    def _write_chunk(self, content: bytes, last: bool) -> None:
        assert self._transport is not None
        command = self.client.chunk(len(content), last)
        if self.trace is not None:
            self.trace.sent(command)
            self.trace.body((content,))
        self._transport.write(command)
        self._transport.write(content)

    def _write_dot(self) -> None:
        self._dot_waits = False
        if self.client.stage is Stage.BODY and self._transport is not None:
            self._transport.write(self.client.end_of_body())
            self._set_deadline()

    def _unreadable(self, error: SpoolError) -> None:
        self._chunks = None
        self.owner.body_unreadable(self, error)
        self.transaction = None
        self.abort(str(error))

    def _flush(self) -> None:
        data = self.client.to_send()
        if data and self._transport is not None:
            if self.trace is not None:
                self.trace.sent(data)
            self._transport.write(data)

    def _set_deadline(self) -> None:
        settings = self.queue.settings
        stage = self.client.stage
        if stage is Stage.IDLE:
            timeout_s = settings.connection_idle_timeout_s
        elif stage is Stage.FINAL_DOT:
            timeout_s = settings.smtp_data_termination_timeout_s
        elif stage is Stage.BODY:
            timeout_s = settings.data_send_timeout_s
        elif stage is Stage.QUIT:
            timeout_s = QUIT_TIMEOUT_S
        elif stage is Stage.TLS:
            timeout_s = HANDSHAKE_S
        elif stage is Stage.GREETING:
            timeout_s = settings.smtp_greeting_timeout_s
        else:
            timeout_s = settings.smtp_multiple_line_response_timeout_s
        self.deadline_s = self.now_s + timeout_s

    def _gone(self, why: str) -> None:
        state, self._state = self._state, _State.CLOSED
        self._chunks = None
        if self.trace is not None and state is not _State.CLOSED:
            self.trace.closed(self.transactions, why)
        self.owner.unwatch(self)
        if state is _State.OPENING:
            if not self.opening.done():
                stage = self.client.stage
                of_tls = stage is Stage.STARTTLS or stage is Stage.TLS or (self.client.secure and stage is Stage.EHLO)
                self.opening.set_exception(OpenFailure(why, stage, None, "4.7.5" if of_tls else ""))
        elif state is _State.OPEN:
            try:
                if self.transaction is not None:
                    self.owner.lost(self, self.client.lost(), why)
            finally:
                self.transaction = None
                self.owner.closed(self)


def _rcpt_parameters(transaction: Transaction) -> tuple[str, ...]:
    """NOTIFY and ORCPT of every recipient, as they were given; () if none was."""
    dues = [row.due for row in transaction.rows]
    if any(due.notify or due.orcpt for due in dues):
        return tuple([format_rcpt_parameters(due.notify, due.orcpt) for due in dues])
    return ()
