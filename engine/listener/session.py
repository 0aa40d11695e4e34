"""Answers one client's commands by policy and hands its messages to reception; knows nothing of sockets."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from engine.log import escape
from engine.mail.address import INVALID_DOMAIN
from engine.mail.received import from_clause
from engine.mail.reply import Reply, reply
from engine.policy.access import BAD_DOMAIN, DENIED, NO_DOMAIN, Target
from engine.reception.intake import MEMORY_LOW, RECIPIENT_BYTES, Envelope, Intake, Origin, Recipient
from engine.smtp.auth import Answer, Question
from engine.smtp.command import read_misaddressed
from engine.smtp.extensions import Parameters
from engine.smtp.server import GO_AHEAD, RECIPIENT_OK, SENDER_OK, ServerLimits

if TYPE_CHECKING:
    from engine.config import ClientSettings
    from engine.listener.listener import Listener
    from engine.listener.origin import Judged
    from engine.process import ListenSocket
    from engine.tls.layer import Layer

AUTH_REQUIRED: Final = reply(530, "5.7.0 Authentication required")
LOCKED_OUT: Final = reply(421, "4.7.0 Too many authentication failures, try again later")
NOT_AUTHENTICATED: Final = reply(535, "5.7.8 Authentication credentials invalid")
NO_SERVICE: Final = reply(521, "5.3.2 this host accepts no mail from you")
SHUTTING_DOWN: Final = reply(421, "4.3.2 service shutting down, try again later")

class Session:
    """The Handler of one ServerConnection."""

    __slots__ = (
        "_answer", "_barred", "_early", "_ending", "_envelope", "_extended", "_hello", "_host_name", "_intake", "_ip", "_listener", "_local_ip",
        "_origin", "_place", "_unchecked", "client", "data_since_s", "late", "late_s", "tls", "user",
    )  # fmt: skip

    def __init__(
        self,
        listener: Listener,
        client: ClientSettings,
        ip: str,
        place: ListenSocket,
        host_name: str,
        local_ip: Callable[[], str],
        answer: Callable[[Reply | Answer], None],
    ) -> None:
        """*answer* is called with what becomes of a message whose final dot has come, and of AUTH, unless that is known at once.

        *place* is the listening socket.
        """
        self.client = client
        self.user = ""  # as whom the client has authenticated
        self.late: Reply | None = None  # to an AUTH that failed, to be given ...
        self.late_s = 0.0  # ... then
        self._barred = client.require_auth  # until it authenticates
        self._place = place
        self._hello = ""
        self._extended = False
        self.data_since_s = 0.0  # when the content began to come
        self.tls: Layer | None = None  # the stream that the client speaks TLS on
        self._listener = listener
        self._ip = ip
        self._host_name = host_name
        self._local_ip = local_ip
        self._answer = answer
        self._origin: Origin | None = None
        self._envelope: Envelope | None = None
        self._intake: Intake | None = None
        self._unchecked: Envelope | None = None  # whose sender is being checked
        self._ending = False  # within `end`
        self._early: Reply | None = None  # the answer that came within `end`

    @property
    def in_transaction(self) -> bool:
        """Between MAIL and the answer to the final dot."""
        return self._envelope is not None

    @property
    def in_content(self) -> bool:
        """Between the first of a message's content, since `data_since_s`, and the answer to its last."""
        return self._intake is not None

    # --- Handler ----------------------------------------------------------------------------------------------------------------------

    def hello(self, name: str, extended: bool) -> None:
        """EHLO or HELO."""
        self._hello, self._extended = name, extended
        self._introduce()

    def _introduce(self) -> None:
        """What is known of the client, for its messages."""
        client, name = self.client, self._hello
        protocol = "ESMTP" if self._extended else "SMTP"
        self._origin = Origin(
            client=client,
            ip=self._ip,
            helo=escape(name),
            protocol=protocol if self.tls is None and not self.user else self._protocol(protocol),
            host_name=self._host_name,
            received_from="" if client.hide_message_source else from_clause(name, self._ip),
            src_mta=f"{name} ({self._ip})",
            local_ip=self._local_ip,
            smtp_user=self.user,
            login=f"user={escape(self.user)} " if self.user else "",
        )

    def nonce(self) -> str:
        """For one AUTH."""
        return self._listener.nonce()

    def shut_out(self) -> Reply | None:
        """smtp-max-auth-failure-rate."""
        return LOCKED_OUT if self._listener.locked_out(self._ip, self.client) else None

    def authenticate(self, question: Question) -> Answer | Reply | None:
        """What AUTH asks."""
        refusal = self.shut_out()
        if refusal is not None:
            return refusal
        return self._listener.verifier.ask(self._ip, question, self._answer)

    def authenticated(self, user: str, mechanism: str) -> ServerLimits | Reply:
        """From now on the client is *user*."""
        listener = self._listener
        client, limits = listener.welcome(self._ip, self._place, self._local_ip, user)
        listener.log.event("authenticated", f"client={self._ip} user={escape(user)} mechanism={mechanism}{self._sources(user)}")
        if not client.smtp_service:
            return NO_SERVICE
        self.client, self.user, self._barred = client, user, False
        self._introduce()
        return limits

    def denied(self, user: str, mechanism: str) -> Reply | None:
        """It is not *user*; it hears so after a while."""
        listener = self._listener
        listener.count_failure(self._ip, self.client)
        listener.refusals.say(f"client={self._ip} user={escape(user)} mechanism={mechanism} reply={NOT_AUTHENTICATED.text}")
        if listener.failure_delay_s <= 0:
            return NOT_AUTHENTICATED
        self.late, self.late_s = NOT_AUTHENTICATED, listener.now_s + listener.failure_delay_s
        return None

    def _sources(self, user: str) -> str:
        """` source=...`: the <source> sections whose word counts for it, the weakest first."""
        config = self._listener.reception.config
        entries = (*config.client_entries(self._ip, self._place.source), *config.login_entries(user))
        return f" source={escape(','.join(entry.pattern for entry in entries))}" if entries else ""
    def starttls(self) -> bool:
        """Whether a handshake may begin now."""
        return not self._listener.tls.full_for(self._ip)

    def secured(self, layer: Layer) -> ServerLimits:
        """TLS is up: HELO and AUTH are to be said again, within these limits."""
        client, limits = self._listener.welcome(self._ip, self._place, self._local_ip)
        self.client, self.user, self._barred = client, "", client.require_auth
        self.tls = layer
        self._origin = None
        return limits

    def mail(self, sender: str, parameters: Parameters) -> Reply | None:
        """May a message start now?"""
        if self._listener.draining and self.data_since_s:  # who was let in may send the first message for which he came
            return SHUTTING_DOWN
        if self._barred:
            return AUTH_REQUIRED
        refusal = self._listener.reception.refusal()
        if refusal is not None:
            return refusal
        envelope = Envelope(sender, parameters.ret, parameters.env_id, parameters.needs)
        if self.client.checks_origin:
            self._unchecked = envelope
            self._listener.origin_checks().ask(self.client, self._ip, self._hello, sender, partial(self.checked, envelope))
            return None
        self._envelope = envelope
        return SENDER_OK

    def checked(self, envelope: Envelope, judged: Judged) -> None:
        """What came of the checks of *envelope*'s sender: the reply to MAIL."""
        if self._unchecked is not envelope:
            return  # nobody waits for it any more
        self._unchecked = None
        self._envelope = envelope
        envelope.results = judged.field
        if judged.refusal is not None:
            self._say_refused("", judged.refusal)
            self._envelope = None
        self._answer(judged.refusal or SENDER_OK)

    def rcpt(self, address: str, parameters: Parameters) -> Reply:
        """May it go to *address*?  Policy says."""
        envelope = self._envelope
        assert envelope is not None
        reception = self._listener.reception
        local_ip = self._local_ip() if address.endswith("]") else ""
        verdict = reception.access.admit(address, self.client.always_allow_relaying, local_ip)
        if isinstance(verdict, Reply):
            if self.client.accept_invalid_recipients and (verdict is BAD_DOMAIN or verdict is NO_DOMAIN):
                return self._take_misaddressed(address, parameters)
            if verdict is DENIED:
                verdict = reception.denied
            if verdict is reception.denied or self.client.log_commands:
                self._say_refused(f"to=<{escape(address)}> ", verdict)
            return verdict
        if reception.full_for(envelope):
            return MEMORY_LOW
        if address not in envelope.given:
            reception.hold(envelope, RECIPIENT_BYTES + 2 * len(address) + len(parameters.orcpt))
        envelope.add(address, verdict, parameters.notify, parameters.orcpt, reception.dsn_for_relayed)
        return RECIPIENT_OK

    def no_address(self, argument: bytes) -> Reply | None:
        """Strangers hear of a malformed recipient what they hear of every other: that we do not relay for them."""
        if self.client.always_allow_relaying:
            named = read_misaddressed(argument) if self.client.accept_invalid_recipients else None
            return None if named is None else self._take_misaddressed(named[0], named[1])
        denied = self._listener.reception.denied
        self._say_refused("to=(no address) ", denied)
        return denied

    def _take_misaddressed(self, text: str, parameters: Parameters) -> Reply:
        """*text*, which is no address, becomes a recipient that bounces (accept-invalid-recipients)."""
        envelope, reception = self._envelope, self._listener.reception
        assert envelope is not None
        if reception.full_for(envelope):
            return MEMORY_LOW
        if text not in envelope.recipients:
            reception.hold(envelope, RECIPIENT_BYTES + 2 * len(text) + len(parameters.orcpt))
            envelope.recipients[text] = Recipient(Target(text, INVALID_DOMAIN), parameters.notify, parameters.orcpt)
        return RECIPIENT_OK

    def data(self) -> Reply:
        """The content may come."""
        assert self._envelope is not None and self._origin is not None
        self._intake = self._listener.reception.begin(self._origin, self._envelope)
        self.data_since_s = self._listener.now_s
        return GO_AHEAD

    def body(self, chunk: bytes) -> Reply | None:
        """A piece of it, in wire form."""
        assert self._intake is not None
        refusal = self._intake.write(chunk)
        if refusal is not None:
            self._say_refused("", refusal)
        return refusal

    def end(self) -> Reply | None:
        """The final dot: None, and the answer comes through `answer`; or it is known already."""
        assert self._intake is not None
        self._ending = True
        self._intake.end(self._answered)
        self._ending = False
        early, self._early = self._early, None
        return early

    def reset(self) -> None:
        """The transaction is void."""
        if self._intake is not None:
            self._intake.abort()
        self._forget()

    # --- what the connection calls ----------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Nobody waits for the spool's answer any more: whatever it says now has no reader."""
        if self._intake is not None:
            self._intake.give_up()
        self._unchecked = None
        self._forget()

    def _answered(self, answer: Reply) -> None:
        if not answer.positive:
            self._say_refused("", answer)
        self._forget()
        if self._ending:
            self._early = answer
        else:
            self._answer(answer)

    def _forget(self) -> None:
        if self._envelope is not None:
            self._listener.reception.release(self._envelope)
        self._intake = None
        self._envelope = None

    def _protocol(self, protocol: str) -> str:
        """`ESMTPSA` (RFC 3848) and how; without EHLO there is no keyword of its own."""
        tls = self.tls
        word = f"{protocol}{'S' if tls is not None else ''}{'A' if self.user else ''}" if self._extended else protocol
        return word if tls is None else f"{word} ({tls.protocol} {tls.cipher})"

    def _say_refused(self, what: str, answer: Reply) -> None:
        helo = self._origin.helo if self._origin is not None else ""
        sender = escape(self._envelope.sender) if self._envelope is not None else ""
        self._listener.refusals.say(f"client={self._ip} helo={helo} from=<{sender}> {what}reply={escape(answer.text)}")
