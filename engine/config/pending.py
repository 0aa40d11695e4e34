"""The directives of PowerMTA that do not work yet, each by name and type.

One stops the start if starting without it would let in or send out what the operator forbade or relied on: `stops` says what that is.
The value decides: `require-auth false` asks for nothing that we do not do.
"""

from __future__ import annotations

from engine.config import list_entry
from engine.config import values as v
from engine.config.directive import Directive, ignored, later

_DKIM = v.choice("simple", "relaxed")
_DEPRECATED = "Deprecated by PowerMTA; has no effect."


def _server() -> tuple[Directive, ...]:
    return (
        later("domain-key", v.domain_key),
        *(later(f"dummy-smtp-{flag}", v.boolean, "false") for flag in ("has-mailmerge", "has-verp")),
        later("enable-signals", v.text, "false"),
        later("http-access", list_entry.access),
        later("http-api-key", v.secret),
        later("http-csrf-protection", v.boolean),
        later("http-default-max-items", v.count),
        later("http-default-sort-order", v.choice("rcpt", "name", "size")),
        *(later(f"http-log-{what}", v.boolean, "false") for what in ("data", "requests", "tls")),
        later("http-mgmt-port", v.port_or_off, "0"),
        ignored("http-mgmt-source", v.text, _DEPRECATED),
        ignored("no-http-mgmt-source", v.text, _DEPRECATED),
        later("http-redirect-to-https", v.boolean),
        later("http-strict-transport-security-max-age", v.number),
        *_tls_rows("http-tls-"),
        later("ip-connection-limit", v.network_limit, "0/0 unlimited", stops="open more connections than this"),
        later("mx-connection-limit", v.name_limit, "* unlimited", stops="open more connections than this"),
        later("mailmerge-expands-undefined-variables", v.boolean),
        ignored("max-name-queries", v.number, "Look-ups are bounded by themselves."),
        later("pickup", v.two_words),
        later("pickup-remove-dot", v.boolean),
        ignored("pickup-retry-interval", v.seconds, _DEPRECATED),
        ignored("pmc-acct-min-free-space", v.size, "Belongs to PowerMTA's console."),
        later("smtp-proxy-source-host", v.words, stops="send from our own addresses instead of the proxy's"),
        *_tls_ignored("smtp-server-tls-"),
        later("spool-max-recipients", v.name, "auto"),
        ignored("sync-msg-create", v.boolean, "Every message is on disk before its 250, whatever this says."),
        ignored("sync-msg-update", v.boolean, "Every outcome is on disk before it is forgotten, whatever this says."),
        *(ignored(f"thread-{what}", v.text, "There are no threads to set.") for what in ("max-priority", "min-priority", "reuse")),
        later("total-max-file", v.number),
        later("use-proxy", v.names, '""', stops="send from our own addresses instead of the proxy's"),
        ignored("volume-audit-api-key", v.secret, "Belongs to PowerMTA's licence."),
    )


def _tls_rows(prefix: str) -> tuple[Directive, ...]:
    rows = [later(f"{prefix}allow-{version}", v.boolean) for version in ("tlsv1", "tlsv1.1", "tlsv1.2", "tlsv1.3")]
    rows.append(ignored(f"{prefix}allow-sslv3", v.boolean, "SSLv3 is never used."))
    rows.append(later(f"{prefix}ciphers", v.text))
    rows.append(later(f"{prefix}tlsv1.3-ciphersuites", v.text))
    rows.append(later(f"{prefix}ca-file", v.file))
    rows.append(later(f"{prefix}dh-key-length", v.number))
    return tuple(rows)


def _tls_ignored(prefix: str, *, dh: bool = True) -> tuple[Directive, ...]:
    rows = [ignored(f"{prefix}allow-sslv3", v.boolean, "SSLv3 is never used.")]
    if dh:
        rows.append(ignored(f"{prefix}dh-key-length", v.number, "Keys are agreed on by elliptic curves (ECDHE) only."))
    return tuple(rows)


def _source() -> tuple[Directive, ...]:
    return (
        later("allow-mailmerge", v.boolean, "false"),
        later("always-allow-api-submission", v.boolean, "false", old="allow-mailmerge"),
        ignored("broken-auth-clients", v.text, _DEPRECATED),
        later("check-dkim-inbound", v.boolean, "false"),
        *(ignored(f"check-{what}-inbound", v.boolean, "Sender ID is dead; nothing is checked.") for what in ("mfrom", "pra")),
        ignored("check-spf-inbound-best-guess", v.boolean, "Sender ID is dead; nothing is checked."),
        later("pattern-list", v.name, stops="choose other virtual MTAs than the list does"),
        later("process-x-dkim-key", v.boolean, "false", stops="send mail unsigned that the keys in these headers are to sign"),
        later("process-x-schedule", v.boolean, "false", stops="send mail outside the times that it asks for"),
        later("rewrite-list", v.name, stops="send mail from addresses that the list replaces"),
        later("suppression-lists", v.names, '""', stops="send mail to suppressed recipients"),
        later("trace-dkim-check", v.boolean, "false"),
    )


def _domain() -> tuple[Directive, ...]:
    return (*_domain_limits(), *_domain_queue(), *_domain_delivery(), *_domain_dkim())


def _domain_limits() -> tuple[Directive, ...]:
    more = "send faster than this"
    return (
        later("backoff-max-connect-rate", v.rate, "unlimited"),
        later("backoff-max-data-volume-rate", v.data_rate, "unlimited"),
        later("backoff-max-msg-per-hour", v.per_hour, "unlimited", old="backoff-max-msg-rate"),
        later("backoff-max-msg-rate", v.rate, "unlimited"),
        later("backoff-max-smtp-out", v.limit),
        later("max-cold-virtual-mta-msg", v.many("cold limits", v.rate_word)),
        later("max-connect-rate", v.rate, "unlimited", stops=more),
        later("max-data-volume-rate", v.data_rate, "unlimited", stops=more),
        later("max-msg-per-hour", v.per_hour, "unlimited", stops=more, old="max-msg-rate"),
        later("max-msg-rate", v.rate, "unlimited", stops=more),
        later(
            "max-smtp-out-per-source-ip",
            v.every_network_limit,
            "unlimited",
            stops="open more connections than this",
            old="source-ip-max-smtp-out 0/0",
        ),
        later("smtp-out-rampup-interval", v.seconds, "0", stops="open connections faster than this"),
        *(later(f"source-ip-max-{what}-rate", v.network_rate, "0/0 unlimited", stops=more) for what in ("connect", "data-volume", "msg")),
        later("source-ip-max-smtp-out", v.network_limit, "0/0 unlimited", stops="open more connections than this"),
    )


def _domain_queue() -> tuple[Directive, ...]:
    return (
        ignored("add-gm-token", v.boolean, "Belongs to an old service."),
        later("add-x-msys-api-header", v.text),
        later("allow-cancel-during-transfer", v.boolean),
        later("allow-priority-interruption", v.boolean, "no"),
        later("allow-priority-interruption-during-transfer", v.boolean, "no"),
        later("backoff-notify", v.mail_addresses, '""'),
        later("backoff-reroute-to-virtual-mta", v.name_or_empty, '""', stops="send by another virtual MTA than this"),
        later("backoff-retry-after", v.seconds_list),
        later("backoff-to-normal-after", v.seconds_or_never, "never"),
        later("backoff-to-normal-after-delivery", v.boolean, "false"),
        later("backoff-upon-all-sources-disabled", v.boolean, "false"),
        ignored("delivery-priority", v.text, _DEPRECATED),
        later("disable-mx-rollup", v.boolean, "true"),
        later("disabled-source-ip-notify", v.mail_addresses, '""'),
        later("queue-priority", v.percent),
        later("queue-to", v.name_or_empty, '""', stops="send this mail by another queue"),
        later("reenable-source-ip-after", v.seconds_or_never, "never"),
        later("reroute-to-virtual-mta", v.name_or_empty, '""', stops="send by another virtual MTA than this"),
        later("smtp-pattern-list", v.name_or_empty, '""', stops="not heed what these patterns say of replies"),
        later("sparkpost-ip-pool", v.text),
        later("sparkpost-sandbox", v.boolean, "false"),
    )


def _domain_delivery() -> tuple[Directive, ...]:
    logs = ("disabled-ips", "messages")
    return (
        later("auth-password", v.secret, '""'),
        later("auth-username", v.text, '""', stops="send without the authentication that the next hop expects"),
        *(ignored(f"check-{what}-outbound", v.boolean, "Sender ID is dead; nothing is checked.") for what in ("mfrom", "pra")),
        later("check-spf-outbound", v.boolean, "false", stops="send mail that this check holds back"),
        later("command", v.text),
        later("file-destination", v.text),
        later("file-format", v.choice("newfile-plain", "newfile-pickup", "append-mbox")),
        later("http-delivery-extra-headers", v.file),
        later("http-delivery-url", v.text),
        *(later(f"log-{what}", v.boolean, "false") for what in logs),
        later("macro-variables-preserve-case", v.boolean),
        *_tls_ignored("smtp-tls-", dh=False),
        later("use-dane", v.boolean, "false", stops="send without the verification that this demands"),
        later("use-mta-sts", v.boolean, "false", stops="send without the verification that this demands"),
        later("use-unencrypted-plain-auth", v.boolean, "false"),
    )


def _domain_dkim() -> tuple[Directive, ...]:
    rows = [ignored("dk-sign", v.boolean, "DomainKeys is dead; nothing is signed.")]
    for prefix in ("dkim", "second-dkim"):
        rows += [
            later(f"{prefix}-add-body-limit", v.boolean, "false"),
            later(f"{prefix}-add-timestamp", v.boolean, "false"),
            later(f"{prefix}-algorithm", v.choice("rsa-sha1", "rsa-sha256")),
            later(f"{prefix}-body-canon", _DKIM),
            later(f"{prefix}-disallow-adding-headers", v.names, '""'),
            later(f"{prefix}-expire-after", v.seconds_or_never, "never"),
            later(f"{prefix}-headers", v.text, '""'),
            later(f"{prefix}-headers-canon", _DKIM),
            later(f"{prefix}-identity", v.name),
            later(f"{prefix}-identity-fallback", v.name),
            later(f"{prefix}-query-method", v.text),
            later(f"{prefix}-sign", v.sign, "no", stops="send unsigned mail"),
        ]
    return tuple(rows)


def _virtual_mta() -> tuple[Directive, ...]:
    return (
        later("auto-cold-virtual-mta", v.words, old="cold-virtual-mta"),
        *_pool(),
        later("proxy-protocol", v.number),
        later("smtp-proxy-source-host", v.words, stops="send from our own addresses instead of the proxy's"),
        later("use-proxy", v.names, '""', stops="send from our own addresses instead of the proxy's"),
    )


def _pool() -> tuple[Directive, ...]:
    return (
        later("cold-virtual-mta", v.name),
        later("domain-key", v.domain_key),
        later("enable-signals", v.text, "false"),
        later("max-smtp-data-volume-rate", v.data_rate, "unlimited", stops="send faster than this"),
        later("max-smtp-msg-rate", v.rate, "unlimited", stops="send faster than this"),
        later("rewrite-list", v.name, stops="send mail from addresses that the list replaces"),
    )


def _acct_file() -> tuple[Directive, ...]:
    return (
        later("count-moved-records", v.boolean, "false"),
        later("http-webhook-ca-file", v.file),
        later("http-webhook-certificate", v.file_and_password),
        later("http-webhook-connect-timeout", v.seconds),
        later("http-webhook-extra-headers", v.file),
        later("http-webhook-io-timeout", v.seconds),
        later("http-webhook-log-verbose", v.boolean, "false"),
        later("http-webhook-max-interval", v.seconds),
        later("http-webhook-transfer-encoding", v.name),
        later("http-webhook-url", v.text),
        later("map-header-to-field", v.words),
        later("retry-interval", v.seconds),
        ignored("sync", v.boolean, "Records are always synced before the spool forgets them."),
        later("write-timeout", v.seconds),
    )


_processor = (
    later("deliver-email", v.boolean, old="deliver-matched-email and deliver-unmatched-email"),
    later("deliver-matched-email", v.boolean),
    later("deliver-unmatched-email", v.boolean),
    later("forward-errors-to", v.mail_address),
    later("forward-unmatched-to", v.mail_address),
)

PENDING: dict[str, tuple[Directive, ...]] = {
    "": _server(),
    "spool": (
        ignored("delete-file-holders", v.boolean, "There are no holder files."),
    ),
    "source": _source(),
    "smtp-user": (later("tls-certificate", v.file),),
    "domain": _domain(),
    "virtual-mta": _virtual_mta(),
    "virtual-mta-pool": _pool(),
    "acct-file": _acct_file(),
    "pattern-list": (
        later("header", list_entry.header),
        later("mail-from", list_entry.sender_or_recipient),
        later("rcpt-to", list_entry.sender_or_recipient),
        later("*", list_entry.result),
    ),
    "smtp-pattern-list": (later("reply", list_entry.reply),),
    "mx-rollup-list": (later("mx", list_entry.mx),),
    "rewrite-list": (later("from-domain", list_entry.domains), later("mail-from", list_entry.mailboxes)),
    "address-list": (later("address", v.address_pattern), later("address-file", v.file), later("domain", v.domain_pattern_texts)),
    "email-patterns": (later("body-pattern-file", v.file), later("log-match-info", v.boolean)),
    "bounce-processor": _processor,
    "feedback-loop-processor": _processor,
    "domain-key-list": (later("domain-key", v.domain_key),),
    "dns": (
        ignored("precached-domains-file", v.file, "The cache fills itself."),
        ignored("precached-max-domains", v.number, "The cache fills itself."),
        ignored("precached-refresh-interval", v.seconds, "The cache fills itself."),
    ),
    "smtp-listener": (
        later("await-slot", v.boolean, "false"),
        *_tls_ignored("tls-"),
    ),
    "proxy": (later("client", v.words), later("protocol-version", v.number), later("server", v.name)),
    "vault": (later("access-token", v.secret), later("cache-ttl", v.seconds), later("server-url", v.text)),
    "transmissions-api": (
        later("api-key", v.secret),
        *(later(f"log-{what}", v.boolean, "false") for what in ("data", "requests", "tls")),
    ),
    "transmissions-api-listener": (*_tls_rows("tls-"), later("tls-certificate", v.file_and_password)),
    "signals": (
        later("api-key", v.secret),
        later("custom-message-id-header", v.name),
        later("engagement-tracking", v.boolean),
        later("log-verbose", v.boolean),
        later("min-free-space", v.size),
        later("privacy-policy", v.privacy),
        later("process-x-sp-subaccount-id", v.boolean),
        later("retain-x-sp-subaccount-id", v.boolean),
        later("upload-url", v.text),
    ),
    "signals-filter": (later("sender-or-from", v.words),),
    "bounce-category-patterns": (later("/", list_entry.category),),
}
