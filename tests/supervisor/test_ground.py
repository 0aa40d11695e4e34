"""What a start refuses, and that each refusal says what to do."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import resource
import socket
from pathlib import Path

import pytest

from engine.errors import StartError
from engine.listener.worker import max_connections
from engine.supervisor import ground, sockets
from engine.supervisor.start import workers


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """The process's limit on open files, pretended; ["now"] is (soft, hard)."""
    held = {"now": (1024, 4096)}
    monkeypatch.setattr(resource, "getrlimit", lambda _which: held["now"])
    monkeypatch.setattr(resource, "setrlimit", lambda _which, pair: held.update(now=pair))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    return held


def test_enough_descriptors_change_nothing(limits: dict[str, tuple[int, int]]) -> None:
    ground.descriptors(100, 200, 6)
    assert limits["now"] == (1024, 4096)


def test_soft_limit_is_raised_as_needed(limits: dict[str, tuple[int, int]]) -> None:
    ground.descriptors(1500, 100, 6)
    assert limits["now"] == (3256, 4096)


@pytest.mark.parametrize("total", [480, 600, 1500])
def test_one_listener_may_have_all_of_total_max_smtp_in(limits: dict[str, tuple[int, int]], total: int) -> None:
    ground.descriptors(total, 1, 6)
    assert max_connections() >= total


def test_a_limit_below_two_for_each_connection_is_used_whole(limits: dict[str, tuple[int, int]]) -> None:
    ground.descriptors(3000, 100, 6)
    assert limits["now"] == (4096, 4096)


def test_too_low_a_limit_says_the_number(limits: dict[str, tuple[int, int]]) -> None:
    with pytest.raises(StartError, match=r"5256 open files are needed for .*-in 100, .*-out 5000 .* limit is 4096.*ulimit -n 5256"):
        ground.descriptors(100, 5000, 6)


def test_root_raises_the_hard_limit(limits: dict[str, tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    ground.descriptors(100, 5000, 6)
    assert limits["now"] == (10256, 10256)


def test_missing_user_says_how_to_create_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(StartError, match=r"user no-such-user does not exist(?s:.*)useradd --system .* no-such-user"):
        ground.who("no-such-user")


def test_root_is_not_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(StartError, match="never run as root"):
        ground.who("root")


def test_unprivileged_start_stays_who_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert ground.who("no-such-user") == (-1, -1)


def test_directories_are_made_private(tmp_path: Path) -> None:
    ground.directory(str(tmp_path / "a" / "spool"), 0o700, -1, -1, "spool")
    assert (tmp_path / "a" / "spool").stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_directory_that_became_a_link_meanwhile_gives_nothing_else_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    monkeypatch.setattr(os, "mkdir", lambda path, _mode: os.symlink(precious, path))
    with contextlib.suppress(StartError):
        ground.directory(str(tmp_path / "spool"), 0o700, 65534, 65534, "spool")
    assert precious.stat().st_uid == 0


def test_the_name_of_a_new_directory_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(ground, "sync_directory", synced.append)
    for _ in range(2):
        ground.directory(str(tmp_path / "spool"), 0o700, -1, -1, "spool")
    assert synced == [str(tmp_path)]


def test_file_in_place_of_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "spool").touch()
    with pytest.raises(StartError, match="is not a directory"):
        ground.directory(str(tmp_path / "spool"), 0o700, -1, -1, "spool")


def test_workers_must_reach_their_directory(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "spool").mkdir(mode=0o777)
    with pytest.raises(StartError, match="may not enter"):
        ground.directory(str(tmp_path / "spool"), 0o700, 12345, 12345, "spool")


def test_long_spool_path_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="too long for a Unix socket"):
        ground.run_directory("/" + "x" * 100, -1)


NETWORKS = [
    ("0.0.0.0/0", ["0.0.0.0"]),
    ("::/0", ["::"]),
    ("127.0.0.11/32", ["127.0.0.11"]),
    ("2001:db8::1/128", ["2001:db8::1"]),
    ("127.0.0.0/8", ["127.0.0.1"]),
]


@pytest.mark.parametrize(("network", "expected"), NETWORKS)
def test_listener_networks_become_addresses(network: str, expected: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    local = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("::1")]
    monkeypatch.setattr(sockets, "local_addresses", lambda: local)
    assert sockets.expand(ipaddress.ip_network(network)) == expected


def test_network_without_a_local_address_is_refused() -> None:
    with pytest.raises(StartError, match="no address in it"):
        sockets.expand(ipaddress.ip_network("203.0.113.0/24"))


def test_this_machine_has_its_loopback_address() -> None:
    assert ipaddress.ip_address("127.0.0.1") in sockets.local_addresses()


def test_most_specific_listener_decides_and_offset_applies() -> None:
    listeners = [
        (ipaddress.ip_network("0.0.0.0/0"), 25, "all"),
        (ipaddress.ip_network("127.0.0.1/32"), 25, "one"),
        (ipaddress.ip_network("127.0.0.1/32"), 25, "again"),
    ]
    assert sockets.addresses(listeners, 10000) == [("127.0.0.1", 10025, "one"), ("0.0.0.0", 10025, "all")]


def test_offset_out_of_range_is_refused() -> None:
    with pytest.raises(StartError, match="not a port"):
        sockets.addresses([(ipaddress.ip_network("0.0.0.0/0"), 25, "")], 65530)


def test_each_slot_has_a_socket_of_its_own_on_every_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    bound = sockets.bind([("127.0.0.1", port, "")], 3)
    opened = [socket.socket(fileno=listening.fd) for row in bound for listening in row]
    try:
        assert len({each.fileno() for each in opened}) == 3
        assert {each.getsockname() for each in opened} == {("127.0.0.1", port)}
        assert all(each.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT) for each in opened)
    finally:
        for each in opened:
            each.close()


def test_port_shared_by_another_program_is_seen_although_it_would_share() -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(StartError, match=f"127.0.0.1 port {other.getsockname()[1]}: another program"):
            sockets.bind([("127.0.0.1", other.getsockname()[1], "")], 1)


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "make start PORT_OFFSET=10000"),
        (errno.EADDRINUSE, "ss -ltnp"),
        (errno.EADDRNOTAVAIL, "does not have that address"),
        (errno.ENOBUFS, "buffer"),
    ],
)
def test_each_refusal_of_a_port_says_what_to_do(number: int, advice: str) -> None:
    text = sockets.why_not("127.0.0.1", 25, OSError(number, os.strerror(number)))
    assert "127.0.0.1 port 25" in text
    assert advice in text


@pytest.mark.parametrize(
    ("listeners", "deliveries", "cores", "expected"),
    [(0, 0, 1, (1, 1)), (0, 0, 2, (1, 1)), (0, 0, 16, (8, 8)), (3, 0, 2, (3, 1)), (0, 4, 2, (1, 4))],
)
def test_workers_by_cores_unless_told(listeners: int, deliveries: int, cores: int, expected: tuple[int, int]) -> None:
    assert workers(listeners, deliveries, lambda: cores) == expected


def test_a_log_is_no_second_name_of_another_file_and_no_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory belongs to the workers' user, who must not get files of ours, nor let us wait."""
    directory = tmp_path / "log"
    directory.mkdir()
    owner = os.geteuid() or 65534
    os.chown(directory, owner, -1)
    monkeypatch.setattr(ground, "_must_be_usable", lambda *_: None)
    (tmp_path / "ours").touch(0o600)
    os.link(tmp_path / "ours", directory / "linked")
    try:
        ground.log_file(str(directory / "linked"), owner, os.getegid())
    except StartError:
        pass
    found = (tmp_path / "ours").stat()
    assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid(), 0o600)
    os.mkfifo(directory / "pipe")
    with pytest.raises(StartError, match="cannot write log-file"):
        ground.log_file(str(directory / "pipe"), owner, os.getegid())
