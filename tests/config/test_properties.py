"""Whatever the text, the answer is a list of problems, soon; and what is written out is read back as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine import units
from engine.config import ClientSettings, Config, DomainSettings, HostSpec, Snapshot, build, describe, from_text
from engine.config import tls_value as tv
from engine.config import values as v
from engine.config.directive import rows_of
from engine.config.stanza import STANZAS
from engine.config.tls import SUITES, PemFile

SAMPLE = """# a bit of everything
postmaster postmaster@example.com
smtp-listener 0/0:2525 source={in}   # all
host-name mail.example.com
domain-macro com com, net
domain-macro isp aol.$com, yahoo.$com
relay-domain [*.]bounces.$com
relay-address /@foo(bar)?\\.com$/
relay-address "bounce@x.example"
sync-msg-create false
include more.conf
<source 0/0>
    smtp-service yes
    max-message-size 50M
    default-virtual-mta pool
</source>
<source {in}>
    always-allow-relaying yes
    allow-starttls true
</source>
<virtual-mta m1>
    smtp-source-host 192.0.2.10 m1.example
    domain-key s, *, /key.pem
    <domain *>
        max-smtp-out 3
        retry-after 10m, 1h
    </domain>
</virtual-mta>
<virtual-mta m2>
    smtp-source-host 192.0.2.0/28
</virtual-mta>
<virtual-mta-pool pool>
    virtual-mta m1
    virtual-mta m2
</virtual-mta-pool>
<domain $isp>
    max-msg-per-connection 100
    smtp-hosts a.example:25, [10.0.0.1]; lookup-mx:b.example
</domain>
<smtp-pattern-list l>
    reply /421 .* "later"/ mode=backoff
</smtp-pattern-list>
<bounce-category-patterns>
    /^[45]\\.1\\.1/ bad-mailbox
    // other
</bounce-category-patterns>
<acct-file /a.csv>
    records d, b
    record-fields d *, !orcpt, dlvTlsCipher
</acct-file>
<spool /s>
    deliver-only no
</spool>
log-file /l
"""
MORE = "<domain *>\nbounce-after 4d12h\n</domain>\n"


def test_the_sample_is_good() -> None:
    loaded = build(from_text(SAMPLE, **{"more.conf": MORE}))
    assert loaded.config is not None, describe(loaded.problems)


def check(snapshot: Snapshot) -> None:
    loaded = build(snapshot)
    assert (loaded.config is None) == any(p.severity == "error" for p in loaded.problems)
    for problem in loaded.problems:
        assert problem.line >= 1 and problem.column >= 1 and "\n" not in problem.text
    if loaded.config is not None:
        loaded.config.domain("aol.com", "m1")
        loaded.config.client("192.0.2.1", "{in}")
        assert {name for slot in loaded.config.slots(3) for name in slot.virtual_mtas} == set(loaded.config.virtual_mtas)
    assert build(Snapshot.decode(snapshot.encode())).problems == loaded.problems


@settings(deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes_give_problems_only(data: bytes) -> None:
    check(from_text(data))


_WORDS = sorted(
    {name for stanza in STANZAS.values() for name in stanza.directives}
    | {f"<{tag}>" for tag in STANZAS if tag}
    | {f"</{tag}>" for tag in STANZAS if tag}
)
_VALUES = st.sampled_from(
    [
        "",
        "yes",
        "0",
        "-1",
        "1/m",
        "10m",
        "never",
        '""',
        '"a',
        "a b",
        "/x(/ y",
        "/(a+)+$/ z",
        "0/0",
        "[::1]:25",
        "$isp",
        "a@b",
        "999999999999999999999",
        "é",
        "*",
        "{x}",
        ",",
        "a,,b",
        "#",
        "<>",
    ]
)


@settings(deadline=None)
@given(st.lists(st.builds("{} {}".format, st.sampled_from(_WORDS), _VALUES), max_size=12))
def test_every_name_with_any_value_gives_problems_only(lines: list[str]) -> None:
    check(from_text("log-file /l\n" + "\n".join(lines)))


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_mutilated_files_give_problems_only(data: st.DataObject) -> None:
    lines = SAMPLE.split("\n")
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(lines) - 1))
        match data.draw(st.sampled_from(["drop", "double", "swap", "cut", "insert"])):
            case "drop":
                del lines[at]
            case "double":
                lines.insert(data.draw(st.integers(0, len(lines))), lines[at])
            case "swap":
                other = data.draw(st.integers(0, len(lines) - 1))
                lines[at], lines[other] = lines[other], lines[at]
            case "cut":
                lines[at] = lines[at][: data.draw(st.integers(0, len(lines[at])))]
            case "insert":
                place = data.draw(st.integers(0, len(lines[at])))
                lines[at] = lines[at][:place] + data.draw(st.text(st.sampled_from('<>/"\\#$*,;:[]{}= \t\r0a'), max_size=4)) + lines[at][place:]
        lines = lines or [""]
    check(from_text("\n".join(lines), **{"more.conf": MORE}))


# --- round trip: settings -> text -> settings ---

_SECONDS = st.integers(1, 10**6).map(float)
_LABEL = st.text("abcxyz019", min_size=1, max_size=6)
_DOMAIN = st.lists(_LABEL, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example"]))
_HOST = st.one_of(
    st.builds(HostSpec, _DOMAIN, st.one_of(st.none(), st.integers(1, 65535))),
    st.builds(lambda ip, port: HostSpec(str(ip), port, literal=True), st.ip_addresses(), st.one_of(st.none(), st.integers(1, 65535))),
    st.builds(lambda name: HostSpec(name, lookup_mx=True), _DOMAIN),
)
_BY_TYPE: dict[str, st.SearchStrategy[Any]] = {
    v.boolean.name: st.booleans(),
    v.count.name: st.integers(1, 10**6),
    v.limit.name: st.integers(0, 10**6),
    v.port.name: st.integers(1, 65535),
    v.seconds.name: _SECONDS,
    v.idle_seconds.name: st.integers(0, 600).map(float),
    v.seconds_or_never.name: st.one_of(st.none(), _SECONDS),
    v.no_mx.name: st.one_of(st.none(), st.just(0.0), _SECONDS),
    v.seconds_list.name: st.lists(_SECONDS, min_size=1, max_size=30).map(tuple),
    v.size.name: st.integers(0, 1 << 40),
    v.smtp_hosts.name: st.lists(st.lists(_HOST, min_size=1, max_size=3).map(tuple), max_size=3).map(tuple),
    v.name.name: st.just("{default}"),
    v.mail_address_or_empty.name: st.sampled_from(["", "a@b.example", "postmaster"]),
    v.record_types.name: st.lists(st.sampled_from(["d", "b", "t", "tq"]), unique=True).map(tuple),
    v.header_names.name: st.lists(st.sampled_from([b"received", b"x-a", b"x-b"]), unique=True).map(tuple),
    "standard|plain-text": st.sampled_from(["standard", "plain-text"]),
    v.header_name.name: st.sampled_from([b"x-job-id", b"x-campaign"]),
    v.text.name: st.just("job-"),
    tv.file_or_nothing.name: st.sampled_from(["", "/etc/ca.pem", "/ca 2.pem"]),
    tv.pem_file.name: st.builds(PemFile, st.just("/etc/us.pem"), st.sampled_from(["", "secret"])),
    tv.ciphers.name: st.sampled_from(["HIGH:!ADH:@STRENGTH", "ECDHE+AESGCM"]),
    tv.ciphersuites.name: st.just(":".join(SUITES)),
    "reception|delivery": st.sampled_from(["reception", "delivery"]),
    "reject|normalize": st.sampled_from(["reject", "normalize"]),
    v.rate.name: st.one_of(st.none(), st.builds(units.Rate, st.integers(1, 10**6), st.integers(1, 10**6))),
    v.group_or_empty.name: st.sampled_from(["", "g"]),
    "no|yes|override": st.sampled_from(["no", "yes", "override"]),
    "headers|full|system": st.sampled_from(["headers", "full", "system"]),
    "smtp|discard|pipe|file|http-delivery": st.sampled_from(["smtp", "discard"]),
}


def render(type_name: str, value: Any) -> str:
    """*value* as an operator would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if type_name == v.size.name:
        return units.format_size(value)
    if type_name == v.no_mx.name and not value:
        return "no" if value is None else "yes"
    if type_name == v.seconds_or_never.name and value is None:
        return "never"
    if type_name == v.rate.name:
        return "unlimited" if value is None else f"{value.amount}/{value.period_s}s"
    if isinstance(value, float):
        return units.format_seconds(int(value))
    if type_name == v.seconds_list.name:
        return ",".join(units.format_seconds(int(item)) for item in value)
    if type_name == v.smtp_hosts.name:
        return "; ".join(", ".join(render_host(host) for host in group) for group in value) or '""'
    if type_name in (v.record_types.name, v.header_names.name):
        return ", ".join(item.decode() if isinstance(item, bytes) else item for item in value) or '""'
    if type_name == tv.pem_file.name:
        return f'"{value.path}" {value.password}'
    if type_name == tv.file_or_nothing.name:
        return f'"{value}"'
    return (value.decode() if isinstance(value, bytes) else str(value)) or '""'


def render_host(host: HostSpec) -> str:
    name = f"lookup-mx:{host.host}" if host.lookup_mx else f"[{'IPv6:' if ':' in host.host else ''}{host.host}]" if host.literal else host.host
    return name if host.port is None else f"{name}:{host.port}"


def some(kind: type) -> st.SearchStrategy[Any]:
    rows = {row.field: row for row in rows_of(kind)}
    return st.fixed_dictionaries({}, optional={name: _BY_TYPE[row.type.name] for name, row in rows.items()}).map(lambda chosen: kind(**chosen))


def written(kind: type, settings_: Any) -> str:
    return "".join(f"    {row.name} {render(row.type.name, getattr(settings_, row.field))}\n" for row in rows_of(kind))


def load(text: str) -> Config:
    loaded = build(from_text(f"log-file /l\n<source-group g>\n</source-group>\n{text}"))
    assert loaded.config is not None, describe(loaded.problems)
    return loaded.config


@settings(deadline=None)
@given(some(DomainSettings))
def test_domain_settings_round_trip(wanted: DomainSettings) -> None:
    text = written(DomainSettings, wanted)
    text = "".join(line + "\n" for line in text.splitlines() if not line.startswith(("    route", "    max-rcpt-per-transaction")))
    assert load(f"<domain a.example>\n{text}</domain>\n").domain("a.example", "") == wanted


@settings(deadline=None)
@given(some(ClientSettings))
def test_client_settings_round_trip(wanted: ClientSettings) -> None:
    assert load(f"<source 192.0.2.1>\n{written(ClientSettings, wanted)}</source>\n").client("192.0.2.1") == wanted


@pytest.mark.parametrize("kind", [DomainSettings, ClientSettings])
def test_defaults_round_trip_as_the_tables_write_them(kind: type) -> None:
    for row in rows_of(kind):
        if row.default:
            assert v.parse_value(row.type, row.default) == getattr(kind(), row.field), row.name


@settings(deadline=None)
@given(st.integers(0, 10**8))
def test_times_round_trip(number: int) -> None:
    assert units.parse_seconds(units.format_seconds(number)) == number


@settings(deadline=None)
@given(st.integers(0, 1 << 50))
def test_sizes_round_trip(number: int) -> None:
    assert units.parse_size(units.format_size(number)) == number


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("100/15m", (100, 900)),
        ("1/20M", (1, 1200)),
        ("83/5s", (83, 5)),
        ("10/day", (10, 86400)),
        ("10g/2h", (10 << 30, 7200)),
        ("unlimited", None),
        ("0", None),
        ("0/h", None),
    ],
)
def test_rates(text: str, want: tuple[int, int] | None) -> None:
    assert units.parse_rate(text) == want


@pytest.mark.parametrize("text", ["", "10", "10/", "10/0h", "x/h", "10/fortnight", "1.5/h", "-1/h"])
def test_no_rates(text: str) -> None:
    with pytest.raises(ValueError):
        units.parse_rate(text)


def test_the_field_names_are_the_contract() -> None:
    assert {field.name for field in dataclasses.fields(DomainSettings)} >= {
        "retry_after",
        "bounce_after_s",
        "smtp_hosts",
        "connection_idle_timeout_s",
    }
