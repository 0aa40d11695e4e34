"""How a stranger comes to a listener: from an address that no rule lets relay, to a domain that is nobody's here."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from engine.config import Config, ListenerSettings, build, from_text
from engine.doctor.stranger import door_of, relaying, tricks

LOCAL = [ip_address(text) for text in ("127.0.0.1", "192.0.2.10", "192.0.2.11", "::1", "fe80::1", "2001:db8::10")]


def config(text: str) -> Config:
    loaded = build(from_text(f"log-file /l\nhost-name mail.example.com\n<spool /s>\n</spool>\n{text}"))
    assert loaded.config is not None, loaded.problems
    return loaded.config


@pytest.mark.parametrize(
    ("text", "address", "client"),
    [
        ("", "127.0.0.1", "127.0.0.1"),
        ("<source 127.0.0.1>\nalways-allow-relaying yes\n</source>", "127.0.0.1", "127.0.0.2"),
        ("<source 127.0.0.0/16>\nalways-allow-relaying yes\n</source>", "127.0.0.5", "127.83.77.84"),
        ("<source 127.0.0.1>\nsmtp-service no\n</source>", "127.0.0.1", "127.0.0.2"),
        ("<source 127/8>\nsmtp-service no\n</source>", "127.0.0.1", "127.0.0.1"),
        ("", "0.0.0.0", "192.0.2.10"),
        ("", "::", "2001:db8::10"),
        ("<source 192.0.2.10>\nalways-allow-relaying yes\n</source>", "192.0.2.10", "192.0.2.11"),
        ("<source 0/0>\nalways-allow-relaying yes\n</source>", "192.0.2.10", "192.0.2.10"),  # the whole world may: then it is open
        ("always-allow-relaying yes", "2001:db8::10", "2001:db8::10"),
    ],
)
def test_where_a_stranger_comes_from(text: str, address: str, client: str) -> None:
    door = door_of(config(text), (address, 25, 25), LOCAL)
    assert (door.client, door.untried) == (client, "")
    assert door.tricks


@pytest.mark.parametrize("network", ["192.0.2.0/24", "192/8"])
def test_no_stranger_on_this_host(network: str) -> None:
    conf = config(f"<source {network}>\nalways-allow-relaying yes\n</source>")
    door = door_of(conf, ("192.0.2.10", 25, 25), LOCAL)
    assert (door.tricks, door.untried) == ((), "every address of this host may relay there")
    assert door_of(conf, ("192.0.2.10", 25, 25), LOCAL, client="198.51.100.7").client == "198.51.100.7"
    assert door_of(conf, ("2001:db8::10", 25, 25), LOCAL, client="198.51.100.7").client == "2001:db8::10"


def test_a_listeners_own_source_counts_and_other_hosts_listeners_are_met_as_they_see_us() -> None:
    conf = config("<source inside>\nalways-allow-relaying yes\n</source>\nsmtp-listener 127.0.0.1:2525 source=inside")
    inside = door_of(conf, ("127.0.0.1", 2525, 2525), LOCAL, listener=conf.listener("127.0.0.1", 2525))
    assert inside.untried == "whoever reaches it may relay, and only this host does"
    assert door_of(conf, ("127.0.0.1", 2525, 2525), LOCAL).client == "127.0.0.1"
    conf = config("<source 192.0.2.10>\nalways-allow-relaying yes\n</source>")
    assert door_of(conf, ("203.0.113.5", 25, 25), LOCAL, own="192.0.2.10").untried == "192.0.2.10, from where we come, may relay there"
    assert door_of(conf, ("203.0.113.5", 25, 25), LOCAL, own="192.0.2.11").client == ""


def test_which_doors_speak_tls_from_the_first_byte() -> None:
    conf = config("smtp-listener 127.0.0.1:465\nsmtp-listener 127.0.0.1:587")
    ours = ListenerSettings(ip_network("127.0.0.1"), 10465, immediate_tls=True)
    assert door_of(conf, ("127.0.0.1", 10465, 465), LOCAL, listener=ours).immediate_tls
    assert not door_of(conf, ("127.0.0.1", 465, 465), LOCAL, listener=conf.listener("127.0.0.1", 465)).immediate_tls
    assert door_of(conf, ("127.0.0.1", 4650, 465), LOCAL).immediate_tls
    assert not door_of(conf, ("127.0.0.1", 587, 587), LOCAL).immediate_tls


def test_tricks_are_envelopes_to_a_domain_that_is_nobodys_here() -> None:
    found = tricks("mail.example.com", "192.0.2.10", "example.org", "relayed.example")
    assert len({(trick.sender, trick.recipient) for trick in found}) == len(found) == 13
    assert all("example.org" in trick.recipient for trick in found)
    recipients = {trick.recipient for trick in found}
    assert {"engine-doctor%example.org@[192.0.2.10]", "@mail.example.com:engine-doctor@example.org"} <= recipients
    assert "engine-doctor%example.org@relayed.example" in recipients
    assert any("@[IPv6:2001:db8::1]" in trick.recipient for trick in tricks("h.example", "2001:db8::1", "example.org"))
    door = door_of(config("relay-domain example.org\nrelay-domain *.example.net"), ("127.0.0.1", 25, 25), LOCAL)
    assert any(trick.recipient == "engine-doctor@example.net" for trick in door.tricks)
    assert any(trick.recipient == "engine-doctor%example.net@example.org" for trick in door.tricks)


def test_who_may_send_to_anybody() -> None:
    assert relaying(config("<source 10/8>\nalways-allow-relaying yes\n</source>\n<source 11/8>\nalways-allow-relaying no\n</source>")) == (
        "10.0.0.0/8",
    )
