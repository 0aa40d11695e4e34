"""A peer may be missing, may fail to start, or is run, measured and stopped; its load may end by the clock."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from bench import __main__ as command
from bench import runs
from bench.__main__ import Bench, Show
from bench.load import Load
from bench.peer import Daemon, Peer, PeerError, fill
from bench.plan import RELAY, Row
from bench.processes import ControlGroup, Measured
from bench.runs import endless, engine_conf, source_address

FORWARD = """
import selectors, socket, sys
chosen, listener = selectors.DefaultSelector(), socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=100)
chosen.register(listener, selectors.EVENT_READ, None)
while True:
    for key, _ in chosen.select():
        if key.data is None:
            near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", int(sys.argv[2])))
            chosen.register(near, selectors.EVENT_READ, far)
            chosen.register(far, selectors.EVENT_READ, near)
        elif (data := key.fileobj.recv(65536)):
            key.data.sendall(data)
        else:
            for side in (key.fileobj, key.data):
                chosen.unregister(side)
                side.close()
            break
"""


class Wire(Daemon):
    """Hands every byte on: the smallest thing that relays."""

    def configure(self) -> Sequence[str]:
        return [sys.executable, "-S", "-c", FORWARD, str(self.port), str(self.relay_port)]


class Mute(Daemon):
    """Ends at once, with a word."""

    def configure(self) -> Sequence[str]:
        return [sys.executable, "-S", "-c", "print('no such option: speed')"]


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that the engine's user can reach, unlike pytest's own."""
    with TemporaryDirectory(prefix="bench-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


def quiet(_name: str, _accepted: int, _delivered: int, _total: int) -> None:
    return


WIRE = Peer("wire", lambda: None, lambda: "1", Wire)
LOAD = Load(messages=40, size_bytes=2000, sessions=4, deadline_s=60)


def test_a_peer_is_started_measured_and_stopped(tmp_path: Path) -> None:
    started: list[Daemon] = []

    def start(directory: Path, port: int) -> Daemon:
        started.append(Wire(directory, port))
        return started[-1]

    figures = runs.through(Peer("wire", lambda: None, lambda: "1", start), LOAD, tmp_path, quiet)
    assert (figures.name, figures.accepted, figures.failed) == ("wire", 40, 0)
    assert (figures.balance.lost, figures.balance.duplicate) == (0, 0)
    assert figures.cpu_us_per_message > 0
    assert figures.peak_resident_bytes > figures.peak_anonymous_bytes > 0
    assert not started[0].measured.alive()


def test_a_load_ends_by_the_clock_and_all_of_it_is_accounted_for(tmp_path: Path) -> None:
    figures = runs.through(WIRE, Load(messages=endless(1), size_bytes=1000, sessions=4, seconds=0.3, deadline_s=60), tmp_path, quiet)
    assert 0 < figures.accepted < endless(1)
    assert (figures.failed, figures.balance.lost, figures.errors) == (0, 0, {})


def test_a_peer_that_does_not_start_is_quoted_and_leaves_nothing(tmp_path: Path) -> None:
    daemon = Mute(tmp_path / "mute")
    with pytest.raises(PeerError, match=r"Mute did not greet.*\n.*no such option: speed"):
        daemon.__enter__()
    assert not daemon.measured.alive()


def test_a_run_names_who_is_missing_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = Peer("gone", lambda: "not installed here", lambda: "", Mute)
    mute = Peer("mute", lambda: None, lambda: "1", Mute)
    monkeypatch.setattr(command, "PEERS", (gone, mute, WIRE))
    row = Row(key="relay-2k", group=RELAY, title="2 KB", load=LOAD)
    with Show(3) as show:
        bench = Bench([row], ["gone", "mute", "wire", "floor"], tmp_path, show)
        bench.run()
    assert [(each["system"], each.get("missing")) for each in bench.records] == [
        ("gone", "not installed here"),
        ("mute", "failed: Mute did not greet within 30 s:"),
        ("wire", None),
        ("floor", None),
    ]
    assert [wrong.splitlines()[0] for wrong in bench.wrong] == ["relay-2k, mute: Mute did not greet within 30 s:"]
    assert [path.name for path in tmp_path.iterdir()] == ["relay-2k-mute"]  # to be looked at


def test_nothing_but_data_on_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(command, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(command.plan, "plan", lambda quick=False: [Row(key="relay-2k", group=RELAY, title="2 KB", load=LOAD)])
    assert command.main(["--json", "--systems", "floor", "--spool-dir", str(tmp_path / "spool")]) == 0
    said, errors = capsys.readouterr()
    assert errors == ""
    assert [row["system"] for row in json.loads(said)["rows"]] == ["floor"]
    (saved,) = (tmp_path / "results").glob("table-*.json")
    assert command.main(["--render", str(saved)]) == 0
    assert "| 2 KB | floor  |" in capsys.readouterr().out


def test_templates_keep_the_braces_that_are_not_theirs(tmp_path: Path) -> None:
    (tmp_path / "template").write_text("port={port}; {other} { port }")
    fill(tmp_path / "template", tmp_path / "made" / "conf", {"port": 25})
    assert (tmp_path / "made" / "conf").read_text() == "port=25; {other} { port }"


def test_source_addresses_are_all_different_and_local() -> None:
    assert [source_address(number) for number in (1, 200, 201, 256)] == ["127.0.0.11", "127.0.0.210", "127.0.1.11", "127.0.1.66"]
    text = engine_conf(2600, virtual_mtas=256, delivery_workers=1)
    assert text.count("smtp-source-host ") == 256
    assert "delivery-workers 1\n" in text


BURN = "import resource, time\nwhile sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.15: pass\n"
IGNORED = """
import os, resource, signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
if os.fork() == 0:
    while sum(resource.getrusage(resource.RUSAGE_SELF)[:2]) < 0.15: pass
    os._exit(0)
try:
    os.wait()
except ChildProcessError:
    pass
"""


def test_children_that_nobody_waits_for_count_in_a_control_group(tmp_path: Path) -> None:
    if (group := ControlGroup.make("bench-test-probe")) is None:
        pytest.skip("no control group can be made here")
    group.close()
    measured = Measured([sys.executable, "-S", "-c", IGNORED], report=tmp_path / "usage", log=tmp_path / "log", cgroup=True)
    assert measured.wait(30)["cpu_us"] >= 150_000


def test_without_a_way_into_the_group_the_processes_are_added_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.stat").write_text("usage_usec 0\n")
    monkeypatch.setattr(ControlGroup, "make", lambda _name: ControlGroup(tmp_path))
    busy = f"{BURN}open({str(tmp_path / 'burnt')!r}, 'w').close(); time.sleep(60)"
    measured = Measured([sys.executable, "-S", "-c", busy], report=tmp_path / "usage", log=tmp_path / "log", cgroup=True)
    deadline = time.monotonic() + 30
    while not (tmp_path / "burnt").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert measured.used_us() >= 100_000
    measured.kill_all()


@pytest.mark.system
def test_the_same_load_beside_recipients_that_wait_and_over_known_domains(open_directory: Path) -> None:
    load = Load(messages=60, size_bytes=1000, sessions=4, deadline_s=60)
    for name in ("queued", "domains"):
        (open_directory / name).mkdir()
    steps = list(runs.engine_with_queued(load, open_directory / "queued", quiet, (0, 700)))
    assert [count for count, _ in steps] == [0, 700]
    domains = runs.engine(replace(load, domains=150), open_directory / "domains", quiet, known_domains=True)
    for figures in (*(figures for _, figures in steps), domains):
        assert (figures.accepted, figures.d_records) == (60, 60)
        assert (figures.balance.lost, figures.balance.duplicate) == (0, 0)
        assert figures.cpu_us_per_message > 0
