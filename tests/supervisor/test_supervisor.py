"""The supervisor's promises, with real processes: who starts when, who ends whom, who answers meanwhile."""

from __future__ import annotations

import os
import signal
import socket

import pytest

from engine.drain import HEARTBEAT_S
from tests.supervisor.conftest import Fleet, wait_until_gone


def test_starts_every_role_and_serves(fleet: Fleet) -> None:
    pids = fleet.started()
    assert fleet.greeting() == f"220 {pids['listener/0']}\n"
    status = fleet.until(lambda status: status.ready)
    assert {child.name: child.pid for child in status.children} == pids
    assert {child.state for child in status.children} == {"working"}
    assert [child.smtp_in for child in status.children if child.name == "listener/0"] == [1]
    assert status.listening == [f"127.0.0.1:{fleet.port}"]


def test_the_spool_process_works_before_the_others_start(fleet: Fleet) -> None:
    fleet.start()
    seen: list[tuple[str, str]] = []
    while len(seen) < 8:
        child, event, _ = fleet.next_event()
        seen.append((child, event.partition(":")[0]))
    assert seen[:2] == [("spool/0", "started"), ("spool/0", "works")]


def test_ps_shows_roles(fleet: Fleet) -> None:
    pids = fleet.started()
    for child, pid in pids.items():
        with open(f"/proc/{pid}/cmdline", encoding="utf-8") as cmdline:
            assert cmdline.read().startswith(f"engine: {child}")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to drop")
def test_children_are_not_root_and_gain_nothing(fleet: Fleet) -> None:
    for pid in fleet.started().values():
        with open(f"/proc/{pid}/status", encoding="utf-8") as status:
            fields = dict(line.rstrip("\n").split(":", 1) for line in status)
        assert "0" not in fields["Uid"].split() + fields["Gid"].split()
        assert fields["Groups"].split() == []
        assert fields["NoNewPrivs"].strip() == "1"
        assert int(fields["CapEff"], 16) == 0


def test_killed_supervisor_takes_every_child_along(fleet: Fleet) -> None:
    pids = fleet.started()
    fleet.signal(signal.SIGKILL)
    wait_until_gone(list(pids.values()))


def test_starts_again_at_once_after_a_kill(fleet: Fleet) -> None:
    before = fleet.started()
    fleet.signal(signal.SIGKILL)
    after = fleet.started()
    assert not set(before.values()) & set(after.values())
    wait_until_gone(list(before.values()), timeout_s=0)


def test_second_start_is_refused(fleet: Fleet) -> None:
    fleet.started()
    first = fleet.supervisor
    assert first
    fleet.start()
    code, said = fleet.ended()
    assert code == 78
    assert f"already running on the spool {fleet.directory}/spool (supervisor pid {first.pid})" in said
    assert fleet.greeting().startswith("220")


def test_successor_starts_only_after_the_dead_one_is_waited_for(fleet: Fleet) -> None:
    pids = fleet.started()
    os.kill(pids["delivery/0"], signal.SIGKILL)
    successor = fleet.wait_for("delivery/0", "started")
    with pytest.raises(ProcessLookupError):  # not even a zombie
        os.kill(pids["delivery/0"], 0)
    assert successor != pids["delivery/0"]
    assert [child.restarts for child in fleet.status().children if child.name == "delivery/0"] == [1]


def test_counts_of_a_dead_child_are_taken_back(fleet: Fleet) -> None:
    pids = fleet.started()
    fleet.behave("listener/0", "crash")
    os.kill(pids["listener/0"], signal.SIGKILL)
    status = fleet.until(lambda status: any(child.name == "listener/0" and child.state == "throttled" for child in status.children))
    assert [child.smtp_in for child in status.children if child.name == "listener/0"] == [0]


def test_crash_loop_is_throttled_and_its_clients_hear_421(fleet: Fleet) -> None:
    pids = fleet.started(takeover_s=0.1, first_backoff_s=0.1, longest_backoff_s=0.4)
    fleet.behave("listener/0", "crash")
    os.kill(pids["listener/0"], signal.SIGKILL)
    assert fleet.greeting().startswith("421 4.3.2")  # the connection waits in the socket until the supervisor takes over
    fleet.behave("listener/0", "")
    working = fleet.wait_for("listener/0", "works")
    fleet.until(lambda status: status.ready)
    assert fleet.greeting() == f"220 {working}\n"
    assert fleet.status().turned_away >= 1


def test_who_holds_its_loop_is_killed_and_nobody_else(fleet: Fleet) -> None:
    fleet.behave("delivery/0", "hang")
    fleet.start(hung_s=3 * HEARTBEAT_S, first_backoff_s=0.05)  # those that work beat once in HEARTBEAT_S
    held = fleet.wait_for("delivery/0", "started")
    fleet.behave("delivery/0", "")
    assert fleet.wait_for("delivery/0", "works") != held
    restarts = {child.name: child.restarts for child in fleet.status().children}
    assert (restarts["delivery/0"], restarts["accounting/0"]) == (1, 0)


def test_sigterm_drains_in_order(fleet: Fleet) -> None:
    fleet.started()
    fleet.signal(signal.SIGTERM)
    order = [fleet.next_event()[:2] for _ in range(8)]
    assert [child for child, event in order if event == "drains"] == ["listener/0", "delivery/0", "accounting/0", "spool/0"]
    for before, after in zip(order[1::2], order[2::2], strict=False):
        assert before[1] == "ends", (before, after)
    assert fleet.ended()[0] == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", fleet.port), timeout=5)
    assert os.listdir(fleet.directory / "spool/run") == []  # sockets and record


def test_who_does_not_drain_is_told_to_stop_at_the_deadline(fleet: Fleet) -> None:
    fleet.behave("delivery/0", "stubborn")
    fleet.started(least_drain_s=0.1)
    fleet.signal(signal.SIGTERM)
    code, _ = fleet.ended()
    assert code == 0
    log = (fleet.directory / "log").read_text()
    assert "has not drained in time" in log
    assert "did not end in time" not in log


def test_who_does_not_stop_either_is_killed(fleet: Fleet) -> None:
    fleet.behave("delivery/0", "deaf")
    fleet.started(least_drain_s=0.1, hurry_s=0.1)
    fleet.signal(signal.SIGTERM)
    code, _ = fleet.ended()
    assert code == 0
    assert "did not end in time" in (fleet.directory / "log").read_text()


def test_second_sigterm_stops_at_once(fleet: Fleet) -> None:
    fleet.behave("listener/0", "stubborn")
    fleet.started()
    fleet.signal(signal.SIGTERM)
    fleet.wait_for("listener/0", "drains")
    fleet.signal(signal.SIGTERM)
    fleet.wait_for("listener/0", "stops")
    assert fleet.ended()[0] == 0


def test_refusing_child_at_the_first_start_ends_the_start(fleet: Fleet) -> None:
    fleet.behave("spool/0", "refuse")
    fleet.start()
    code, said = fleet.ended()
    assert code == 78
    assert "spool/0: this spool has another format" in said


def test_crashing_child_later_does_not_end_the_engine(fleet: Fleet) -> None:
    pids = fleet.started(first_backoff_s=0.05)
    fleet.until(lambda status: status.ready)
    fleet.behave("accounting/0", "refuse")
    os.kill(pids["accounting/0"], signal.SIGKILL)
    fleet.wait_for("accounting/0", "started")
    fleet.wait_for("accounting/0", "started")
    assert fleet.greeting().startswith("220")


def test_port_in_use_refuses_with_the_port_and_leaves_no_lock(fleet: Fleet) -> None:
    with socket.create_server(("127.0.0.1", fleet.port)):
        fleet.start()
        code, said = fleet.ended()
    assert code == 78
    assert f"127.0.0.1 port {fleet.port}: another program listens there" in said
    fleet.started()


def test_a_directory_of_somebody_else_is_left_alone(fleet: Fleet) -> None:
    spool = fleet.directory / "spool"
    spool.mkdir()
    (spool / "mail.db").write_text("precious")
    spool.chmod(0o777)
    fleet.start()
    code, said = fleet.ended()
    assert (code, sorted(path.name for path in spool.iterdir())) == (78, ["mail.db"])
    assert "not empty and not a spool of this engine" in said


def test_a_child_that_ends_by_a_nameless_signal_is_one_child_less(fleet: Fleet) -> None:
    pids = fleet.started(first_backoff_s=0.05)
    os.kill(pids["accounting/0"], signal.SIGRTMIN + 5)
    fleet.wait_for("accounting/0", "works")
    assert fleet.greeting().startswith("220")


def test_a_record_that_cannot_be_written_stops_no_start(fleet: Fleet) -> None:
    fleet.started()
    fleet.signal(signal.SIGTERM)
    fleet.ended()
    (fleet.directory / "spool/run/pids.new").mkdir()  # as good as a full disk
    fleet.started()
    assert fleet.greeting().startswith("220")
    fleet.signal(signal.SIGTERM)
    code, said = fleet.ended()
    assert code == 0
    assert "warning" in said


def test_ps_shows_the_supervisor(fleet: Fleet) -> None:
    fleet.started()
    assert fleet.supervisor
    with open(f"/proc/{fleet.supervisor.pid}/cmdline", encoding="utf-8") as cmdline:
        assert cmdline.read().startswith(f"engine: supervisor {fleet.directory}/spool")
