"""What a changed configuration changes, and for whom: every kind of thing that can be named, and nothing that stays."""

from __future__ import annotations

import pytest

from engine.config import Config, build, describe, from_text
from engine.config.diff import diff, facts, needs_restart, of_accounting, of_delivery, of_listeners

BASE = """\
log-file /l
host-name one.example
<spool /s>
</spool>
<acct-file /a.csv>
</acct-file>
domain-macro big x.example,y.example
<source 10/8>
    always-allow-relaying yes
</source>
<virtual-mta v1>
    smtp-source-host 192.0.2.1 v1.example
    <domain special.example>
        max-smtp-out 3
    </domain>
</virtual-mta>
<virtual-mta v2>
    smtp-source-host 192.0.2.2 v2.example
</virtual-mta>
<virtual-mta-pool p>
    virtual-mta v1
    <domain pooled.example>
        max-smtp-out 5
    </domain>
</virtual-mta-pool>
<domain $big>
    max-smtp-out 7
</domain>
"""


def config(text: str) -> Config:
    loaded = build(from_text(text))
    assert loaded.config is not None, describe(loaded.problems)
    return loaded.config


def changes(before: str, after: str) -> list[str]:
    return [str(change) for change in diff(facts(config(before)), facts(config(after)))]


def test_the_same_text_changes_nothing() -> None:
    assert changes(BASE, "# other comments\n" + BASE) == []
    assert not any(" at 0x" in text for text in facts(config(BASE + "relay-address /x+/\n")).values())


CHANGES = [
    ("log-file /l", "log-file /l\ntotal-max-smtp-out 9", ["total-max-smtp-out: 1200 -> 9"], "D"),
    ("log-file /l", "log-file /l\ntotal-max-smtp-in 9", ["total-max-smtp-in: 100 -> 9"], "L"),
    ("log-file /l", "log-file /l\nrelay-address /x/", ["relay-address: none -> /x/"], "L"),
    ("host-name one", "host-name two", ["host-name: one.example -> two.example"], "LD"),
    ("log-file /l", "log-file /l\nsmtp-listener 127.0.0.1:26", ["listener 127.0.0.1:26: - -> yes", "listener 0.0.0.0:25: yes -> -"], "D"),
    ("log-file /l", "log-file /l\nname-server 192.0.2.53", ["name-server: none -> 192.0.2.53,53"], "LD"),
    ("log-file /l", "log-file /l\nedns-udp-length 512", ["edns-udp-length: 1232 -> 512"], "LD"),
    ("log-file /l", "log-file /l\ntrack-time-first-attempt yes", ["track-time-first-attempt: no -> yes"], "A"),
    ("<spool /s>", "<spool /s>\nmin-free-space 1g", ["spool /s min-free-space: unlimited -> 1G"], "L"),
    ("relaying yes", "relaying no", ["source 10.0.0.0/8 always-allow-relaying: yes -> no"], "L"),
    ("192.0.2.2 v2", "192.0.2.3 v2", ["ip v2 192.0.2.3: - -> v2.example", "ip v2 192.0.2.2: v2.example -> -"], "L2"),
    ("smtp-source-host 192.0.2.2 v2.example", "smtp-source-host 192.0.2.2 v2.example\nmax-smtp-out 4", ["virtual-mta v2 max-smtp-out: 0 -> 4"], "2"),
    ("max-smtp-out 3", "max-smtp-out 4", ["domain special.example in v1 max-smtp-out: 3 -> 4"], "1"),
    ("max-smtp-out 5", "max-smtp-out 6", ["domain pooled.example in p max-smtp-out: 5 -> 6"], "1"),
    ("max-smtp-out 7", "max-smtp-out 8", ["domain x.example max-smtp-out: 7 -> 8", "domain y.example max-smtp-out: 7 -> 8"], "D"),
    (",y.example", "", ["domain y.example: yes -> -", "domain y.example max-smtp-out: 7 -> -"], "D"),
    ("</acct-file>", "records d\n</acct-file>", ["acct-file /a.csv records: d,b -> d"], "A"),
    ("<acct-file /a.csv>", "<acct-file /b.csv>", None, "A"),
    ("</acct-file>", "privacy-policy hmac-sha256 sesame\n</acct-file>", None, "A"),
    ("virtual-mta v1\n", "virtual-mta v1\nvirtual-mta v2\n", ["virtual-mta-pool p virtual-mta: v1 -> v1,v2"], None),
]


@pytest.mark.parametrize(("old", "new", "said", "concerned"), CHANGES)
def test_each_change_is_named_and_concerns_only_those_who_use_it(old: str, new: str, said: list[str] | None, concerned: str | None) -> None:
    """L: listeners, A: accounting, 1 and 2: the delivery processes of v1 and v2, D: both and the fallback."""
    assert old in BASE
    before, after = config(BASE), config(BASE.replace(old, new, 1))
    was, now = facts(before), facts(after)
    found = [str(change) for change in diff(was, now)]
    assert found == said if said is not None else found
    assert not needs_restart(diff(was, now), "/s")
    if concerned is None:
        return
    touched = {
        "L": of_listeners(was) != of_listeners(now),
        "A": of_accounting(was) != of_accounting(now),
        "1": of_delivery(was, before, ["v1"], False) != of_delivery(now, after, ["v1"], False),
        "2": of_delivery(was, before, ["v2"], False) != of_delivery(now, after, ["v2"], False),
        "0": of_delivery(was, before, ["{default}"], True) != of_delivery(now, after, ["{default}"], True),
    }
    assert {who for who, is_touched in touched.items() if is_touched} == set(concerned.replace("D", "120"))


def test_a_virtual_mta_that_comes_or_goes_concerns_who_has_the_queues_of_those_that_went() -> None:
    before, after = config(BASE), config(BASE + "<virtual-mta v3>\nsmtp-source-host 192.0.2.9\n</virtual-mta>\n")
    assert of_delivery(facts(before), before, ["{default}"], True) != of_delivery(facts(after), after, ["{default}"], True)
    assert of_delivery(facts(before), before, ["v1"], False) == of_delivery(facts(after), after, ["v1"], False)


@pytest.mark.parametrize(("old", "new"), [("log-file /l", "log-file /m"), ("<spool /s>", "<spool /t>"), ("log-file /l", "log-file /l\nuser mail")])
def test_what_processes_were_born_with_needs_a_restart(old: str, new: str) -> None:
    assert needs_restart(diff(facts(config(BASE)), facts(config(BASE.replace(old, new, 1)))), "/s")


OTHER, ATTACHED = "<spool /o>\n</spool>\n", "<spool /o>\ndeliver-only yes\n</spool>\n"


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ("", OTHER, []),
        (OTHER, "", []),
        (OTHER, OTHER.replace("</", "priority 9\nmin-free-space 1g\n</"), []),
        ("", ATTACHED, ["spool /o: - -> yes", "spool /o deliver-only: - -> yes"]),
        (ATTACHED, "", ["spool /o: yes -> -", "spool /o deliver-only: yes -> -"]),
        (OTHER, ATTACHED, ["spool /o deliver-only: no -> yes"]),
        (ATTACHED, OTHER, ["spool /o deliver-only: yes -> no"]),
    ],
)
def test_spools_that_take_mail_come_and_go_while_it_runs_and_no_others(before: str, after: str, refused: list[str]) -> None:
    changes = diff(facts(config(BASE + before)), facts(config(BASE + after)))
    assert [str(change) for change in needs_restart(changes, "/s")] == refused
    if before == OTHER:
        assert needs_restart(changes, "/o") or after != "", "the one that mail is delivered from stays"
