"""What directives are in PowerMTA: its default, and for those that do not work here (yet) its meaning.  Facts, in our own words, for docs/config.md.

A line is NAMES | DEFAULT | MEANING.  What works here is described by its own row; for it only the default counts.
"""

from __future__ import annotations

from functools import cache

_TEXT: dict[str, str] = {}

_TEXT[""] = """
smtp-listener | 0.0.0.0:25 |
host-name | the system's name |
run-as-root | true |
name-server | the system's |
total-max-smtp-in | 100 |
total-max-smtp-out | 1200 |
always-allow-relaying | false |
log-rotate | 8 |
log-auto-rotation | true |
log-file-world-readable | false |
alias | | Mail for an address, a local part or *@DOMAIN goes to other addresses.
custom-dsn-from-header | | From field of every DSN.
domain-key | | DKIM key: selector, domain (* is the message's own), file. The first that fits signs; a virtual MTA's come before the server's.
domain-suffix | | Completes addresses without a domain.
dsn-failed-body-template-from | | File with the text of DSNs, with variables.
dsn-failed-from-template | | From field of failure DSNs, with variables.
dsn-failed-subject-template | | Subject of failure DSNs, with variables.
dummy-smtp-port | 0 | Port of a built-in server that takes mail and forgets it.
dummy-smtp-ip | all | Addresses of that server.
dummy-smtp-await-slot dummy-smtp-has-chunking dummy-smtp-has-pipelining | false | What that server offers.
dummy-smtp-has-verp dummy-smtp-has-mailmerge | false | What that server offers.
dummy-smtp-latency | 0 | Milliseconds that it takes to answer.
dummy-smtp-update-stats | true | Whether its mail counts in the status.
dummy-smtp-blacklist dummy-smtp-log-blacklist | | Whom it refuses, and whether it logs that.
dummy-smtp-blacklist-bounce-method dummy-smtp-blacklist-bounce-percent | | How it refuses, and how often.
edns-udp-length | off | EDNS payload size, 512 to 2048.
enable-signals | true where there is a <signals> | Reports events to the vendor's analytics.
host-id | 0 | Number of this server in generated Message-IDs.
http-access | | Who may see or use the web monitor, first match: none, monitor, operator, admin.
http-api-key | | Key that gives a request admin's rights from anywhere.
http-csrf-protection | true | Refuses requests that change something by GET, or without a key or token.
http-default-max-items | 10 | Rows in lists.
http-default-sort-order | rcpt | Order of lists.
http-log-data http-log-requests http-log-tls | false | Logs that.
http-mgmt-port | 8080 | Port of the web monitor; 0: none.
http-mgmt-source no-http-mgmt-source | | Older form of http-access.
http-redirect-to-https | true | Sends HTTP to HTTPS.
http-strict-transport-security-max-age | 0 | Seconds of HSTS.
include-headers-from | | File of fields to put behind our Received field.
invalid-virtual-mta-fallback | | Virtual MTA for mail that asks for an unknown one, where that is not refused.
ip-connection-limit | | Most connections to addresses in a network.
mx-connection-limit | | Most connections to MX hosts of a name, per source address.
mailmerge-expands-undefined-variables | true | Whether an undefined variable of a mail merge becomes empty.
max-memory-usage-percent | 90 | Share of memory above which MAIL gets 452; 100: off.
max-name-queries | | Most DNS queries at once.
pickup | | Directory from which files are taken as mail, and one for those that are bad.
pickup-remove-dot | false | Undoes dot-stuffing in them.
pickup-retry-interval | | No effect.
pmc-acct-min-free-space | unlimited | For the vendor's console.
relay-debug | false | Answers 4xx instead of 5xx where relaying is refused.
smtp-await-slot | false | A client that finds the server full waits instead of getting 421.
smtp-proxy-source-host | | Sends through a proxy: local address, proxy, client address, host name.
spool-delete-corrupted | false | Deletes files that cannot be read.
spool-max-recipients | auto | Recipients above which new mail gets 4xx.
sync-msg-create sync-msg-update | | Whether files are synced.
thread-max-priority | 0 | Nice value.
thread-min-priority | 15 | Nice value.
thread-reuse | true | Keeps threads that have nothing to do.
total-max-file | | Most deliveries to files at once.
track-time-first-attempt | false | Fills timeFirstAttempt in accounting.
use-proxy | | <proxy> stanzas to send through, in order.
volume-audit-api-key | | For licences by volume.
"""

_TEXT["spool"] = """
deliver-only | false |
min-free-space | 0 |
delete-file-holders | false | Deletes empty holder files after delivery.
priority | 1 | The directory with the highest is filled first.
"""

_TEXT["source"] = """
smtp-service | true |
default-virtual-mta | {default} |
reject-invalid-virtual-mta | true |
max-message-size | unlimited |
max-rcpt-per-message | 0 |
max-message-hops | 100 |
add-received-header | true |
smtp-data-timeout smtp-command-timeout | 10m |
accept-invalid-recipients | false | Takes recipients that are malformed or suppressed, and bounces them later.
add-date-header | no | Adds Date where it is missing, or replaces it (override).
add-message-id-header | false | Adds Message-ID where it is missing.
allow-auth | true | Offers AUTH.
allow-chunking | true | Offers CHUNKING.
allow-mailmerge always-allow-api-submission | false | Takes mail merges (XMRG, XDFN, XPRT).
allow-smtputf8 | true | Offers SMTPUTF8.
allow-starttls | false | Offers STARTTLS.
allow-unencrypted-plain-auth | false | Takes passwords in plain text without TLS.
auto-qualify-domain | true | Completes addresses by domain-suffix.
bcc | | Gets a copy of every message.
broken-auth-clients | | No effect.
check-dkim-inbound check-spf-inbound | false | Checks, and records the result in Authentication-Results.
check-iprev-inbound | false | Looks the client's name up from its address and back.
check-spf-inbound-max-void-lookups | 2 | Empty look-ups that SPF may make.
check-mfrom-inbound check-pra-inbound check-spf-inbound-best-guess | | Sender ID.
date-header-time | reception | Which time an added Date has.
disconnect-on-transient-error | false | Closes the connection instead of a 4xx.
dsn-return-default | system | What DSNs return where the sender did not say.
jobid-header | | Header to take the job from.
jobid-prefix | | Stands before each job; {auth}: the user.
log-tls | false | Logs TLS.
pattern-list | | <pattern-list> that chooses virtual MTA and priority.
process-x-dkim-key process-x-dkim-options process-x-envid process-x-job process-x-schedule | false | Obeys the header, and takes it out.
retain-x-dkim-key retain-x-dkim-options retain-x-job retain-x-schedule | false | Leaves the header in.
reject-iprev-check-fail reject-iprev-check-permerror reject-iprev-check-temperror | false | Refuses at that result (a temperror with 4xx).
reject-spf-check-fail reject-spf-check-permerror reject-spf-check-temperror | true | Refuses at that result (a temperror with 4xx).
remove-header | | Fields to take out at delivery.
remove-received-headers | | Takes out Received fields that came with the message.
require-auth | false | Takes mail only after AUTH.
require-starttls-before-auth | false | Takes AUTH only after STARTTLS.
rewrite-list | | <rewrite-list> for senders.
smtp-max-auth-failure-rate | unlimited | Failures of AUTH after which a client is shut out.
source-group | | <source-group> that it shares connections with.
suppress-local-dsn | false | Sends no DSNs for this client's mail.
suppression-lists | | <address-list>s of recipients that are refused.
too-many-rcpts-fails-message | false | Refuses the whole message for too many recipients.
trace-dkim-check trace-iprev-check trace-spf-check | false | Logs each step.
verp-default | false | Gives each recipient a sender of its own.
"""

_TEXT["domain"] = """
max-smtp-out | 20 |
max-msg-per-connection | 0 |
max-rcpt-per-message | 1000 |
max-errors-per-connection | unlimited |
retry-after retry-recipients-after | 10m |
retry-after-dns-error | 1m |
bounce-after | 4d12h |
bounce-upon-no-mx | false |
bounce-upon-5xx-greeting | true |
default-smtp-port | 25 |
mx-connection-attempts | 10 |
type | smtp |
connect-timeout | 2m |
smtp-greeting-timeout smtp-multiple-line-response-timeout | 5m |
data-send-timeout | 3m |
smtp-data-termination-timeout | 10m |
connection-idle-timeout | 0 |
ignore-8bitmime ignore-pipelining ignore-chunking ignore-dsn | false |
pix-bug-workaround | true |
smtp-553-means-invalid-mailbox | yes |
smtp-421-means-mx-unavailable | no |
max-events-recorded | 10 |
add-gm-token | | For an old service.
add-x-msys-api-header sparkpost-sandbox sparkpost-ip-pool | | For the vendor's relay, {sparkpost}.
allow-cancel-during-transfer | true | A deleted recipient ends a transfer.
allow-priority-interruption | yes | Mail of higher priority takes connections over.
allow-priority-interruption-during-transfer | no | Also in the middle of a message.
auth-password auth-username | "" | Login at the next hop.
backoff-max-connect-rate backoff-max-data-volume-rate backoff-max-msg-rate backoff-max-msg-per-hour | as in normal mode | The limit in backoff mode.
backoff-max-smtp-out | 20 | Connections in backoff mode.
backoff-notify disabled-source-ip-notify | none | Who gets a mail when that begins and ends.
backoff-reroute-to-virtual-mta | none | In backoff mode queued and new mail moves to this virtual MTA.
backoff-retry-after | 1h | retry-after in backoff mode.
backoff-to-normal-after | never | How long backoff mode lasts.
backoff-to-normal-after-delivery | false | A delivery ends backoff mode.
backoff-upon-all-sources-disabled | false | Backoff mode when no source address is left.
bcc-upon-delivery | | Gets a copy of what was delivered.
bounce-address | | In public files, not in the guides.
check-mfrom-outbound check-pra-outbound | | Sender ID.
check-spf-outbound | false | Checks our own SPF before it sends.
command | | Program that gets the message, for type pipe.
deliver-local-dsn | yes | Whether DSNs are sent.
delivery-priority | | Old form of queue-priority.
disable-mx-rollup | false | Leaves this domain out of rollups.
disable-acct-records | none | Types of record that are not written.
discard-as-bounce | false | type discard reports bounces.
dk-sign | | Signs with DomainKeys.
dkim-add-body-limit dkim-add-timestamp | false | The tags l= and t=.
dkim-algorithm | rsa-sha256 | Signs with it.
dkim-body-canon dkim-headers-canon | relaxed | Canonical form.
dkim-disallow-adding-headers | none | Fields signed once more than they occur.
dkim-expire-after | never | The tag x=.
dkim-headers | none | Fields to sign besides the usual ones.
dkim-identity | sender-or-from | The tag i=, which also finds the key.
dkim-identity-fallback | none | Likewise, where no key fits that.
dkim-query-method | none | The tag q=.
dkim-sign | false | Signs with a domain-key.
dsn-format | standard | Form of DSNs.
file-destination | | Where messages are written, for type file.
file-format | newfile-plain | How.
http-delivery-extra-headers http-delivery-url | | Where messages are posted, for type http-delivery.
log-commands log-connections log-data log-disabled-ips log-messages log-resolution log-tls log-transfer-failures | false | Logs that.
macro-variables-preserve-case | false | For file-destination and command.
max-cold-virtual-mta-msg | 0/d | Mail for this domain that goes to the cold virtual MTA, before the warm one gets the rest.
max-connect-rate | unlimited | New connections in a time.
max-data-volume-rate | unlimited | Bytes delivered in a time.
max-msg-per-hour max-smtp-out-per-source-ip | | Old forms of max-msg-rate and source-ip-max-smtp-out.
max-msg-rate | unlimited | Recipients attempted in a time.
notify-of-delay-every | 4h | How often a sender who asked for it hears of the delay.
queue-priority | 50 | Queues of higher priority may take connections from lower ones.
queue-to | none | Another queue that takes this one's mail.
reenable-source-ip-after | never | When a disabled source address is used again.
require-starttls | false | Sends only with TLS.
reroute-to-virtual-mta | none | Mail moves to this virtual MTA.
reuse-ssl-session | false | Resumes TLS sessions.
smtp-client-certificate | none | Certificate to show to the peer.
smtp-out-rampup-interval | 0 | Least time between the openings of two connections.
smtp-pattern-list | none | <smtp-pattern-list> that replies are held against.
source-ip-max-connect-rate source-ip-max-data-volume-rate | unlimited | The same limit for each source address in a network.
source-ip-max-msg-rate source-ip-max-smtp-out | unlimited | The same limit for each source address in a network.
track-recipient-events | false | Keeps a queue's last 50 events.
use-dane | false | Verifies by DANE.
use-mta-sts | false | Verifies by MTA-STS.
use-starttls | true | Uses TLS where the peer offers it.
use-unencrypted-plain-auth | false | Logs in without TLS, too.
"""

_TEXT["virtual-mta"] = """
max-smtp-out | unlimited |
auto-cold-virtual-mta | | Makes NAME-cold with this address. Old form.
cold-virtual-mta | none | Virtual MTAs that warm up: max-cold-virtual-mta-msg says how much they get.
domain-key | none | DKIM keys, before the server's.
enable-signals | as the server's | Reports events to the vendor's analytics.
include-headers-from | none | File of fields to add, besides the server's.
max-smtp-data-volume-rate | unlimited | Bytes delivered in a time, over all queues of the virtual MTA.
max-smtp-msg-rate | unlimited | Recipients attempted in a time, over all queues of the virtual MTA.
proxy-protocol | 1 | Version of the proxies' protocol.
rewrite-list | none | <rewrite-list> for senders.
smtp-proxy-source-host | none | Sends through a proxy: local address, proxy, client address, host name.
use-proxy | none | <proxy> stanzas to send through, in order.
"""
_TEXT["virtual-mta-pool"] = _TEXT["virtual-mta"]

_TEXT["acct-file"] = """
records | d,b |
iso-times | yes |
world-readable | no |
max-size | 250M |
move-interval | 1d |
move-to | none |
delete-after | 8d |
count-moved-records | false | Counts the records of a file that is handed over.
http-webhook-url http-webhook-extra-headers http-webhook-certificate http-webhook-ca-file http-webhook-transfer-encoding | | Posts records in batches.
http-webhook-connect-timeout http-webhook-io-timeout | 5s | For that.
http-webhook-max-interval | 5m | For that.
http-webhook-log-verbose | false | For that.
map-header-to-field | none | Which header fills a column.
privacy-policy | retain | Masks the local parts of recipients.
retry-interval | 5m | When a command that failed is started again.
sync | false | Syncs the file.
write-timeout | 1m | How long a command may take to read.
"""

_TEXT["smtp-listener"] = """
await-slot | false | A client that finds the server full waits.
immediate-tls | false | TLS from the first byte.
tls-certificate | the server's | Certificate and key.
"""

_TEXT["source-group"] = """
max-smtp-in | unlimited | Connections of all its sources together.
reserved-smtp-in | 0 | Connections kept free for them.
"""

_TEXT["smtp-user"] = """
authentication-method | password | By password, the system's accounts, or a certificate.
password | | In plain text.
source | | <source> that applies to this user; {auth} to all of them.
tls-certificate | | Of the user.
"""

_TEXT["pattern-list"] = """
header mail-from rcpt-to | | What mail whose field, sender or recipient matches gets. The first match counts.
* | | What all other mail gets.
"""

_TEXT["smtp-pattern-list"] = "reply | | What a reply that matches does to queue, recipient or source address. The first match counts."
_TEXT["mx-rollup-list"] = "mx | | Puts domains with this MX into one queue, NAME.rollup."
_TEXT["rewrite-list"] = """
mail-from | | Replaces a sender.
from-domain | | Replaces the domain in From.
"""
_TEXT["address-list"] = """
address | | An address, a local part or a /regex/.
address-file | | A file of them.
domain | | A domain.
"""
_TEXT["email-patterns"] = """
body-pattern-file | | Patterns that find the parts of a report.
log-match-info | false | Logs what matched.
"""
_TEXT["bounce-processor"] = """
deliver-email | | Old form of both that follow.
deliver-matched-email | false | Delivers reports after they were read.
deliver-unmatched-email | true | Delivers what is no report.
forward-errors-to | | Who gets what could not be read.
forward-unmatched-to | | Who gets what is no report.
"""
_TEXT["feedback-loop-processor"] = _TEXT["bounce-processor"]
_TEXT["aliases"] = "alias | | As at the top level."
_TEXT["domain-key-list"] = "domain-key | | As at the top level, for mail whose header names the list."
_TEXT["dns"] = """
precached-domains-file | | Domains to look up in advance.
precached-max-domains | 500 | How many.
precached-refresh-interval | 5m | How often.
"""
_TEXT["proxy"] = """
client | | The address and name that others see.
protocol-version | 1 | Of the PROXY protocol.
server | | Host and port.
"""
_TEXT["vault"] = """
access-token | | For the server.
cache-ttl | 24h | How long keys are kept.
server-url | | Where keys come from.
"""
_TEXT["transmissions-api"] = """
api-key | | Key of a client.
log-data log-requests log-tls | false | Logs that.
"""
_TEXT["transmissions-api-listener"] = "tls-certificate | | Certificate and key; required."
_TEXT["signals"] = """
api-key upload-url | | Account and place of the vendor's analytics.
custom-message-id-header | | Field that names the message.
engagement-tracking | | Follows opens and clicks.
log-verbose | false | Logs more.
min-free-space | 20M | Collects nothing below it.
privacy-policy | retain | Masks recipients.
process-x-sp-subaccount-id retain-x-sp-subaccount-id | false | A header that names a part of the account.
"""
_TEXT["signals-filter"] = "sender-or-from | | Which mail is reported."
_TEXT["bounce-category-patterns"] = "/ | | Category of a bounce whose status and reply match. The first match counts."

_TLS = {  # whatever stands before it
    "allow-sslv3": ("", "No effect."),
    "allow-tlsv1": ("false", "Allows TLS 1.0."),
    "allow-tlsv1.1": ("false", "Allows TLS 1.1."),
    "allow-tlsv1.2": ("true", "Allows TLS 1.2."),
    "allow-tlsv1.3": ("true", "Allows TLS 1.3."),
    "v1.3-ciphersuites": ("OpenSSL's", "Cipher suites of TLS 1.3."),
    "ciphers": ("HIGH:!ADH:@STRENGTH", "Ciphers up to TLS 1.2."),
    "dh-key-length": ("1024", "Length of Diffie-Hellman keys."),
    "ca-file": ("none", "Authorities that peers' certificates are verified by."),
    "certificate": ("none", "Certificate and key."),
}


@cache
def _table(tag: str) -> dict[str, tuple[str, str]]:
    found = {}
    for line in _TEXT.get(tag, "").strip().splitlines():
        names, default, meaning = (part.strip() for part in line.split("|", 2))
        found.update(dict.fromkeys(names.split(), (default, meaning)))
    return found


def default_and_meaning(tag: str, name: str) -> tuple[str, str]:
    """PowerMTA's default of the directive *name* in the stanza *tag*, and what it does there; "" for what is not known, or ours."""
    table = _table(tag)
    if name in table:
        return table[name]
    if name.startswith("second-dkim-"):
        default, meaning = _table("domain").get(name.removeprefix("second-"), ("", ""))
        return default, f"A second signature: {meaning[:1].lower()}{meaning[1:]}"
    if "tls" in name:
        if name == "smtp-tls-allow-tlsv1.1":
            return "true", "Allows TLS 1.1."
        return next((told for ending, told in _TLS.items() if name.endswith(ending)), ("", ""))
    return "", ""


def known() -> dict[str, set[str]]:
    """The names that stand here, by stanza."""
    return {tag: set(_table(tag)) for tag in _TEXT}
