"""One client's connection: bytes between its socket and the protocol core, its deadlines, and when it ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from engine.listener.session import LOCKED_OUT, NO_SERVICE, SHUTTING_DOWN, Session
from engine.log import escape
from engine.mail.reply import Reply, reply
from engine.process import ListenSocket
from engine.smtp.auth import Answer
from engine.smtp.server import Phase, ServerConnection
from engine.smtp.traced import TracedConnection
from engine.tls.layer import Layer
from engine.tls.pump import Pump

if TYPE_CHECKING:
    from engine.listener.listener import Listener
    from engine.stream import Stream

SPOOL_WAIT_S: Final = 30.0  # from the final dot to the spool's answer
MESSAGE_TIME_S: Final = 3600.0  # from DATA to the final dot, however steadily it drips
SESSION_TIME_S: Final = 8 * 3600.0  # from the greeting; an open transaction may take MESSAGE_TIME_S more
AWAIT_SLOT_S: Final = 300.0  # for one of total-max-smtp-in, under smtp-await-slot: clients wait so long for a greeting (RFC 5321 §4.5.3.2.1)
HANDSHAKE_S: Final = 30.0  # for the whole TLS handshake, however steadily it drips
DRAIN_QUIET_S: Final = 1.5  # of silence, as seen once a second, before a drain ends a connection: who is about to speak hears 421 as an answer
CLOSING_S: Final = 10.0  # for a client to take our last reply

COMMANDS, WAITING, BODY, CHUNK, CLOSED = Phase.COMMANDS, Phase.WAITING, Phase.BODY, Phase.CHUNK, Phase.CLOSED
STARTTLS = Phase.STARTTLS

TOO_MANY = reply(421, "4.3.2 too many connections, try again later")
IDLE = reply(421, "4.4.2 timeout, closing connection")
TOO_LONG = reply(421, "4.4.2 session has lasted too long, closing connection")
NOT_STORED_IN_TIME = reply(451, "4.3.0 message could not be stored in time, try again later")


class Connection:
    """A connection from accept to close; Listener makes one for each."""

    __slots__ = (
        "_active_s", "_ahead", "_choked", "_closed_s", "_core", "_ended", "_listener", "_opened_s", "_peer", "_peer_port", "_session", "_shakes_s",
        "_socket", "_transport", "counted", "group", "ip", "waits",
    )  # fmt: skip

    def __init__(self, listener: Listener, socket: ListenSocket, peer: tuple[str, int] | None = None) -> None:
        """*peer*: address and port of the client, where it is a proxy's word."""
        self._listener = listener
        self._socket = socket
        self._transport: Stream | Layer | None = None
        self._core: ServerConnection | None = None  # None: refused at the door
        self._session: Session | None = None
        self._ahead = False  # the client has sent on while a message waits: not read
        self._choked = False  # it does not take its replies: not read either
        self._ended = False  # the client has said that nothing more comes
        self._opened_s = self._active_s = listener.now_s
        self._peer = peer
        self._peer_port = 0
        self._shakes_s = 0.0  # since when a TLS handshake is under way; 0: none is
        self._closed_s = 0.0  # when we said that we close; 0: not yet
        self.counted = False  # in total-max-smtp-in
        self.group = ""  # that it counts in, too
        self.waits = False  # for its place in that count
        self.ip = ""

    # --- what the event loop calls ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: Stream) -> None:
        """Greet, or refuse at the door."""
        self._transport = transport
        listener = self._listener
        peer = self._peer or transport.get_extra_info("peername")
        if not peer:  # gone already
            transport.abort()
            return
        self.ip = plain_ip(peer[0])
        self._peer_port = peer[1]
        refusal = listener.enter(self, self._socket)
        if refusal is not None:
            self._close(refusal)
        elif self.waits:
            transport.pause_reading()
        else:
            self._greet(transport)

    def admit(self) -> None:
        """It waited for a slot, and now has one."""
        transport = self._transport
        self.waits = False
        if transport is not None:
            self._opened_s = self._active_s = self._listener.now_s
            self._greet(transport)
            transport.resume_reading()

    def _greet(self, transport: Stream | Layer) -> None:
        listener, ip = self._listener, self.ip
        if listener.tls.immediate and self._socket in listener.tls.immediate and not isinstance(transport, Layer):
            self._shake(transport)  # we greet in TLS
            return
        client, limits = listener.welcome(ip, self._socket, self.local_ip)
        if not client.smtp_service:
            self._close(NO_SERVICE)
            return
        if client.smtp_max_auth_failure_rate is not None and listener.locked_out(ip, client):
            listener.refusals.say(f"client={ip} reply={LOCKED_OUT.text}")
            self._close(LOCKED_OUT)
            return
        self._session = session = Session(listener, client, ip, self._socket, limits.host_name, self.local_ip, self.answer)
        core: ServerConnection
        if client.log_commands or client.log_data:
            core = TracedConnection(session, limits, self._trace, commands=client.log_commands, data=client.log_data)
        else:
            core = ServerConnection(session, limits)
        self._core = core
        if isinstance(transport, Layer):
            core.secured(session.secured(transport))
        if client.log_connections:
            listener.log.event("connected", f"client={ip} to={self._socket.address}:{self._socket.port}")
        transport.write(core.open())

    def data_received(self, data: bytes) -> None:
        """The client's bytes go into the core and its replies out, all of them in one write."""
        core, transport = self._core, self._transport
        if core is None or transport is None or self._closed_s:
            return
        if core.phase is WAITING:
            self._ahead = True  # pipelined behind a message that waits for the disk: the core holds this much, the rest stays in the kernel
            transport.pause_reading()
            core.receive(data)
            return
        out = core.receive(data)
        phase = core.phase
        if out or phase is BODY or phase is CHUNK or phase is WAITING:  # a piece of a command is no activity
            self._active_s = self._listener.now_s
        if phase is CLOSED:
            self._leave_with(out, core, transport)
        elif out:
            transport.write(out)
            if phase is STARTTLS:
                self._shake(transport)

    def eof_received(self) -> bool:
        """A client that has said all still gets the answer that it waits for."""
        self._ended = True
        return self._core is not None and self._core.phase is WAITING

    def pause_writing(self) -> None:
        """The client does not read its replies: we read no more of its commands."""
        self._choked = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It reads again."""
        self._choked = False
        if self._transport is not None and not self._ahead:
            self._transport.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Whatever has not reached its final dot is forgotten; what has goes its way, without an answer."""
        core, session = self._core, self._session
        self._transport = self._core = self._session = None
        try:
            if self._shakes_s:
                self.not_secured("the client closed the connection")
            if core is not None and session is not None:
                waiting = core.phase is WAITING
                core.lost()
                if waiting:
                    session.give_up()
                if session.client.log_connections:
                    self._listener.log.event("disconnected", f"client={self.ip}" + (f" reason={exc}" if exc else ""))
        finally:
            self._listener.leave(self)

    # --- what reception and the listener call ---------------------------------------------------------------------------------------

    def answer(self, answer: Reply | Answer) -> None:
        """The answer to the final dot, once the spool has spoken; or what AUTH waits for."""
        core, transport = self._core, self._transport
        if core is None or transport is None or core.phase is not WAITING:
            return
        self._active_s = self._listener.now_s
        out = core.answered(answer)
        phase = core.phase
        if phase is CLOSED:
            self._leave_with(out, core, transport)
            return
        transport.write(out)
        if phase is STARTTLS:
            self._shake(transport)
        if phase is not WAITING:
            if self._ended:
                self._end(transport)
            elif self._ahead:
                self._ahead = False
                if not self._choked:
                    transport.resume_reading()

    def tick(self, now_s: float, draining: bool) -> None:
        """Once a second: end what has lasted too long, and while *draining* whatever is silent between two messages."""
        core, session, transport = self._core, self._session, self._transport
        if transport is None:
            return
        if self.waits and not self._closed_s:
            if now_s - self._opened_s > AWAIT_SLOT_S or draining:
                self._close(SHUTTING_DOWN if draining else TOO_MANY)
            return
        if self._shakes_s:
            if now_s - self._shakes_s > HANDSHAKE_S:
                self.not_secured(f"not done within {HANDSHAKE_S:.0f} s")
                transport.abort()
            return
        if self._closed_s or core is None or session is None:
            if now_s - (self._closed_s or self._opened_s) > CLOSING_S:
                transport.abort()
            return
        idle_s = now_s - self._active_s
        if core.phase is WAITING:
            if session.late is not None:
                if now_s >= session.late_s:
                    late, session.late = session.late, None
                    self.answer(late)
            elif idle_s > SPOOL_WAIT_S:
                session.give_up()
                self.answer(NOT_STORED_IN_TIME)
        elif core.phase is BODY or (core.phase is CHUNK and session.in_content):
            if idle_s > session.client.smtp_data_timeout_s or now_s - session.data_since_s > MESSAGE_TIME_S:
                self._close(IDLE)
        elif idle_s > session.client.smtp_command_timeout_s:
            self._close(IDLE)
        elif draining and not session.in_transaction and idle_s > DRAIN_QUIET_S:
            self._close(SHUTTING_DOWN)
        elif now_s - self._opened_s > SESSION_TIME_S + (MESSAGE_TIME_S if session.in_transaction else 0):
            self._close(TOO_LONG)

    # --- TLS ------------------------------------------------------------------------------------------------------------------------

    def _shake(self, transport: Any) -> None:
        """The client's handshake is next."""
        listener = self._listener
        context = listener.tls.begin(self._socket, self.ip)
        if context is None:  # immediate TLS, and too many shake at once: there is nothing to say to it
            listener.refusals.say(f"client={self.ip} TLS handshakes: too many at once")
            transport.abort()
            return
        self._shakes_s = listener.now_s
        self._transport = Layer(transport, self, Pump(context))

    def secured(self, layer: Layer) -> None:
        """The handshake is done: what was said before is forgotten (RFC 3207 §4.2)."""
        listener, core, session = self._listener, self._core, self._session
        self._shakes_s = 0.0
        listener.tls.ended(self.ip)
        if self._closed_s:
            return
        self._active_s = listener.now_s
        if core is None or session is None:
            self._greet(layer)
        else:
            core.secured(session.secured(layer))
            if self._choked:
                layer.pause_reading()
        if self._session is not None and self._session.client.log_tls:
            what = f"protocol={layer.protocol} cipher={layer.cipher} resumed={'yes' if layer.pump.resumed else 'no'}"
            listener.log.event("tls", f"client={self.ip}:{self._peer_port} to={self._socket.address}:{self._socket.port} {what}")

    def not_secured(self, why: str) -> None:
        """The handshake failed: the connection closes, with the alert that TLS has for it."""
        self._shakes_s = 0.0
        self._listener.tls.ended(self.ip)
        self._closed_s = self._listener.now_s
        self._listener.refusals.say(f"client={self.ip}:{self._peer_port} to={self._socket.address}:{self._socket.port} TLS handshake: {escape(why)}")

    def _trace(self, direction: str, line: bytes) -> None:
        """What log-commands and log-data show, one line of it."""
        self._listener.log.event("smtp", f"client={self.ip}:{self._peer_port} {direction} {escape(line)}")

    def abort(self) -> None:
        """Close at once, unsaid."""
        if self._transport is not None:
            self._transport.abort()

    def local_ip(self) -> str:
        """The address of ours that the client connected to."""
        name = self._transport.get_extra_info("sockname") if self._transport is not None else None
        return plain_ip(name[0]) if name else ""

    def _leave_with(self, last: bytes, core: ServerConnection, transport: Stream | Layer) -> None:
        """The core has said its *last* words, perhaps while the client sends on: those who did not say QUIT close first, within CLOSING_S.

        A socket that is closed with input unread is reset, and the reset may reach the client before those words do.  A drain does not wait for it.
        """
        if core.quit or self._ended or self._listener.draining:
            self._end(transport, last)
        else:
            self._closed_s = self._listener.now_s
            transport.write(last)
            transport.write_eof()
            transport.resume_reading()  # to throw it away

    def _end(self, transport: Stream | Layer, last: bytes = b"") -> None:
        """Close once everything that was written, and *last*, is sent."""
        self._closed_s = self._listener.now_s
        transport.finish(last)

    def _close(self, last: Reply) -> None:
        """Say *last* and close; an open transaction is void."""
        if self._transport is not None:
            self._end(self._transport, self._core.abort(last) if self._core is not None else last.encode())


def plain_ip(ip: str) -> str:
    """*ip*, an IPv4 address that came in mapped form (`::ffff:192.0.2.1`) as itself, without a scope: rules are written for that."""
    if ip.startswith("::ffff:") and "." in ip:
        return ip[7:]
    return ip.partition("%")[0]
