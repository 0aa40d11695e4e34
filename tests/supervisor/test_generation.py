"""Who stays and who goes under another configuration, and which sockets are handed on: plans, without processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from engine.config import build, from_text
from engine.process import ListenSocket
from engine.supervisor.configuration import Options
from engine.supervisor.generation import Generation, free, generation, succession, wanted
from engine.supervisor.slots import Slot
from engine.supervisor.sockets import bind

BASE = """\
log-file /l
host-name one.example
smtp-listener 127.0.0.1:2525
listener-workers 2
delivery-workers 4
<spool /s>
</spool>
<acct-file /a.csv>
</acct-file>
<virtual-mta v1>
    smtp-source-host 192.0.2.1 v1.example
</virtual-mta>
<virtual-mta v2>
    smtp-source-host 192.0.2.2 v2.example
</virtual-mta>
"""


@pytest.fixture
def made() -> Iterator[list[Generation]]:
    every: list[Generation] = []
    yield every
    for each in every:
        os.close(each.config_fd)


def plan(made: list[Generation], text: str, options: Options = Options(conf="/engine.conf")) -> Generation:
    snapshot = from_text(text)
    config = build(snapshot).config
    assert config is not None
    made.append(generation(len(made) + 1, config, snapshot, options, lambda listeners, deliveries: (listeners, deliveries)))
    return made[-1]


def alive(now: Generation) -> list[Slot]:
    return [Slot(child.role, child.index, "module", row, generation=now, basis=child.basis) for row, child in enumerate(wanted(now))]


@pytest.mark.parametrize(
    ("old", "new", "go", "come"),
    [
        ("host-name", "# another comment\nhost-name", [], []),
        ("<spool /s>", "<spool /s>\nmin-free-space 1g", ["listener/0", "listener/1"], ["listener/0", "listener/1"]),
        ("listener-workers 2", "listener-workers 1", ["listener/0", "listener/1"], ["listener/0"]),
        ("</acct-file>", "records d\n</acct-file>", ["accounting/0"], ["accounting/0"]),
        ("v2.example", "v2.example\nmax-smtp-out 3", ["delivery/0"], ["delivery/0"]),
        ("host-name", "total-max-smtp-out 4\nhost-name", ["delivery/0", "delivery/3"], ["delivery/0", "delivery/3"]),
    ],
)
def test_only_whose_basis_changed_goes(made: list[Generation], old: str, new: str, go: list[str], come: list[str]) -> None:
    before = plan(made, BASE)
    slots = alive(before)
    change = succession(slots, plan(made, BASE.replace(old, new, 1)))
    assert [slot.name for slot in change.go] == go
    assert [f"{child.role}/{child.index}" for child in change.come] == come
    assert {*change.stay, *change.go} == set(slots)


def test_an_address_that_moves_takes_both_owners_along_and_no_other(made: list[Generation]) -> None:
    more = "<virtual-mta v3>\nsmtp-source-host 192.0.2.3\n</virtual-mta>\n<virtual-mta v4>\nsmtp-source-host 192.0.2.4\n</virtual-mta>\n"
    before = plan(made, BASE + more)
    slots = alive(before)
    owners = {name: child.index for child in wanted(before) if child.role == "delivery" for name in child.basis[1].virtual_mtas}  # type: ignore[attr-defined]
    assert owners["v3"] != owners["v4"]
    change = succession(slots, plan(made, BASE + more.replace("192.0.2.4", "192.0.2.3")))
    assert {slot.index for slot in change.go if slot.role == "delivery"} == {owners["v3"], owners["v4"]}


def test_a_shadow_has_a_sink_and_leaves_deliver_only_spools_alone_through_every_reload(made: list[Generation]) -> None:
    text = BASE + "<spool /other>\ndeliver-only yes\n</spool>\n"
    assert [child.role for child in wanted(plan(made, text)) if child.role in ("mover", "sink")] == ["mover"]
    options = Options(conf="/engine.conf", shadow=True, sink_port=40123, port_offset=10)
    before = plan(made, text, options)
    assert (before.shadow, before.sink) == (("127.0.0.1", 40123), [("127.0.0.1", 40123, "")])
    assert [child.role for child in wanted(before) if child.role in ("mover", "sink")] == ["sink"]
    assert before.shadow not in before.listening, "delivering there is no loop"
    after = plan(made, text + "dummy-smtp-port 2600\ndummy-smtp-ip 127.0.0.1\n", options)
    assert after.shadow == before.shadow and set(before.sink) < set(after.sink)
    assert [slot.name for slot in succession(alive(before), after).go] == ["sink/0"]


def test_each_spool_has_its_process_and_all_but_the_first_a_mover(made: list[Generation]) -> None:
    more = "<spool /o1>\npriority 7\n</spool>\n<spool /o2>\n</spool>\n<spool /old>\ndeliver-only yes\n</spool>\n"
    before = plan(made, BASE + more)
    assert before.first == "/o1", "the highest priority"
    found = [(f"{child.role}/{child.index}", child.source) for child in wanted(before) if child.role in ("spool", "mover")]
    assert found == [("spool/0", ""), ("spool/1", "/s"), ("spool/2", "/o2"), ("mover/0", "/s"), ("mover/1", "/o2"), ("mover/2", "/old")]


def test_whose_spool_stays_keeps_its_processes(made: list[Generation]) -> None:
    other, another = "<spool /o1>\n</spool>\n", "<spool /o2>\n</spool>\n"
    before = plan(made, BASE + other + another)
    slots = alive(before)
    change = succession(slots, plan(made, BASE + another))
    listeners = ["listener/0", "listener/1"]
    assert [slot.name for slot in change.go] == ["spool/1", "mover/0", *listeners]
    assert [f"{child.role}/{child.index}" for child in change.come] == listeners
    change = succession(alive(plan(made, BASE + another)), plan(made, BASE + other + another))
    assert change.go and [(child.role, child.source) for child in change.come if child.source] == [("spool", "/o1"), ("mover", "/o1")]


def test_a_priority_that_changes_moves_no_mail_and_no_process_but_the_listeners(made: list[Generation]) -> None:
    text = BASE + "<spool /o>\n</spool>\n"
    before = plan(made, text)
    snapshot = from_text(text.replace("<spool /o>", "<spool /o>\npriority 9"))
    config = build(snapshot).config
    assert config is not None and config.spool.path == "/o"
    after = generation(2, config, snapshot, Options(conf="/engine.conf"), lambda listeners, deliveries: (listeners, deliveries), before.first)
    made.append(after)
    assert {slot.role for slot in succession(alive(before), after).go} == {"listener"}
    roomier = plan(made, text.replace("<spool /s>", "<spool /s>\nmin-free-space 1g"))
    assert {slot.role for slot in succession(alive(before), roomier).go} == {"listener", "mover"}, "it leaves that room too"


def test_who_retires_already_is_nobodys_successor(made: list[Generation]) -> None:
    before = plan(made, BASE)
    slots = alive(before)
    for slot in slots:
        slot.retiring = slot.role == "listener"
    change = succession(slots, before)
    assert [child.role for child in change.come] == ["listener", "listener"]
    assert change.go == []


def test_the_smallest_free_number() -> None:
    assert [free([]), free([0, 1]), free([1, 0, 3]), free([1])] == [0, 2, 2, 0]


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found: int = server.getsockname()[1]
        return found


def close(*rows: list[ListenSocket]) -> None:
    for fd in {listening.fd for row in rows for listening in row}:
        os.close(fd)


def test_sockets_of_a_place_that_stays_are_handed_on_whatever_the_number_of_slots(port: int) -> None:
    where = [("127.0.0.1", port, "")]
    two = bind(where, 2)
    held = [listening for row in two for listening in row]
    one = bind([("127.0.0.1", port, "named")], 1, held)
    assert [listening.fd for listening in one[0]] == [listening.fd for listening in held]
    assert {listening.source for listening in one[0]} == {"named"}
    three = bind(where, 3, one[0])
    assert [len(row) for row in three] == [1, 1, 1]
    assert {listening.fd for row in three for listening in row} > {listening.fd for listening in held}
    close(*two, *one, *three)


def test_who_waits_at_an_address_that_becomes_part_of_all_is_kept(port: int) -> None:
    single = bind([("127.0.0.1", port, "")], 1)
    every = bind([("0.0.0.0", port, "")], 1, single[0])
    assert [(listening.address, listening.fd == single[0][0].fd) for listening in every[0]] == [("0.0.0.0", False), ("127.0.0.1", True)]
    again = bind([("0.0.0.0", port, "")], 1, every[0])
    assert [listening.fd for listening in again[0]] == [listening.fd for listening in every[0]]
    close(*single, *every)
