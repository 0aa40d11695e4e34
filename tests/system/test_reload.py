"""Reload as an operator and his clients meet it: what is said, who stays, who goes, who is served meanwhile."""

from __future__ import annotations

import json
import os
import signal
import smtplib
import socket

import pytest

from tests.sinks.sink import Sink
from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

CONF = """
listener-workers 1
delivery-workers 4
smtp-listener 127.0.0.1:@port@
<source 127.0.0.1>
    always-allow-relaying yes
    default-virtual-mta mta1
    process-x-virtual-mta yes
</source>
<virtual-mta mta1>
    smtp-source-host 127.0.0.11 mta1.example
</virtual-mta>
<virtual-mta mta2>
    smtp-source-host 127.0.0.12 mta2.example
    <domain *>
        max-smtp-out 3
    </domain>
</virtual-mta>
<domain *>
    smtp-hosts [127.0.0.1]:{port}
    retry-after 1h
</domain>
"""


def conf(port: int = 9, *changes: tuple[str, str]) -> str:
    text = CONF.format(port=port)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def ready(engine: Engine) -> dict[str, list[int]]:
    """Its pids by role, once every process works."""
    eventually(lambda: json.loads(engine.run("status", "--json").stdout or '{"ready": false}')["ready"], "every process works")
    return engine.pids()


def reload(engine: Engine, text: str, *words: str) -> str:
    """What a reload that succeeds says."""
    engine.configure(text)
    done = engine.run("reload", *words, timeout_s=90)
    assert done.returncode == 0, done.stdout + done.stderr + engine.said()
    return done.stdout


def test_diff_lists_what_would_change_and_changes_nothing(make_engine: MakeEngine) -> None:
    engine = make_engine(conf())
    before = ready(engine)
    listed = reload(engine, conf(9, ("max-smtp-out 3", "max-smtp-out 4"), ("127.0.0.11 mta1", "127.0.0.14 mta1")), "--diff")
    assert listed.splitlines() == [
        "ip mta1 127.0.0.14: - -> mta1.example",
        "domain * in mta2 max-smtp-out: 3 -> 4",
        "ip mta1 127.0.0.11: mta1.example -> -",
    ]
    answer = json.loads(engine.run("reload", "--diff", "--json").stdout)
    assert [change["setting"] for change in answer["changes"]] == ["127.0.0.14", "max-smtp-out", "127.0.0.11"]
    assert answer["good"]
    assert engine.pids() == before
    assert reload(engine, conf()) == "engine: the configuration on disk says what is in force\n"
    assert engine.pids() == before


def test_a_bad_file_leaves_everything_running_and_says_where(make_engine: MakeEngine) -> None:
    engine = make_engine(conf())
    before = ready(engine)
    engine.configure(conf() + "max-smtp-outt 3\n")
    done = engine.run("reload")
    line = (engine.directory / "engine.conf").read_text().splitlines().index("max-smtp-outt 3") + 1
    assert done.returncode == 78
    assert f"{engine.conf}:{line}:1: error: " in done.stderr
    engine.signal(signal.SIGHUP)
    eventually(lambda: f"reload refused: {engine.conf}:{line}:1: error: " in engine.log(), "the log names the place")
    engine.configure(conf() + "log-file @dir@/other\n")
    done = engine.run("reload")
    assert (done.returncode, "log-file" in done.stderr, "engine stop and start" in done.stderr) == (78, True, True)
    assert engine.pids() == before


def test_only_those_whose_settings_changed_are_replaced(make_engine: MakeEngine) -> None:
    engine = make_engine(conf())
    before = ready(engine)
    owner = {name: pids for name, pids in before.items() if name.startswith("delivery/")}
    assert len(owner) == 3
    reload(engine, conf(9, ("max-smtp-out 3", "max-smtp-out 4")))
    after = engine.pids()
    assert sum(after[name] != pids for name, pids in owner.items()) == 1
    assert {name: pids for name, pids in after.items() if not name.startswith("delivery/")} == {
        name: pids for name, pids in before.items() if not name.startswith("delivery/")
    }
    reload(engine, conf(9, ("max-smtp-out 3", "max-smtp-out 4"), ("always-allow-relaying yes", "always-allow-relaying no")))
    third = engine.pids()
    assert {name: third[name] for name in owner} == {name: after[name] for name in owner}
    assert "listener/0" not in third
    assert [name for name in third if name.startswith("listener/")] == ["listener/1"]


def test_open_transactions_finish_and_idle_clients_hear_421(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(conf(sink.port))
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as busy, socket.create_connection(("127.0.0.1", engine.port), timeout=20) as idle:
            lines = idle.makefile("rb")
            assert lines.readline().startswith(b"220")
            busy.ehlo()
            busy.mail("s@origin.example")
            busy.rcpt("r@dest.example")
            engine.configure(conf(sink.port, ("smtp-listener 127.0.0.1:@port@", "smtp-listener 127.0.0.1:@port@\nsmtp-listener 127.0.0.1:@port2@")))
            engine.signal(signal.SIGHUP)
            assert lines.readline().startswith(b"421 4.3.2")
            assert lines.readline() == b""
            with smtplib.SMTP("127.0.0.1", engine.port_of("port2"), timeout=20) as another:
                assert another.noop()[0] == 250
            assert busy.data("Subject: x\r\n\r\nbody\r\n")[0] == 250
            assert busy.getreply()[0] == 421  # unasked, when the transaction is over
            with pytest.raises(smtplib.SMTPServerDisconnected):
                busy.getreply()
        sink.wait_for_messages(1)


def test_who_waits_in_the_socket_of_a_listener_is_served_by_its_successor(make_engine: MakeEngine) -> None:
    engine = make_engine(conf())
    stopped = engine.pid("listener/0")
    os.kill(stopped, signal.SIGSTOP)
    with socket.create_connection(("127.0.0.1", engine.port), timeout=20) as waiting:
        engine.configure(conf(9, ("always-allow-relaying yes", "always-allow-relaying no")))
        engine.signal(signal.SIGHUP)
        assert waiting.makefile("rb").readline().startswith(b"220")
        os.kill(stopped, signal.SIGCONT)
    eventually(lambda: "listener/0" not in engine.pids(), "the old listener ends")


def test_mail_of_a_virtual_mta_moves_with_it_to_another_owner(make_engine: MakeEngine) -> None:
    """Its address moves next to mta1's, so that both have one owner; what waited on disk is sent by that one."""
    with Sink("refuse-connection") as nobody, Sink() as sink:
        engine = make_engine(conf(nobody.port))
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            for number in range(20):
                client.sendmail("s@origin.example", [f"u{number}@dest.example"], "X-Virtual-MTA: mta2\r\nSubject: x\r\n\r\nbody\r\n")
        eventually(lambda: engine.records("tq"), "the queue has failed")
        said = reload(engine, conf(sink.port, ("127.0.0.12 mta2", "127.0.0.11 mta2")))
        assert "ip mta2 127.0.0.11" in said
        engine.wait_for_records(20, "d")
        assert {(message.peer[0], message.ehlo) for message in sink.messages} == {("127.0.0.11", "mta2.example")}
        assert len(sink.messages) == 20


def test_a_reload_while_one_is_under_way_and_a_stop_meanwhile(make_engine: MakeEngine) -> None:
    engine = make_engine(conf())
    with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as busy:
        busy.ehlo()
        busy.mail("s@origin.example")  # holds the first listener, and so the first reload
        for total in (90, 91, 92):
            engine.configure(f"total-max-smtp-in {total}\nshutdown-timeout 2s\n" + conf())
            assert engine.run("reload", "--no-wait").returncode == 0
        eventually(lambda: engine.log().count(" works listener/") == 4 or "listener/1" in engine.pids(), "a new listener works")
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as another:
            assert another.noop()[0] == 250
        engine.signal(signal.SIGTERM)
        eventually(lambda: "stopping" in engine.log(), "it stops")
        assert engine.run("reload").returncode in (69, 75)
    assert engine.wait_until_ended(60) == 0
    assert "killed" not in engine.log()


def test_a_supervisor_killed_in_the_middle_of_a_reload_leaves_nothing_behind(make_engine: MakeEngine) -> None:
    with Sink() as sink:
        engine = make_engine(conf(sink.port))
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as busy:
            busy.ehlo()
            busy.mail("s@origin.example")
            relaying = ("always-allow-relaying yes", "always-allow-relaying yes\n    log-connections yes")
            engine.configure(conf(sink.port, ("127.0.0.11 mta1", "127.0.0.12 mta1"), relaying))
            engine.signal(signal.SIGHUP)
            eventually(lambda: "started listener/1" in engine.log(), "the new listener starts")
            engine.kill9_supervisor()
            engine.start(wait=False)
            ready(engine)
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.sendmail("s@origin.example", ["r@dest.example"], "Subject: x\r\n\r\nbody\r\n")
        assert sink.wait_for_messages(1)[0].peer[0] == "127.0.0.12"
        eventually(lambda: sorted(name for name in engine.pids() if name.startswith("listener")) == ["listener/0"], "no survivor")


def test_a_reload_leaves_no_descriptor_behind(make_engine: MakeEngine) -> None:
    engine = make_engine(conf())
    ready(engine)

    def descriptors() -> int:
        return len(os.listdir(f"/proc/{engine.pid('supervisor')}/fd"))

    reload(engine, conf(9, ("max-smtp-out 3", "max-smtp-out 4")))
    before = descriptors()
    for number in range(5, 9):
        reload(engine, conf(9, ("max-smtp-out 3", f"max-smtp-out {number}")))
    assert descriptors() == before


def test_lines_are_those_of_the_file_as_it_is_though_the_process_is_older(make_engine: MakeEngine) -> None:
    """A delivery process whose settings have not changed stays, with the line numbers of the file that it was started with."""
    with Sink("rcpt-4xx") as sink:
        engine = make_engine(conf(sink.port))
        before = ready(engine)
        with smtplib.SMTP("127.0.0.1", engine.port, timeout=20) as client:
            client.sendmail("s@origin.example", ["r@dest.example"], "Subject: x\r\n\r\nbody\r\n")
        engine.wait_for_records(1, "t")
        for lines in (0, 3):
            if lines:
                assert "says what is in force" in reload(engine, "# one more line\n" * lines + conf(sink.port))
            line = (engine.directory / "engine.conf").read_text().splitlines().index("    retry-after 1h") + 1
            assert f"retry-after 1h {engine.conf}:{line}" in " ".join(engine.run("show", "queue", "dest.example/mta1").stdout.split())
        engine.configure("# one more line\n" + conf(sink.port, ("retry-after 1h", "retry-after 2h")))
        assert f"retry-after 1h {engine.conf}:{line}" not in engine.run("show", "queue", "dest.example/mta1").stdout
        assert engine.pids() == before
