"""The directive tables: every name of PowerMTA's is known, its document is up to date, and what stops a start does so."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.accounting.columns import DEFAULT_FIELDS, getters, known
from engine.config import BY_SMTP_SOURCE_IP, build, from_text
from engine.config.document import document
from engine.config.powermta import default_and_meaning
from engine.config.powermta import known as known_meanings
from engine.config.record_field import COLUMNS, EMPTY
from engine.config.stanza import STANZAS

HERE = Path(__file__).parent
BASE = "log-file /l\n<spool /s>\n</spool>\nsmtp-listener 0/0:25\n"


def known_names() -> dict[str, list[str]]:
    scopes: dict[str, list[str]] = {}
    for line in (HERE / "directives.txt").read_text().splitlines():
        if line.endswith(":"):
            names = scopes.setdefault(line.removesuffix(":").replace("global", ""), [])
        else:
            names.extend(line.split())
    return scopes


def test_every_directive_of_powermta_is_known_in_its_scope() -> None:
    names = known_names()
    assert len({name for every in names.values() for name in every}) == 395
    assert [(scope, name) for scope, every in names.items() for name in every if name not in STANZAS[scope].directives] == []


def test_the_document_is_up_to_date() -> None:
    assert (HERE.parents[1] / "docs" / "config.md").read_text() == document(), "run python -m engine.config.document > docs/config.md"


def test_what_does_not_work_is_explained_and_nothing_else_is() -> None:
    unexplained = [
        (tag, name)
        for tag, stanza in STANZAS.items()
        for name, row in stanza.directives.items()
        if name != "include" and (row.status != "working" or not stanza.working) and not default_and_meaning(tag, name)[1]
    ]
    assert unexplained == []
    allowed = {"virtual-mta-pool": set(STANZAS["virtual-mta"].directives)}  # one text for both
    unknown = [(tag, name) for tag, names in known_meanings().items() for name in names - set(STANZAS[tag].directives) - allowed.get(tag, set())]
    assert unknown == []


def test_the_document_says_where_a_default_is_otherwise() -> None:
    rows = {line.split("`")[1]: [cell.strip() for cell in line.split(" | ")] for line in document().splitlines() if line.startswith("| `")}
    assert rows["connection-idle-timeout"][2:] == ["`2s`", "0.1.0", rows["connection-idle-timeout"][4], "default `0` |"]
    assert rows["bounce-after"][5] == "|"
    ours = "Nothing. Every message is on disk before its 250, whatever this says."
    assert rows["sync-msg-create"][3:] == ["accepted", ours, "Whether files are synced. |"]


def test_rows_are_complete() -> None:
    for stanza in STANZAS.values():
        for row in stanza.directives.values():
            assert row.help and row.type.name and row.name == row.name.lower()
            assert not (row.stops and row.status != "later")


@pytest.mark.parametrize("record", sorted(DEFAULT_FIELDS))
def test_columns_are_those_of_accounting(record: str) -> None:
    names = COLUMNS[record]
    assert {name.lower(): name for name in DEFAULT_FIELDS[record]}.items() <= names.items()
    assert [name for name in names.values() if not known(name)] == []
    assert [name for name in names.values() if blank(record, name)] == [
        name for name in names.values() if name.lower() in EMPTY - {"userstring"}
    ]  # user-string gives it


def blank(record: str, name: str) -> bool:
    left_out, asked_for = getters(record, ["dsnDiag"], [], iso_times=True)[0], getters(record, [name], [name], iso_times=True)[0]
    return asked_for is left_out


def test_by_smtp_source_ip_is_a_default_virtual_mta() -> None:
    loaded = build(from_text(BASE + "<source 10/8>\ndefault-virtual-mta by-smtp-source-ip\n</source>\n"))
    assert loaded.problems == []
    assert loaded.config is not None
    assert loaded.config.client("10.1.2.3").default_virtual_mta == BY_SMTP_SOURCE_IP


def said(scope: str, line: str) -> list[str]:
    text = f"{line}\n" if not scope else f"<{scope}>\n{line}\n</{scope.split(maxsplit=1)[0]}>\n"
    return [p.severity for p in build(from_text(BASE + text)).problems if p.line > 4]


@pytest.mark.parametrize(
    ("scope", "line", "harmless"),
    [
        ("source 0/0", "suppression-lists a, b", 'suppression-lists ""'),
        ("source 0/0", "pattern-list a", ""),
        ("source 0/0", "rewrite-list a", ""),
        ("source 0/0", "process-x-dkim-key yes", "process-x-dkim-key no"),
        ("domain *", "max-msg-rate 10/h", "max-msg-rate unlimited"),
        ("domain *", "max-msg-rate 1/5m", "max-msg-rate 0"),
        ("domain *", "max-connect-rate 10/h", "max-connect-rate 0/h"),
        ("domain *", "max-data-volume-rate 10g/2h", "max-data-volume-rate unlimited"),
        ("domain *", "max-msg-per-hour 10", "max-msg-per-hour 0"),
        ("domain *", "source-ip-max-msg-rate 0/0 10/h", "source-ip-max-msg-rate 0/0 unlimited"),
        ("domain *", "source-ip-max-smtp-out 10/8 5", "source-ip-max-smtp-out 10/8 unlimited"),
        ("domain *", "max-smtp-out-per-source-ip 5", "max-smtp-out-per-source-ip unlimited"),
        ("domain *", "smtp-out-rampup-interval 1s", "smtp-out-rampup-interval 0"),
        ("domain *", "dkim-sign yes", "dkim-sign no"),
        ("domain *", "dkim-sign if-x-dkim-options-present", "dkim-sign false"),
        ("domain *", "second-dkim-sign yes", "second-dkim-sign no"),
        ("domain *", "smtp-pattern-list a", 'smtp-pattern-list ""'),
        ("domain *", "queue-to a.rollup", 'queue-to ""'),
        ("domain *", "reroute-to-virtual-mta a", 'reroute-to-virtual-mta ""'),
        ("domain *", "backoff-reroute-to-virtual-mta a", 'backoff-reroute-to-virtual-mta ""'),
        ("domain *", "type pipe", "type discard"),
        ("domain *", "type file", "type smtp"),
        ("domain *", "auth-username me", 'auth-username ""'),
        ("domain *", "use-dane true", "use-dane false"),
        ("domain *", "use-mta-sts true", "use-mta-sts false"),
        ("virtual-mta m", "max-smtp-msg-rate 10/h", "max-smtp-msg-rate unlimited"),
        ("virtual-mta m", "use-proxy p", 'use-proxy ""'),
        ("", "mx-connection-limit *.example 5", "mx-connection-limit *.example unlimited"),
        ("", "ip-connection-limit 10/8 5", "ip-connection-limit 10/8 unlimited"),
        ("", "use-proxy p", 'use-proxy ""'),
        ("mx-rollup-list", "mx a.example a.rollup", None),
        ("bounce-processor", "deliver-unmatched-email no", None),
    ],
)
def test_what_would_break_a_promise_stops_the_start(scope: str, line: str, harmless: str | None) -> None:
    assert "error" in said(scope, line)
    if harmless:
        assert said(scope, harmless) == []


@pytest.mark.parametrize(
    ("scope", "line"),
    [
        ("", "http-mgmt-port 8080"),
        ("", "domain-key s, *, /k.pem"),
        ("source 0/0", "check-dkim-inbound true"),
        ("domain *", "queue-priority 50"),
        ("domain *", "backoff-max-msg-rate 1/m"),
        ("domain *", "max-cold-virtual-mta-msg 100/d"),
        ("acct-file /a", "retry-interval 5m"),
        ("acct-file /a", "records d, rb"),
        ("acct-file |/bin/x", "records d"),
        ("smtp-user a@b", "authentication-method system"),
    ],
)
def test_the_others_are_only_listed(scope: str, line: str) -> None:
    assert said(scope, line) == ["unsupported"]


def test_cold_virtual_mtas_stop_the_start_only_with_a_limit() -> None:
    vmta = "<virtual-mta m>\ncold-virtual-mta n\n{}</virtual-mta>\n<virtual-mta n>\n</virtual-mta>\n"
    limit = "<domain *>\nmax-cold-virtual-mta-msg {}\n</domain>\n"
    assert build(from_text(BASE + vmta.format(""))).config is not None
    assert build(from_text(BASE + vmta.format(limit.format("0/d")))).config is not None
    assert build(from_text(BASE + vmta.format(limit.format("0/d,5/d")))).config is None


def test_a_file_that_a_directive_names_is_read_with_the_configuration() -> None:
    text = BASE + "dummy-smtp-blacklist lists/bad\n"
    loaded = build(from_text(text, **{"lists/bad": "<not a configuration\ninclude nowhere\nx.example\n"}))
    assert loaded.problems == [] and loaded.config is not None
    assert loaded.config.server.dummy_smtp_blacklist == ("/lists/bad", "<not a configuration\ninclude nowhere\nx.example\n")
    (problem,) = build(from_text(text)).problems
    assert problem.severity == "error" and problem.line == 5 and "/lists/bad cannot be read: no such file" in problem.text
