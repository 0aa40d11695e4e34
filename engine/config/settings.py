"""What each stanza may set, as frozen dataclasses: the fields are the directives that work, with type, default and meaning."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from engine.config import list_entry
from engine.config import tls_value as tv
from engine.config import values as v
from engine.config.directive import directive, repeated
from engine.config.pattern import AddressPattern, DomainPattern, Network
from engine.config.privacy import Masking, masking
from engine.config.queue_pattern import QueuePattern
from engine.config.snapshot import NO_FILE
from engine.config.tls import CIPHERS, NO_PEM, OFF, ClientTls, PemFile, ServerTls, client_tls, versions
from engine.units import Rate

DEFAULT_VIRTUAL_MTA = "{default}"
AUTH_SOURCE = "{auth}"  # the <source> of every client that has authenticated; as jobid-prefix: its user's name
BY_SMTP_SOURCE_IP = "by-smtp-source-ip"  # as default-virtual-mta: the one that sends from the address that the client connected to


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """What stands outside every stanza."""

    smtp_listener: tuple[v.ListenerSettings, ...] = repeated(
        v.listener, "Address and port to accept SMTP on; a CIDR means every local address in it.  0.0.0.0:25 if none is given."
    )
    host_name: tuple[str, ...] = repeated(v.host_name, "Our names: the first one greets, for each of them we are the final destination.")
    alias: tuple[tuple[str, tuple[str, ...]], ...] = repeated(
        list_entry.alias, "Mail for the first address (one without a domain: at any host-name; *@domain: all of it) goes to the others instead."
    )
    domain_suffix: str = directive(v.host_name, "", "What completes an envelope address without a domain; see auto-qualify-domain.")
    host_id: int = directive(v.number, "0", "This server's number, for the Message-IDs that we add: several servers never add the same; 0: none.")
    postmaster: tuple[str, ...] = repeated(v.mail_address, "Who reads mail to the local postmaster and abuse.")
    log_file: str = directive(v.file, "", "The log.  Required.")
    log_auto_rotation: bool = directive(v.boolean, "true", "Begin a new log at midnight: the old one becomes LOG.1, LOG.1 becomes LOG.2 ....")
    log_rotate: int = directive(v.number, "8", "Logs kept, the current one included; 0: no rotation.")
    log_file_world_readable: bool = directive(v.boolean, "false", "Whether everybody may read the log.")
    run_as_root: bool = directive(
        v.boolean, "true", "Changes nothing: workers are never root, whatever it says; started as root, they become `user`."
    )
    user: str = directive(v.name, "engine", "Whom workers become when the engine is started as root.  Ours.")
    control_group: str = directive(
        v.name, "", "A group whose members may ask and stop the engine (`engine status`, `why`, `stop`), besides root and `user`.  Ours."
    )
    name_server: tuple[tuple[str, int], ...] = repeated(v.address_port, "Recursive resolver; the system's if none is given.")
    edns_udp_length: int = directive(
        v.edns_length, "1232", "Bytes of the largest DNS answer by UDP, 512 to 2048 (what is outside is moved there); 0: no EDNS.  PowerMTA: 0."
    )
    total_max_smtp_in: int = directive(v.count, "100", "Connections accepted at once, over all listeners.")
    total_max_smtp_out: int = directive(v.count, "1200", "Connections open at once to other hosts, over all queues.")
    relay_domain: tuple[DomainPattern, ...] = field(default=())  # texts until the macros are expanded: build fills it
    relay_debug: bool = directive(v.boolean, "false", "Answer 450 instead of 550 where relaying is denied, while rules are being tested.")
    invalid_virtual_mta_fallback: str = directive(
        v.name_or_empty, "", "Virtual MTA or pool for an x-virtual-mta that names nothing we know, where reject-invalid-virtual-mta is false."
    )
    smtp_await_slot: bool = directive(v.boolean, "false", "At total-max-smtp-in, let clients wait up to five minutes instead of 421 at once.")
    max_memory_usage_percent: int = directive(v.percent, "90", "452 to MAIL while more of the machine's memory is in use; 100: never.")
    relay_address: tuple[AddressPattern, ...] = repeated(v.address_pattern, "A recipient, or a /regex/ over recipients, that anyone may send to.")
    always_allow_relaying: bool = directive(v.boolean, "false", "What <source> sections inherit.")
    dsn_for_relayed_domain: bool = directive(v.boolean, "false", "Whether mail that only relay-domain or relay-address admitted gets DSNs.  Ours.")
    custom_dsn_from_header: str = directive(v.text, "", "From of our DSNs, instead of Mail Delivery System <mailer-daemon@HOST>.")
    dsn_failed_from_template: str = directive(
        v.text,
        "",
        "From of DSNs about failures, with ${hostname}, ${originator}, ${recipient}, ${subject}, ${retryAfter}, ${bounceAfter}, "
        "${date}, ${timeQueued}, ${response}.",
    )
    dsn_failed_subject_template: str = directive(v.text, "", "Subject of DSNs about failures, with the same variables.")
    dsn_failed_body_template_from: tuple[str, str] = directive(
        v.file_text, "", "A file with the text for people of DSNs about failures, with the same variables; read at the start.", empty=NO_FILE
    )
    include_headers_from: str = directive(
        v.file, "", "A file of header fields, read with the configuration: they follow our Received field in every message.  At most 16 KB of ASCII."
    )
    included_headers: bytes = b""  # what that file holds, in wire form: build fills it
    spool_delete_corrupted: bool = directive(
        v.boolean, "false", "Bounce mail whose content in the spool is damaged, instead of keeping it for whoever may mend it."
    )
    track_time_first_attempt: bool = directive(
        v.boolean, "false", "Whether accounting files show timeFirstAttempt without being asked for it, behind timeQueued."
    )
    smtp_source_host: tuple[v.SourceHost, ...] = repeated(
        v.source_host, "Address to send from and its EHLO name, for virtual MTAs without their own.", aliases=(("smtp-source-ip", v.source_address),)
    )
    domain_precedence: str = directive(
        v.choice("scope", "specific"),
        "scope",
        "Who wins: the narrower scope (virtual MTA over pool over global), or the more specific domain.  Ours.",
    )
    dummy_smtp_port: int = directive(v.port_or_off, "0", "Port of the built-in sink, which accepts mail and throws it away; 0: none.")
    dummy_smtp_ip: str = directive(v.address_text, "", "Address that the sink listens on; every one of this host if not given.")
    dummy_smtp_latency: int = directive(v.latency, "0", "Milliseconds that the sink waits before each reply.")
    dummy_smtp_await_slot: bool = directive(v.boolean, "false", "A full sink lets clients wait up to five minutes instead of 421 at once.")
    dummy_smtp_has_chunking: bool = directive(v.boolean, "false", "Whether the sink offers CHUNKING and BINARYMIME, and takes BDAT.")
    dummy_smtp_has_pipelining: bool = directive(v.boolean, "false", "Whether the sink offers PIPELINING.")
    dummy_smtp_blacklist: tuple[str, str] = directive(
        v.file_text, "", "Recipients that the sink refuses: addresses and domains, one a line.", empty=NO_FILE
    )
    dummy_smtp_blacklist_bounce_method: str = directive(v.choice("random"), "random", "How those who are refused are chosen.")
    dummy_smtp_blacklist_bounce_percent: int = directive(v.percent, "100", "How many of the recipients on the blacklist are refused.")
    dummy_smtp_log_blacklist: bool = directive(v.boolean, "false", "Log each recipient that the sink refuses for its blacklist.")
    dummy_smtp_update_stats: bool = directive(
        v.boolean, "true", "Whether mail that the sink takes counts in the traffic of engine status, as come in; never that of a shadow."
    )
    smtp_server_tls_certificate: tuple[PemFile, ...] = repeated(
        tv.pem_file,
        "PEM file with key and certificate chain for STARTTLS and immediate-tls.  Of several, each client gets the one with the name that it asks "
        "for, or the first.  Read before workers drop root, and anew within a second or two of a change.  Several: ours.",
    )
    smtp_server_tls_allow_tlsv1: bool = directive(v.boolean, "false", "Allows TLS 1.0 for clients.", name="smtp-server-tls-allow-tlsv1")
    smtp_server_tls_allow_tlsv1_1: bool = directive(v.boolean, "false", "Allows TLS 1.1 for clients.", name="smtp-server-tls-allow-tlsv1.1")
    smtp_server_tls_allow_tlsv1_2: bool = directive(v.boolean, "true", "Allows TLS 1.2 for clients.", name="smtp-server-tls-allow-tlsv1.2")
    smtp_server_tls_allow_tlsv1_3: bool = directive(v.boolean, "true", "Allows TLS 1.3 for clients.", name="smtp-server-tls-allow-tlsv1.3")
    smtp_server_tls_ciphers: str = directive(tv.ciphers, CIPHERS, "Ciphers up to TLS 1.2 for clients, in OpenSSL's words.")
    smtp_server_tls_ciphersuites: str = directive(
        tv.ciphersuites, "", "Cipher suites of TLS 1.3 for clients: OpenSSL's three are always among them.",
        name="smtp-server-tls-v1.3-ciphersuites",
    )
    smtp_server_tls_ca_file: str = directive(
        tv.file_or_nothing, "", "Who signs clients' certificates, which are then asked for and verified, not demanded."
    )
    listener_workers: int = directive(v.limit, "0", "Processes that accept mail; 0: by the number of cores.  Ours.")
    delivery_workers: int = directive(v.limit, "0", "Processes that deliver mail; 0: by the number of cores.  Ours.")
    shutdown_timeout_s: float = directive(v.positive_seconds, "60s", "How long a stop waits for what is in flight.  Ours.")

    @property
    def tls(self) -> ServerTls:
        """What listeners offer that say nothing else."""
        allowed = versions(
            self.smtp_server_tls_allow_tlsv1,
            self.smtp_server_tls_allow_tlsv1_1,
            self.smtp_server_tls_allow_tlsv1_2,
            self.smtp_server_tls_allow_tlsv1_3,
        )
        return ServerTls(self.smtp_server_tls_certificate, allowed, self.smtp_server_tls_ciphers, self.smtp_server_tls_ca_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """One <spool> section: a directory of queued mail."""

    path: str
    deliver_only: bool = directive(v.boolean, "false", "Accept nothing new into it; beside one that accepts, what lies in it is moved there.")
    priority: int = directive(v.spool_priority, "1", "Of several that accept, the one with the highest that has room takes new mail.")
    min_free_space_bytes: int = directive(v.size, "0", "Accept nothing while the disk has less than this free.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientSettings:
    """One <source> section: how we treat those who submit mail to us."""

    smtp_service: bool = directive(v.boolean, "true", "false: greet with 521 and close.")
    always_allow_relaying: bool = directive(v.boolean, "false", "Whether this client may send to anybody.")
    allow_auth: bool = directive(v.boolean, "true", "Offer AUTH, where there is an <smtp-user>; who authenticates may send to anybody.")
    require_auth: bool = directive(v.boolean, "false", "Take no mail, for whomever, from clients that have not authenticated.")
    allow_unencrypted_plain_auth: bool = directive(v.boolean, "false", "Offer AUTH PLAIN and LOGIN without TLS too.")
    require_starttls_before_auth: bool = directive(v.boolean, "false", "Offer AUTH within TLS only.")
    smtp_max_auth_failure_rate: Rate | None = directive(  # noqa: RUF009 - a Rate is immutable
        v.rate, "unlimited", "Failures of AUTH after which a client is refused; the time runs from the first of them.  An IPv6 client is its /64."
    )
    source_group: str = directive(v.group_or_empty, "", "The <source-group> that its connections count in.")
    default_virtual_mta: str = directive(
        v.name,
        DEFAULT_VIRTUAL_MTA,
        "Virtual MTA or pool for mail that names none; by-smtp-source-ip: the one that sends from the address that the client connected to.",
    )
    process_x_virtual_mta: bool = directive(v.boolean, "false", "Obey the header x-virtual-mta, and strip it.")
    retain_x_virtual_mta: bool = directive(v.boolean, "false", "Keep the header x-virtual-mta.")
    allow_empty_x_virtual_mta: bool = directive(v.boolean, "false", "An empty x-virtual-mta means {default}.")
    add_x_virtual_mta_header: bool = directive(v.boolean, "false", "Add a header that names the virtual MTA.")
    reject_invalid_virtual_mta: bool = directive(v.boolean, "true", "Refuse mail whose x-virtual-mta names nothing we know.")
    max_message_size_bytes: int = directive(v.size, "unlimited", "Largest message (SIZE).")
    accept_invalid_recipients: bool = directive(
        v.boolean, "false", "Accept recipients that are no addresses from clients that may relay, and bounce them, instead of refusing them."
    )
    max_rcpt_per_message: int = directive(v.limit, "0", "Most recipients of one message; 0: no limit.")
    too_many_rcpts_fails_message: bool = directive(
        v.boolean, "false", "Refuse a message with too many recipients at DATA (554), instead of each recipient over max-rcpt-per-message (452)."
    )
    disconnect_on_transient_error: bool = directive(v.boolean, "false", "Close the connection instead of answering a command with a 4xx.")
    bare_newline: str = directive(
        v.choice("reject", "normalize"),
        "reject",
        "A CR or LF in content that is no CRLF: refuse the message; normalize makes CRLF of LF and a blank of CR, for clients that may relay.  Ours.",
    )
    allow_chunking: bool = directive(v.boolean, "true", "Offer CHUNKING and BINARYMIME: content may come by BDAT.")
    allow_smtputf8: bool = directive(v.boolean, "true", "Offer SMTPUTF8: addresses in UTF-8 may come in.")
    max_message_hops: int = directive(v.count, "100", "Most Received fields; more is a loop.")
    add_received_header: bool = directive(v.boolean, "true", "Add our Received field.")
    hide_message_source: bool = directive(v.boolean, "false", "Leave the client's name and address out of our Received field.")
    remove_header: tuple[bytes, ...] = directive(v.header_names, "", "Header fields that are cut out at reception.", empty=())
    remove_received_headers: bool = directive(v.boolean, "false", "Cut out the Received fields that messages come with, once counted.")
    add_date_header: str = directive(
        v.choice("no", "yes", "override"), "no", "Add a Date field where there is none; override: in place of any."
    )
    date_header_time: str = directive(v.choice("reception", "delivery"), "reception", "Which time the Date field shows that add-date-header adds.")
    add_message_id_header: bool = directive(v.boolean, "false", "Add a Message-ID field where there is none.")
    verp_default: bool = directive(
        v.boolean, "false", "Send to each recipient from an address of its own, which names it: u@d to x@y leaves as u-x=y@d, and bounces go there."
    )
    process_x_job: bool = directive(v.boolean, "false", "Take the job ID from the header x-job, up to its first blank, and strip it.")
    retain_x_job: bool = directive(v.boolean, "false", "Keep the header x-job.")
    jobid_header: bytes = directive(v.header_name, "", "A header to take the job ID from where x-job gives none; it stays.", empty=b"")
    jobid_prefix: str = directive(v.text, "", "What is put before each job ID; {auth}: the name that the client authenticated as.")
    process_x_dkim_options: bool = directive(
        v.boolean, "false", "Take the header x-dkim-options for ours, and strip it.  What it selects comes with dkim-sign: not yet."
    )
    retain_x_dkim_options: bool = directive(v.boolean, "false", "Keep the header x-dkim-options.")
    retain_x_dkim_key: bool = directive(
        v.boolean, "false", "Keep the header x-dkim-key, which is otherwise always stripped: it holds a private key, and every recipient reads it."
    )
    retain_x_schedule: bool = directive(v.boolean, "false", "Keep the header x-schedule, which is otherwise always stripped.")
    process_x_envid: bool = directive(v.boolean, "false", "Take the envelope ID from the header x-envid, before ENVID of MAIL, and strip it.")
    auto_qualify_domain: bool = directive(v.boolean, "true", "Complete envelope addresses without a domain by domain-suffix; false: refuse them.")
    bcc: str = directive(v.mail_address_or_empty, "", "An address that gets a copy of every message; no DSN tells of it.")
    suppress_local_dsn: bool = directive(v.boolean, "false", "Send no DSNs of ours about mail of this client.")
    dsn_return_default: str = directive(
        v.choice("headers", "full", "system"), "system", "What DSNs return of a message whose client does not say RET; system: the headers."
    )
    check_spf_inbound: bool = directive(
        v.boolean, "false", "Check at MAIL whether the client may send for the sender's domain (SPF, RFC 7208); noted in Authentication-Results."
    )
    check_spf_inbound_max_void_lookups: int = directive(v.number, "2", "Look-ups of one SPF check that may find nothing; more are a permerror.")
    reject_spf_check_temperror: bool = directive(v.boolean, "true", "Answer 451 to MAIL where check-spf-inbound could not be completed.")
    reject_spf_check_permerror: bool = directive(v.boolean, "true", "Answer 550 to MAIL where the SPF record is broken.")
    reject_spf_check_fail: bool = directive(v.boolean, "true", "Answer 550 to MAIL where the SPF record says that the client may not.")
    trace_spf_check: bool = directive(v.boolean, "false", "Log what check-spf-inbound asks and hears.")
    check_iprev_inbound: bool = directive(
        v.boolean, "false", "Check at MAIL whether the client's address has a name that leads back to it (RFC 8601), and note it likewise."
    )
    reject_iprev_check_temperror: bool = directive(v.boolean, "false", "Answer 451 to MAIL where check-iprev-inbound could not be completed.")
    reject_iprev_check_permerror: bool = directive(v.boolean, "false", "Answer 550 to MAIL where the client's address has no name.")
    reject_iprev_check_fail: bool = directive(v.boolean, "false", "Answer 550 to MAIL where the client's name does not lead back.")
    trace_iprev_check: bool = directive(v.boolean, "false", "Log what check-iprev-inbound asks and hears.")
    smtp_data_timeout_s: float = directive(v.positive_seconds, "10m", "How long to wait for more of a message.")
    smtp_command_timeout_s: float = directive(v.positive_seconds, "10m", "How long to wait for a command.")
    allow_starttls: bool = directive(v.boolean, "false", "Offer STARTTLS, where there is a certificate.")
    log_tls: bool = directive(v.boolean, "false", "Log the TLS of each connection; handshakes that fail are always logged.")
    log_connections: bool = directive(v.boolean, "false", "Log connections.")
    log_commands: bool = directive(v.boolean, "false", "Log commands, replies and refused recipients; what follows AUTH is left out.")
    log_data: bool = directive(v.boolean, "false", "Log message contents, line by line; at most 64 KB of each.")
    asks_more: bool = field(init=False, default=False, repr=False)  # of reception than its plain path does: engine.reception.header

    checks_origin: bool = field(init=False, default=False, repr=False)  # at MAIL: engine.listener.origin

    def __post_init__(self) -> None:
        checks = self.check_spf_inbound or self.check_iprev_inbound
        object.__setattr__(self, "checks_origin", checks)
        headers = self.remove_header or self.remove_received_headers or self.add_date_header != "no" or self.add_message_id_header
        ids = self.process_x_job or self.jobid_header or self.process_x_envid
        control = self.process_x_dkim_options or self.retain_x_dkim_key or self.retain_x_schedule
        more = headers or ids or control or checks or self.bcc or self.suppress_local_dsn or self.dsn_return_default == "full"
        object.__setattr__(self, "asks_more", bool(more))


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceGroup:
    """One <source-group> section: sources that share connections."""

    name: str
    max_smtp_in: int = directive(v.limit, "unlimited", "Connections of all its sources together; 0: no limit.")
    reserved_smtp_in: int = directive(v.number, "0", "Connections of total-max-smtp-in that all other clients leave free for them.")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class SmtpUser:
    """One <smtp-user> section: somebody who may authenticate."""

    name: str
    password: str = directive(v.secret, "", "The password, or its Argon2id string (`engine hash-password`).")
    password_file: tuple[str, str] = directive(v.file_text, "", "A file whose first line is what password takes.  Ours.", empty=NO_FILE)
    authentication_method: str = directive(
        v.choice("password", "system", "certificate"), "password", "How they prove it.  system and certificate are not supported yet: nobody gets in."
    )
    source: str = directive(v.name, AUTH_SOURCE, "A <source> for their sessions, over the one of their address and {auth}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class DomainSettings:
    """One <domain> section: how we treat one destination."""

    max_smtp_out: int = directive(v.count, "20", "Connections open at once to this destination, per virtual MTA.")
    max_msg_per_connection: int = directive(v.limit, "0", "Messages after which a connection is closed; 0: no limit.")
    max_rcpt_per_message: int = directive(v.count, "1000", "Most recipients in one SMTP transaction.", aliases=("max-rcpt-per-transaction",))
    max_errors_per_connection: int = directive(v.limit, "unlimited", "Refused recipients after which a connection is closed; 0: no limit.")
    retry_after: tuple[float, ...] = directive(
        v.seconds_list, "10m", "Time from a queue's failure to its next attempt: one value per failure in a row, the last repeats."
    )
    retry_recipients_after_s: float = directive(v.positive_seconds, "10m", "Time from a recipient's 4xx to its next attempt.")
    retry_after_dns_error_s: float = directive(v.positive_seconds, "1m", "Time from a failed look-up to the next.")
    bounce_after_s: float = directive(v.positive_seconds, "4d12h", "How old mail gets before it bounces.")
    notify_of_delay_every_s: float | None = directive(
        v.seconds_or_never, "4h", "How often the sender of mail that waits hears of it, if he asked for that (NOTIFY=DELAY)."
    )
    bounce_upon_no_mx: float | None = directive(
        v.no_mx, "false", "Bounce when there is no MX: at once (true), at this age, or only at bounce-after (false)."
    )
    bounce_upon_5xx_greeting: bool = directive(v.boolean, "true", "Whether a 5xx greeting bounces the mail.")
    bounce_upon_transfer_failure: bool = directive(
        v.boolean, "false", "Bounce when the connection is lost between DATA and the reply to the final dot, instead of trying again."
    )
    bounce_upon_pix_transfer_failure: bool = directive(v.boolean, "false", "The same, only where the greeting shows ten asterisks or more.")
    assume_delivery_upon_data_termination_timeout: bool = directive(
        v.boolean, "false", "Take a message for delivered when its final dot is not answered in time; not when the connection is lost."
    )
    smtp_421_means_mx_unavailable: bool = directive(
        v.boolean, "false", "421 within a transaction: try the next MX at once, as if this one had not greeted."
    )
    smtp_553_means_invalid_mailbox: bool = directive(v.boolean, "true", "553 to RCPT without a status code is 5.1.1.")
    replace_smtp_421_service_response: bool = directive(v.boolean, "false", "Records and logs say 'service unavailable' for whatever 421 says.")
    retry_upon_new_mail: bool = directive(v.boolean, "false", "New mail ends a queue's retry-after, within a second.")
    discard_as_bounce: bool = directive(v.boolean, "false", "type discard: a record of type b instead of d; no DSN.")
    disable_acct_records: tuple[str, ...] = directive(
        v.record_types, "", "Types of record that are not written for this destination: d, b, t, tq.", empty=()
    )
    deliver_local_dsn: bool = directive(v.boolean, "yes", "Whether mail that bounces for this destination causes a DSN.")
    dsn_format: str = directive(v.choice("standard", "plain-text"), "standard", "Of DSNs: as RFC 3464 has them, or one text for people only.")
    bounce_address: str = directive(v.mail_address_or_empty, "", "Where DSNs go, instead of the sender; mail from <> causes none all the same.")
    bcc_upon_delivery: str = directive(v.mail_address_or_empty, "", "Who gets a copy of each message once it is delivered.")
    smtp_hosts: tuple[tuple[v.HostSpec, ...], ...] = directive(
        v.smtp_hosts, "", "Next hops instead of the domain's MXs; , between equals, ; before the next preference.", aliases=("route",), empty=()
    )
    default_smtp_port: int = directive(v.port, "25", "Port of next hops that name none.")
    mx_connection_attempts: int = directive(v.count, "10", "Hosts tried in one attempt.")
    type: str = directive(
        v.choice("smtp", "discard", "pipe", "file", "http-delivery"),
        "smtp",
        "smtp, or discard: report as delivered and forget.  Others stop the start.",
    )
    connect_timeout_s: float = directive(v.positive_seconds, "2m", "How long a connection may take to open.")
    smtp_greeting_timeout_s: float = directive(v.positive_seconds, "5m", "How long to wait for the greeting.")
    smtp_multiple_line_response_timeout_s: float = directive(v.positive_seconds, "5m", "How long to wait for a whole reply.")
    data_send_timeout_s: float = directive(v.positive_seconds, "3m", "How long a peer may take to accept a chunk of a message.")
    smtp_data_termination_timeout_s: float = directive(v.positive_seconds, "10m", "How long to wait for the reply to the final dot.")
    connection_idle_timeout_s: float = directive(v.idle_seconds, "2s", "How long to keep a connection that has nothing to send.  PowerMTA: 0.")
    ignore_8bitmime: bool = directive(v.boolean, "false", "Behave as if the peer had not offered 8BITMIME.")
    ignore_pipelining: bool = directive(v.boolean, "false", "Behave as if the peer had not offered PIPELINING.")
    max_events_recorded: int = directive(v.number, "10", "Errors of a queue that are kept in memory, for `show queue` and `why`.")
    track_recipient_events: bool = directive(v.boolean, "false", "Whether the last 50 deliveries, bounces and deferrals of a queue are kept too.")
    ignore_dsn: bool = directive(v.boolean, "false", "Behave as if the peer had not offered DSN: no RET, ENVID, NOTIFY and ORCPT.")
    ignore_chunking: bool = directive(v.boolean, "false", "Behave as if the peer had not offered CHUNKING: mail goes by DATA, not by BDAT.")
    remove_header: tuple[bytes, ...] = directive(v.header_names, "", "Header fields that are cut out while a message is sent.", empty=())
    pix_bug_workaround: bool = directive(
        v.boolean, "true", "Send the final dot in a packet of its own where the greeting shows ten asterisks or more."
    )
    log_connections: bool = directive(v.boolean, "false", "Log when a connection opens and ends.")
    log_commands: bool = directive(v.boolean, "false", "Log commands and replies.")
    log_data: bool = directive(v.boolean, "false", "Log the beginning of each piece of a message that is sent.")
    log_resolution: bool = directive(v.boolean, "false", "Log what DNS or smtp-hosts gave, for each connection.")
    log_transfer_failures: bool = directive(v.boolean, "false", "Log connections that are lost between DATA and the reply to the final dot.")
    allow_private_mx: bool = directive(v.boolean, "false", "Use MXs with loopback, unspecified, link-local or multicast addresses too.  Ours.")
    use_starttls: bool = directive(v.boolean, "true", "Use TLS where the peer offers it, and go on without where that fails.")
    require_starttls: bool = directive(v.boolean, "false", "Send by TLS only: what cannot be sent so waits.")
    smtp_tls_allow_tlsv1: bool = directive(v.boolean, "false", "Allows TLS 1.0.", name="smtp-tls-allow-tlsv1")
    smtp_tls_allow_tlsv1_1: bool = directive(v.boolean, "false", "Allows TLS 1.1.  PowerMTA: true.", name="smtp-tls-allow-tlsv1.1")
    smtp_tls_allow_tlsv1_2: bool = directive(v.boolean, "true", "Allows TLS 1.2.", name="smtp-tls-allow-tlsv1.2")
    smtp_tls_allow_tlsv1_3: bool = directive(v.boolean, "true", "Allows TLS 1.3.", name="smtp-tls-allow-tlsv1.3")
    smtp_tls_ciphers: str = directive(tv.ciphers, CIPHERS, "Ciphers up to TLS 1.2, in OpenSSL's words.")
    smtp_tls_ciphersuites: str = directive(
        tv.ciphersuites, "", "Cipher suites of TLS 1.3: OpenSSL's three are always among them.",
        name="smtp-tls-tlsv1.3-ciphersuites",
    )
    smtp_tls_ca_file: str = directive(
        tv.file_or_nothing, "", "Who must have signed the peer's certificate, which must be for the name of the host; else TLS has failed."
    )
    smtp_client_certificate: PemFile = directive(  # noqa: RUF009 - a named tuple: nobody can change it
        tv.pem_file, "", "Key and certificate that we show to peers that ask for one.", empty=NO_PEM
    )
    reuse_ssl_session: bool = directive(v.boolean, "true", "Resume TLS sessions, of TLS 1.3 too.  PowerMTA: false.")
    log_tls: bool = directive(v.boolean, "false", "Log the TLS of each connection.")
    tls: ClientTls = field(init=False, default=OFF, repr=False)  # all of that in one
    traced: bool = field(init=False, default=False)  # any of the logs of a connection is wanted

    def __post_init__(self) -> None:
        object.__setattr__(self, "traced", self.log_connections or self.log_commands or self.log_data or self.log_tls)
        if self.use_starttls or self.require_starttls:
            object.__setattr__(self, "tls", self._tls())

    def _tls(self) -> ClientTls:
        return client_tls(
            "must" if self.require_starttls else "may",
            versions(self.smtp_tls_allow_tlsv1, self.smtp_tls_allow_tlsv1_1, self.smtp_tls_allow_tlsv1_2, self.smtp_tls_allow_tlsv1_3),
            self.smtp_tls_ciphers,
            self.smtp_tls_ca_file,
            self.smtp_client_certificate,
            self.reuse_ssl_session,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualMta:
    """One <virtual-mta> section: a sending identity."""

    name: str
    source_hosts: tuple[v.SourceHost, ...] = repeated(
        v.source_host,
        "Address or CIDR to send from and its EHLO name; several take turns.",
        name="smtp-source-host",
        aliases=(("smtp-source-ip", v.source_address),),
    )
    host_name: str = directive(v.host_name, "", "EHLO name where smtp-source-host gives none.")
    max_smtp_out: int = directive(v.limit, "unlimited", "Connections over all queues of the virtual MTA; 0: no limit.")
    include_headers_from: str = directive(v.file, "", "A file of header fields for mail that it sends, after the server's and those of its pools.")
    included_headers: bytes = b""  # of that file and the pools', in wire form: build fills it


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualMtaPool:
    """One <virtual-mta-pool> section: virtual MTAs that take turns."""

    name: str
    members: tuple[str, ...] = repeated(v.name, "A member; each gets its turn.", name="virtual-mta")
    max_smtp_out: int = directive(v.limit, "unlimited", "max-smtp-out of each member that sets none itself.")
    include_headers_from: str = directive(v.file, "", "A file of header fields for mail that its members send, whoever chose them.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AcctFileSettings:
    """One <acct-file> section: where accounting records go."""

    path: str
    records: tuple[str, ...] = directive(v.record_types, "d,b", "Which types of record: d, b, t, tq.")
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # record-fields, per type; absent: all
    iso_times: bool = directive(v.boolean, "yes", "Times as 2026-01-31 12:00:00+0000; no: Unix seconds.")
    world_readable: bool = directive(v.boolean, "no", "Whether everybody may read the file.")
    max_size_bytes: int = directive(v.acct_size, "250M", "Begin a new file at this size; 0: never for its size.  A new day begins one, too.")
    move_to: str = directive(v.file, "", "Directory on the same volume that closed files are handed over to.")
    move_interval_s: float = directive(v.positive_seconds, "1d", "With move-to: close a file when it is so old.")
    delete_after_s: float | None = directive(v.seconds_or_never, "8d", "Delete a file so long after it was closed; not what move-to handed over.")
    user_string: str = directive(v.text, "", "What stands in the column userString, which a file has only with it.")
    privacy_policy: Masking = directive(  # noqa: RUF009 - immutable
        masking, "retain", "What stands in place of recipients' local parts, in their columns, in replies and in senders made by verp-default."
    )
    queue_filter: tuple[QueuePattern, ...] = directive(
        v.queue_patterns, "*/*", "Only records of these queues: the first pattern that matches decides, a ! before it forbids."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerStanza:
    """One <smtp-listener> section: what smtp-listener says, in a stanza."""

    source: str = directive(v.name, "", "A <source> to apply to its clients.")
    proxy_protocol_from: tuple[Network, ...] = directive(
        v.networks,
        "",
        "Proxies in front of this listener: from their addresses each connection has to begin with a PROXY header (version 1 or 2), "
        "and the client is who that names.  Ours.",
        empty=(),
    )
    immediate_tls: bool = directive(v.boolean, "false", "TLS from the first byte, as on port 465.")
    tls_certificate: tuple[PemFile, ...] = repeated(tv.pem_file, "Certificates of this listener, instead of smtp-server-tls-certificate.")
    tls_allow_tlsv1: bool = directive(v.boolean, "false", "Allows TLS 1.0 here; unset: as the server.", name="tls-allow-tlsv1")
    tls_allow_tlsv1_1: bool = directive(v.boolean, "false", "Allows TLS 1.1 here; unset: as the server.", name="tls-allow-tlsv1.1")
    tls_allow_tlsv1_2: bool = directive(v.boolean, "true", "Allows TLS 1.2 here; unset: as the server.", name="tls-allow-tlsv1.2")
    tls_allow_tlsv1_3: bool = directive(v.boolean, "true", "Allows TLS 1.3 here; unset: as the server.", name="tls-allow-tlsv1.3")
    tls_ciphers: str = directive(tv.ciphers, CIPHERS, "Ciphers up to TLS 1.2 here (unset: as the server), in OpenSSL's words.")
    tls_ciphersuites: str = directive(
        tv.ciphersuites, "", "Cipher suites of TLS 1.3 here; unset: as the server: OpenSSL's three are always among them.",
        name="tls-tlsv1.3-ciphersuites",
    )
    tls_ca_file: str = directive(tv.file_or_nothing, "", "Who signs clients' certificates; unset: as the server.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AliasesStanza:
    """The <aliases> section: lines of alias, as outside it."""

    alias: tuple[tuple[str, tuple[str, ...]], ...] = repeated(list_entry.alias, "As outside a stanza: address, then the addresses that get its mail.")
