"""The spool process's loop, stepped by hand."""

from __future__ import annotations

import errno
import os
import resource
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from engine.errors import SpoolError, StartError
from engine.mail.envelope import DUE_KEY
from engine.spool import BodyCorrupt, BodyMissing, claim, format, wire
from engine.spool.ops import Due, Exported, NewRecipient, Seal, Settle, Settlement
from tests.spool.stepping import Spool, Worker, accept, encode, settle

BODY = [b"Subject: x\r\n", b"\r\nhello\r\n"]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    made = Spool(tmp_path)
    yield made
    made.close()


def put(worker: Worker, *queues: str) -> bytes:
    """One accepted message; its id."""
    identity = worker.new_id()
    assert worker.do(accept(identity, worker.writer_.write(identity, BODY), *queues)) == [None]
    return identity


def listener(spool: Spool, index: int = 0, **options: int) -> Worker:
    worker = Worker(spool, index=index)
    worker.writer_ = worker.writer(**options)
    return worker


def test_accept_is_announced_with_its_stamp_and_readable(spool: Spool) -> None:
    slot = Worker(spool, "delivery", ("v1",), True)
    worker = listener(spool)
    identity = put(worker, "a.example/v1", "b.example/v1", "a.example/v1")
    (announced,) = [answer for answer in slot.hear() if isinstance(answer, wire.Announce)]
    assert len(announced.numbers) == 2
    reader = spool.reader()
    stamp = announced.stamp_ms
    rows = [row for number in sorted(announced.numbers) for row in reader.due(number, None, stamp, 100)[0]]
    assert [DUE_KEY.unpack(key)[2:] for key, _ in rows] == [(stamp, identity, 0), (stamp, identity, 2), (stamp, identity, 1)]
    assert [due.address for _, due in rows] == ["r0@x.example", "r2@x.example", "r1@x.example"]
    assert {reader.queue_name(number) for number in announced.numbers} == {"a.example/v1", "b.example/v1"}
    body = reader.messages([identity, b"\0" * 12])[identity].body
    assert reader.body(body, identity) == b"".join(BODY) == b"".join(reader.body_chunks(body, identity))


def test_settle_counts_down_and_the_last_one_frees_the_segment(spool: Spool) -> None:
    worker = listener(spool)
    put(worker, "a/v", "b/v")
    keys = [key for key, _ in spool.rows()]
    assert worker.do(settle(keys[0])) == [None]
    assert len(spool.table("message")) == 1
    assert worker.do(settle(keys[1], keys[0]), Seal(1)) == [None, None]
    assert spool.table("message") == spool.table("segment") == {}
    assert spool.files() == []
    assert list(spool.table("outbox").values()) == [b"record", b"record"]  # the second settle of a row left no second record


def test_deferral_moves_the_row(spool: Spool) -> None:
    worker = listener(spool)
    put(worker, "a/v")
    ((key, _),) = spool.rows()
    later = encode(Due("r0@x.example", 1, attempts=1))
    again = 9_999_999_999_999
    worker.do(Settle([Settlement(key, b"t", again, later)]))
    ((moved, value),) = spool.rows()
    assert DUE_KEY.unpack(moved)[2] == again and moved[:5] == key[:5] and moved[13:] == key[13:] and value == later
    reader = spool.reader()
    assert reader.due(1, None, again - 1, 10) == ([], again)
    worker.do(settle(moved), settle(key))
    assert spool.rows() == [] and len(spool.table("outbox")) == 2


def test_bounce_message_comes_only_with_its_row(spool: Spool) -> None:
    worker = listener(spool)
    put(worker, "a/v")
    ((key, _),) = spool.rows()
    for expected in (1, 1):  # the second time the row is gone, so there is no second bounce message
        identity = worker.new_id()
        notice = accept(identity, worker.writer_.write(identity, BODY), "s/v")
        worker.do(Settle([Settlement(key, b"b")], notice))
        assert len(spool.table("message")) == expected
    assert len(spool.table("outbox")) == 1


def test_records_of_queues_are_always_stored(spool: Spool) -> None:
    worker = Worker(spool, "delivery")
    worker.do(Settle([], None, [b"tq"]))
    assert list(spool.table("outbox").values()) == [b"tq"]


def test_stamps_go_up_even_if_the_clock_goes_back(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = listener(spool)
    put(worker, "a/v")
    monkeypatch.setattr("engine.spool.committer.wall_ms", lambda: 1_000)
    put(worker, "a/v")
    spool.crash()
    spool.start()
    worker.resume()
    put(worker, "a/v")
    stamps = [DUE_KEY.unpack(key)[2] for key, _ in spool.rows()]
    assert stamps == sorted(set(stamps)) and len(stamps) == 3


def test_numbers_of_queues_survive_and_are_never_reused(spool: Spool) -> None:
    worker = listener(spool)
    put(worker, "a/v")
    worker.do(settle(spool.rows()[0][0]))
    spool.crash()
    spool.start()
    worker.resume()
    put(worker, "b/v", "a/v")
    assert spool.reader().queue_name(1) == "a/v" and spool.reader().queue_name(2) == "b/v"
    with pytest.raises(KeyError):
        spool.reader().queue_name(3)


def test_epoch_end_seals_and_removes_what_no_row_names(spool: Spool) -> None:
    worker = listener(spool, segment_bytes=10)
    put(worker, "a/v")
    worker.writer_.write(worker.new_id(), BODY)
    spool.step()
    assert len(spool.files()) == 2
    worker.close()
    spool.step()
    assert spool.files() == [format.segment_name(worker.epoch, 1)]
    other = Worker(spool)
    other.do(settle(spool.rows()[0][0]))
    assert spool.files() == []


def test_refusals_survive_a_restart(spool: Spool) -> None:
    worker = listener(spool)
    identity = worker.new_id()
    body = worker.writer_.write(identity, BODY)
    worker.send(accept(identity, body, "a/v"), accept(worker.new_id(), body, "q" * 600), accept(worker.new_id(), body, "b/v"))
    spool.step()
    spool.crash()  # the acknowledgement was never read
    spool.start()
    worker.resume()
    assert worker.upto == 3 and worker.refused == {2: "unusable queue name or priority"}
    assert len(spool.rows()) == 2
    worker.do(Seal(99))
    worker.do(Seal(98))
    assert spool.table("state")[format.EPOCH_PREFIX + format.U32.pack(worker.epoch)] == format.EPOCH_ROW.pack(5)


def test_refused_resume(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = listener(spool)
    put(worker, "a/v")
    monkeypatch.setattr("engine.spool.service.RESUME_WITHIN_S", -1.0)
    spool.crash()
    spool.start()
    spool.step()
    worker.resume()
    assert isinstance(worker.answers[-1], wire.Rejected)
    assert len(spool.rows()) == 1


@pytest.mark.parametrize(
    "change", [{"epoch": 77}, {"id": b"short"}, {"recipients": []}, {"segment": 1 << 40}, {"size_bytes": -1}, {"id": b"\0" * 12}]
)
def test_malformed_accepts_are_refused_alone(spool: Spool, change: dict[str, object]) -> None:
    worker = listener(spool)
    identity = worker.new_id()
    good = accept(identity, worker.writer_.write(identity, BODY), "a/v")
    second = worker.new_id()
    bad = msgspec.structs.replace(accept(second, worker.writer_.write(second, BODY), "a/v"), **change)
    first, refused = worker.do(good, bad)
    assert first is None and refused is not None
    assert len(spool.rows()) == 1


def test_an_operation_that_cannot_be_decoded_is_refused_alone(spool: Spool) -> None:
    worker = listener(spool)
    identity = worker.new_id()
    good = accept(identity, worker.writer_.write(identity, BODY), "a/v")
    worker.sent += [good, good]
    worker.socket.sendall(wire.batch_frame(0, [b"\x92\x01\xa1x", encode(good)]))
    spool.step()
    worker.hear()
    assert worker.upto == 2 and worker.refused == {1: "malformed operation"}
    assert len(spool.rows()) == 1


def test_garbage_ends_only_its_connection(spool: Spool) -> None:
    worker = listener(spool)
    other = listener(spool, 1)
    worker.socket.sendall(b"\0\0\0\x03abc")
    spool.step()
    put(other, "a/v")
    assert "broke the protocol" in spool.log_text()


def test_sealed_segments_take_no_more_mail(spool: Spool) -> None:
    worker = listener(spool)
    identity = put(worker, "a/v")
    body = spool.reader().messages([identity])[identity].body
    assert worker.do(Seal(1), accept(worker.new_id(), body, "a/v")) == [None, "its segment is sealed"]


def test_large_bodies_have_their_own_file_which_goes_with_them(spool: Spool) -> None:
    worker = listener(spool)
    identity = worker.new_id()
    large = worker.writer_.begin_large(identity)
    for _ in range(5):
        large.write(b"x" * 600_000)
    body = large.finish()
    assert worker.do(accept(identity, body, "a/v")) == [None]
    reader = spool.reader()
    assert sum(map(len, reader.body_chunks(body, identity))) == 3_000_000
    worker.do(settle(spool.rows()[0][0]))
    assert spool.files() == []
    aborted = worker.writer_.begin_large(worker.new_id())
    aborted.abort()
    refused = worker.writer_.begin_large(worker.new_id())
    assert worker.do(accept(worker.new_id(), refused.finish(), "q" * 999)) != [None]
    assert spool.files() == []


def test_a_large_body_without_a_descriptor_is_an_error_of_the_spool(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_descriptor(_: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    worker = listener(spool)
    identity = put(worker, "a/v")
    reader = spool.reader()
    body = reader.messages([identity])[identity].body
    monkeypatch.setattr(os, "dup", no_descriptor)
    with pytest.raises(SpoolError, match="Too many open files"):
        list(reader.body_chunks(body, identity))


def test_damaged_bodies_are_told_apart(spool: Spool) -> None:
    worker = listener(spool)
    identity = put(worker, "a/v")
    reader = spool.reader()
    body = reader.messages([identity])[identity].body
    path = spool.root / format.BODIES / spool.files()[0]
    data = bytearray(path.read_bytes())
    data[body.offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(BodyCorrupt):
        reader.body(body, identity)
    with pytest.raises(BodyCorrupt):
        list(reader.body_chunks(body, identity))
    path.write_bytes(data[: body.offset + 3])
    with pytest.raises(BodyCorrupt):
        reader.body(body, identity)
    path.unlink()
    reader.sweep()
    with pytest.raises(BodyMissing):
        reader.body(body, identity)


def test_exported_deletes_in_slices_and_keeps_positions(spool: Spool) -> None:
    worker = Worker(spool, "accounting")
    worker.do(Settle([], None, [b"r%d" % number for number in range(5_000)]))
    assert any(isinstance(answer, wire.Announce) for answer in worker.answers)
    reader = spool.reader()
    assert len(reader.outbox(0, 10_000)) == 5_000
    worker.do(Exported(4_990, {"acct.csv": b"at 7"}))
    assert [number for number, _ in reader.outbox(0, 100)] == list(range(4_991, 5_001))
    assert reader.positions() == {"acct.csv": b"at 7"}
    spool.step(6)
    assert len(spool.table("outbox")) == 10
    worker.do(Exported(99_999, {}))
    spool.crash()
    spool.start()
    worker.resume()
    worker.do(Settle([], None, [b"next"]))
    assert spool.reader().outbox(0, 10) == [(5_001, b"next")]


def test_accounting_behind_refuses_mail_then_pauses_sending(tmp_path: Path) -> None:
    spool = Spool(tmp_path, outbox_bound=10)
    worker = listener(spool)
    slot = Worker(spool, "delivery")
    slot.do(Settle([], None, [b"r"] * 21))
    identity = worker.new_id()
    (reason,) = worker.do(accept(identity, worker.writer_.write(identity, BODY), "a/v"))
    assert reason is not None and reason.startswith("accounting behind")
    slot.send(Settle([], None, [b"later"]))
    spool.step()
    slot.hear()
    assert slot.upto == 1
    accounting = Worker(spool, "accounting")
    accounting.do(Exported(21, {}))
    spool.step()
    slot.hear()
    assert slot.upto == 2
    spool.close()


def test_failed_sync_refuses_its_messages_and_abandons_the_segment(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = listener(spool)
    identity = put(worker, "a/v")
    real = spool.service.files._sync_file

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    spool.service.files._sync_file = fail  # type: ignore[method-assign]
    lost = worker.new_id()
    (reason,) = worker.do(accept(lost, worker.writer_.write(lost, BODY), "a/v"))
    assert reason is not None and reason.startswith("sync failed")
    spool.service.files._sync_file = real  # type: ignore[method-assign]
    spool.step()
    after = put(worker, "a/v")
    reader = spool.reader()
    bodies = reader.messages([identity, lost, after])
    assert set(bodies) == {identity, after} and (bodies[identity].body.segment, bodies[after].body.segment) == (1, 2)
    assert reader.body(bodies[identity].body, identity) == b"".join(BODY)


def test_missing_segment_refuses(spool: Spool) -> None:
    worker = listener(spool)
    identity = worker.new_id()
    body = worker.writer_.write(identity, BODY)
    (spool.root / format.BODIES / spool.files()[0]).unlink()
    (reason,) = worker.do(accept(identity, body, "a/v"))
    assert reason is not None and reason.startswith("sync failed")


def test_unknown_virtual_mta_goes_to_the_fallback(spool: Spool) -> None:
    first = Worker(spool, "delivery", ("v1",), True)
    second = Worker(spool, "delivery", ("v2",), index=1)
    worker = listener(spool)
    put(worker, "a/v2", "a/gone")
    assert [answer.numbers for answer in first.hear()] == [[2]]
    assert [answer.numbers for answer in second.hear()] == [[1]]
    second.close()
    put(worker, "a/v2")
    assert [answer.numbers for answer in first.hear()] == [[1]]


def test_accounting_hears_of_records_once_until_it_has_taken_them(spool: Spool) -> None:
    accounting = Worker(spool, "accounting")
    worker = listener(spool)

    def news() -> int:
        worker.do(Settle([], None, [b"tq"]))
        return len(accounting.hear())

    assert [news(), news(), news()] == [1, 0, 0]
    accounting.do(Exported(2, {}))
    assert news() == 0  # the third waits still: accounting, which has just heard, looks again
    accounting.do(Exported(4, {}))
    assert news() == 1


def test_a_slot_that_does_not_read_hears_look_again(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.session.MAX_ANNOUNCE_BYTES", 40)
    slot = Worker(spool, "delivery", ("v1",), True)
    (session,) = spool.service._sessions.values()
    kept, session.connection = session.connection, _Full()  # type: ignore[assignment]
    worker = listener(spool)
    for _ in range(8):
        put(worker, "a/v1")
    assert session.look_again
    session.connection = kept
    session.flush(spool.service.ledger.stamp_ms)
    assert slot.hear()[-1] == wire.Announce([], spool.service.ledger.stamp_ms)


class _Full:
    """A connection whose send buffer is full."""

    def send(self, data: bytes) -> int:
        raise BlockingIOError


def test_questions(spool: Spool) -> None:
    worker = listener(spool)
    identity = put(worker, "a/v", "b/v")
    put(worker, "b/v")
    control = Worker(spool, "control")

    def ask(**question: object) -> dict[str, object]:
        control.socket.sendall(wire.frame(question))
        spool.step()
        data = control.socket.recv(1 << 16)
        return msgspec.msgpack.decode(data[4:], type=dict[str, object])

    shown = ask(q="show", id=identity)
    rows = shown["rows"]
    assert isinstance(rows, list) and shown["ok"] and shown["whole"] and [row[0] for row in rows] == ["a/v", "b/v"]
    counts = ask(q="counts", top=5)
    assert counts["messages"] == 2 and counts["recipients"] == 3 and counts["queues"] == [["b/v", 2, True], ["a/v", 1, True]]
    assert counts["live_bytes"] == 2 * len(b"".join(BODY))
    assert not ask(q="show", id=b"x")["ok"] and not ask(q="nonsense")["ok"]


def test_priorities_are_walked_in_order(spool: Spool) -> None:
    worker = listener(spool)
    identity = worker.new_id()
    normal = accept(identity, worker.writer_.write(identity, BODY), "a/v")
    recipients = [NewRecipient("a/v", encode(Due(f"p{priority}", 1)), priority) for priority in (10, 90, 50)]
    worker.do(msgspec.structs.replace(normal, recipients=recipients))
    reader = spool.reader()
    stamp = spool.service.ledger.stamp_ms
    rows, later = reader.due(1, None, stamp, 10)
    assert [due.address for _, due in rows] == ["p90", "p50", "p10"] and later is None
    assert [due.address for _, due in reader.due(1, rows[0][0], stamp, 10)[0]] == ["p50", "p10"]
    assert reader.due(1, None, stamp - 1, 10) == ([], stamp)
    assert len(reader.due(1, None, stamp, 2)[0]) == 2


def test_foreign_directories_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("mine")
    with pytest.raises(StartError, match="neither empty nor"):
        claim(tmp_path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["config"]


def test_what_the_supervisor_put_there_is_not_foreign(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with pytest.raises(StartError, match="neither empty nor"):
        claim(tmp_path)
    (tmp_path / "lock").write_bytes(b"engine spool\n")
    with open(tmp_path / "lock", "rb") as lock:
        assert (claim(tmp_path, lock.fileno()) / format.MARKER).exists()


def test_other_formats_are_refused(tmp_path: Path) -> None:
    root = claim(tmp_path / "spool")
    (root / format.MARKER).write_text("engine spool, format 99\n")
    with pytest.raises(StartError, match="format 99"):
        claim(root)
    (root / format.MARKER).write_text("something else")
    with pytest.raises(StartError, match="not ours"):
        claim(root)


def test_an_index_of_another_format_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with spool.service.env.begin(write=True) as txn:
        txn.put(format.VERSION, format.U32.pack(7), db=spool.service.tables.meta)
    spool.crash()
    with pytest.raises(StartError, match="format 7"):
        spool.start()
    spool.listener.close()


def test_torn_and_foreign_files_are_told_apart_at_start(spool: Spool) -> None:
    worker = listener(spool)
    put(worker, "a/v")
    bodies = spool.root / format.BODIES
    (bodies / "README").write_text("an operator's")
    (bodies / format.segment_name(worker.epoch, 7)).write_bytes(b"torn")  # of an epoch that may resume
    (bodies / format.segment_name(worker.epoch + 5, 1)).write_bytes(b"of the future")
    closed = Worker(spool, index=1)
    closed.close()
    (bodies / format.segment_name(closed.epoch, 1)).write_bytes(b"torn")
    spool.crash()
    spool.start()
    left = [format.segment_name(epoch, segment) for epoch, segment in ((worker.epoch, 1), (worker.epoch, 7), (worker.epoch + 5, 1))]
    assert spool.files() == sorted([*left, "README"])


@pytest.mark.parametrize("number", [0, 3])  # of the queue's owner under the same configuration, or another one
def test_a_successor_waits_for_the_last_words_of_who_was_killed(spool: Spool, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    listening = listener(spool)
    for _ in range(4):
        put(listening, "a/v")
    slot = Worker(spool, "delivery", ("v",))
    monkeypatch.setattr("engine.spool.service.GROUP_OPERATIONS", 1)  # one frame a turn
    for key, _ in spool.rows():
        slot.send(settle(key))
    slot.socket.close()
    successor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    successor.connect(str(spool.base / "socket"))
    successor.sendall(wire.frame(wire.Hello("delivery", number, ["v"], False)))
    successor.settimeout(0)
    welcomed = False
    for _ in range(50):
        spool.service.turn(0)
        try:
            welcomed = bool(successor.recv(1))
            break
        except BlockingIOError:
            continue
    assert welcomed
    assert spool.rows() == []  # what it reads now, nobody else settles
    successor.close()


def test_an_owner_of_other_queues_is_not_waited_for(spool: Spool) -> None:
    first = Worker(spool, "delivery", ("v",))
    second = Worker(spool, "delivery", ("w",), index=1)
    assert first.epoch
    assert second.epoch


def test_the_room_to_keep_can_be_told(spool: Spool) -> None:
    teller = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    teller.connect(str(spool.base / "socket"))
    teller.sendall(wire.frame(wire.Hello("control", 0, [], False)) + wire.frame({"q": "room", "min_free_bytes": 12345}))
    teller.close()  # waits for nothing, as the supervisor
    spool.step()
    assert spool.service.space.min_free_bytes == 12345


def test_an_attempt_to_resume_that_was_given_up_costs_no_epoch(spool: Spool) -> None:
    worker = listener(spool)
    put(worker, "a/v")
    spool.crash()
    spool.start()
    given_up = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)  # the spool process took so long that the worker connected anew
    given_up.connect(str(spool.base / "socket"))
    given_up.sendall(wire.frame(wire.Hello("listener", 0, [], False, worker.epoch)))
    given_up.close()
    worker.resume()
    spool.step()
    worker.hear()
    assert isinstance(worker.answers[-1], wire.Welcome), worker.answers
    put(worker, "b/v")
    assert len(spool.rows()) == 2


def test_the_names_of_new_files_are_synced_before_anything_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    real = format.sync_directory
    monkeypatch.setattr(format, "sync_directory", lambda path: (real(path), synced.append(Path(path))))
    spool = Spool(tmp_path)
    assert {spool.root, spool.root / format.INDEX} <= set(synced)
    put(listener(spool), "a/v")
    assert spool.root / format.BODIES in synced
    spool.close()


def test_without_a_descriptor_for_a_connection_it_tries_again_a_little_later(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.spool.service.ACCEPT_AGAIN_S", 3600.0)
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(spool.base / "socket"))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        spool.step(20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert spool.log_text().count("cannot accept a connection") == 1
    spool.service._deaf_until_s = 0.001
    spool.step()
    assert len(spool.service._sessions) == 1
    client.close()
    spool.step()
