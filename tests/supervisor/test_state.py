"""What a supervisor leaves to the program after it: written and read, by this version and by others."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from engine.config import from_text
from engine.errors import StartError
from engine.process import HEARTBEAT_ROW_BYTES, SPOOL_PROTOCOL, TRAFFIC_CELLS, ListenSocket
from engine.supervisor import state as documents
from engine.supervisor.certificates import Certificates
from engine.supervisor.configuration import Options, load
from engine.supervisor.generation import generation
from engine.supervisor.others import Held, Others
from engine.supervisor.plan import Plan
from engine.supervisor.slots import Slot
from engine.supervisor.state import FORMAT, ChildState, TrafficState, decode, encode, state
from engine.supervisor.traffic import SECONDS, Traffic

NO_TRAFFIC = TrafficState(gone=(0,) * 6, seconds=[], minutes=[], until_minute=60, top_minute=(0,) * 6, top_hour=(0,) * 6, top_connections=[0, 0])

# As a program of format 1 has written it once.  Whoever cannot read it any more needs another FORMAT.
OF_FORMAT_1: dict[str, Any] = {
    "format": 1,
    "version": "0.1.0",
    "pid": 4711,
    "attempt": 1,
    "spool_protocol": 1,
    "row_bytes": HEARTBEAT_ROW_BYTES,
    "options": {"conf": "/etc/engine", "port_offset": 0, "state_dir": "", "lenient": False, "shadow": False, "sink_port": 0},
    "generation": 3,
    "config_fd": 5,
    "rows": 128,
    "lock_fd": 6,
    "counters_fd": 7,
    "heartbeat_fd": 8,
    "lifeline": [9, 10],
    "spool_listener_fd": 11,
    "control_listener_fd": 12,
    "tls_fd": 14,
    "door_fd": 18,
    "spool_path": "/var/spool/engine",
    "others": [{"path": "/mnt/dead", "lock_fd": 15, "door_fd": -1}, {"path": "/mnt/fast", "lock_fd": 16, "door_fd": 17}],
    "asking_gid": -1,
    "log_path": "/var/log/engine/log",
    "log_mode": 0o640,
    "uid": 100,
    "gid": 100,
    "born_s": 12.5,
    "turned_away": 2,
    "traffic": {
        "gone": [1, 2, 3, 4, 5, 6],
        "seconds": [[0] * 6],
        "minutes": [[0] * 6],
        "until_minute": 17,
        "top_minute": [1, 2, 3, 4, 5, 6],
        "top_hour": [1, 2, 3, 4, 5, 6],
        "top_connections": [8, 9],
    },
    "children": [
        {
            "role": "listener",
            "index": 1,
            "row": 4,
            "pid": 4712,
            "title": "",
            "spawned_s": 13.0,
            "ready": True,
            "progress": 8,
            "progress_s": 20.0,
            "restarts": 1,
            "told": 0,
            "kill_at_s": 0.0,
            "retiring": False,
            "sockets": [{"fd": 13, "address": "127.0.0.1", "port": 2525, "source": ""}],
            "source_path": "",
        },
        {"role": "mover", "index": 0, "row": 5, "pid": 0, "source_path": "/mnt/dead"},
    ],
}


@pytest.fixture
def plan() -> Iterator[Plan]:
    snapshot = from_text("host-name one.example\nlog-file /l\n<spool /s>\n</spool>\n")
    now = generation(2, load(snapshot)[0], snapshot, Options(conf="/e.conf"), lambda listeners, deliveries: (1, 1))
    with socket.socket() as one, socket.socket() as other, socket.socket() as third:
        made = Plan(
            slots=[
                Slot("spool", 0, "m", 0, pid=11, ready=True, progress=4, spawned_s=1.5),
                Slot("listener", 3, "m", 1, "title", [ListenSocket(77, "127.0.0.1", 25, "in")], pid=12, told=1, kill_at_s=9.0, retiring=True),
                Slot("mover", 0, "m", 2, source_path="/mnt/dead", restarts=5),
            ],
            generation=now,
            options=Options(conf="/e.conf", lenient=True, sink_port=4000),
            modules={},
            workers=lambda listeners, deliveries: (1, 1),
            rows=128,
            lock_fd=70,
            counters_fd=71,
            door_fd=73,
            heartbeat_fd=72,
            certificates=Certificates({}, now.config),
            spool_path="/s",
            others=Others(5, 6, 7, [Held("/mnt/dead", 78, None), Held("/mnt/fast", 79, third)]),
            spool_listener=one,
            control_listener=other,
            log_path="/l",
            uid=5,
            gid=6,
        )
        yield made
    for fd in (*made.lifeline, now.config_fd, made.certificates.fd):
        os.close(fd)


def test_what_is_written_is_read(plan: Plan) -> None:
    left = state(plan, "1.0", 3, 17, NO_TRAFFIC)
    read = decode(encode(left))
    assert read == left
    assert (read.options, read.pid, read.spool_protocol) == (plan.options, os.getpid(), SPOOL_PROTOCOL)
    door = plan.others.held["/mnt/fast"].door
    assert door is not None
    ours = {plan.generation.config_fd, plan.certificates.fd, 70, 71, 72, 73, 77, 78, 79, *plan.lifeline}
    assert set(read.descriptors) == ours | {each.fileno() for each in (plan.spool_listener, plan.control_listener, door)}


def test_slots_come_out_as_they_went_in(plan: Plan) -> None:
    read = decode(encode(state(plan, "1.0", 3, 17, NO_TRAFFIC)))
    for before, child in zip(plan.slots, read.children, strict=True):
        after = documents.adopted(child, "m")
        for field in ChildState.__struct_fields__:
            assert getattr(after, field) == getattr(before, field), field
        assert after.worked == before.ready


def test_a_document_of_format_1_can_be_read_for_ever() -> None:
    assert FORMAT == 1, "keep the document above as the old format's, and say what becomes of it"
    read = decode(msgspec.msgpack.encode(OF_FORMAT_1 | {"more": "than we know"}))
    assert read.children[0].sockets == [ListenSocket(13, "127.0.0.1", 2525)]
    assert read.children[1].pid == 0
    assert read.descriptors == list(range(5, 19))
    assert msgspec.to_builtins(read, builtin_types=(bytes,)).keys() == OF_FORMAT_1.keys()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2, "version": "9.9"}, "the running engine 9.9 hands over its state in format 2, this program reads format 1"),
        ({"row_bytes": 8 * TRAFFIC_CELLS}, f"shares rows of {8 * TRAFFIC_CELLS} bytes, this program {HEARTBEAT_ROW_BYTES}"),
        ({"children": 7}, "cannot be read"),
    ],
)
def test_another_format_is_refused_by_name(change: dict[str, Any], said: str) -> None:
    with pytest.raises(StartError, match=said):
        decode(msgspec.msgpack.encode(OF_FORMAT_1 | change))
    with pytest.raises(StartError, match="cannot be read"):
        decode(b"torn")


def test_traffic_goes_on_where_it_was() -> None:
    cells = memoryview(bytearray(8 * TRAFFIC_CELLS)).cast("q")
    before = Traffic(cells, 0.0)
    for second in range(1, 3 * SECONDS + 7):
        cells[0], cells[1], cells[2], cells[3] = 10 * second, 20 * second, 1024 * second, 5
        before.sample([("listener", 0)], float(second))
    after = Traffic(cells, 0.0)
    after.resume(msgspec.msgpack.decode(msgspec.msgpack.encode(before.save()), type=TrafficState))
    assert after.table([("listener", 0)], 1, 0) == before.table([("listener", 0)], 1, 0)
    for second in range(3 * SECONDS + 7, 4 * SECONDS + 9):
        cells[0] = 11 * second
        for each in (before, after):
            each.sample([("listener", 0)], float(second))
    assert after.table([("listener", 0)], 1, 0) == before.table([("listener", 0)], 1, 0)
