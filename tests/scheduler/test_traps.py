"""Moments at which a row or a queue could be forgotten, or a row held twice: each is short, and was found by the model."""

from __future__ import annotations

from tests.scheduler.world import Connection, Destination, World


def one_queue(destination: Destination, read_rows: int = 10) -> World:
    return World(names={1: "a.example/v1"}, settings={"a.example": destination}, virtual_mta_limits={}, read_rows=read_rows)


def sending(world: World) -> Connection:
    """A connection that has just got its first transaction."""
    world.settle_all()
    world.tick()
    connection = world.in_state("connecting")[0]
    world.connected(connection)
    return connection


def test_a_timer_that_rings_during_a_hold_does_not_swallow_its_end() -> None:
    world = one_queue(Destination())
    world.arrive(1, 1)
    connection = sending(world)
    world.finished(connection, lambda index: "deferred")  # due again in 30 s
    world.settle_all()
    world.close(connection)
    world.arrive(1, 1)
    world.settle_all()
    world.tick()
    world.connect_failed(world.in_state("connecting")[0])  # a hold of 60 s
    world.now_ms += 34_000
    world.tick()
    world.now_ms += 30_000
    world.tick()
    assert world.in_state("connecting"), "the hold has passed, and nobody noticed"


def test_rows_given_back_after_the_window_was_shed_are_not_read_twice() -> None:
    world = one_queue(Destination(max_msg_per_connection=1))
    world.arrive(1, 2)
    connection = sending(world)
    queue = connection.queue
    world.scheduler.shed(queue)  # a refused settle of another transaction, a doom that spares young mail
    world.scheduler.wake(queue, world.now_ms)
    world.finished(connection, lambda index: "at-once" if index else "delivered")
    world.tick()
    assert len(queue.window) == 1
    world.run_out()


def test_rows_given_back_behind_a_frontier_that_went_back_are_not_read_twice() -> None:
    world = one_queue(Destination(max_msg_per_connection=1))
    world.arrive(1, 2)
    world.arrive(1, 2)
    world.hear()
    connection = sending(world)
    queue = connection.queue
    assert queue.frontier is not None
    world.scheduler.announce(1, world.recipients["1.0@a.example/v1"].queued_ms)  # a commit that had slipped in before the frontier
    world.finished(connection, lambda index: "at-once" if index else "delivered")
    world.tick()
    assert sorted(row.due.address[:3] for row in queue.window) == ["1.1", "2.0", "2.1"]
    world.run_out()


def test_a_deferral_that_was_long_in_committing_is_not_hidden_behind_the_frontier() -> None:
    world = one_queue(Destination(max_smtp_out=1))
    world.arrive(1, 1)
    connection = sending(world)
    world.finished(connection, lambda index: "deferred")  # due again in 30 s; the spool process is busy
    world.close(connection)
    world.now_ms += 60_000
    world.arrive(1, 2)
    while world.announcements:
        world.hear()
    world.tick()  # reads past the moment at which the deferred row is due
    world.answer()
    world.acknowledge()
    world.tick()
    assert {row.due.address for row in world.scheduler.queues[1].window} == {"1.0@a.example/v1", "2.0@a.example/v1", "2.1@a.example/v1"}


def test_a_window_that_the_expiry_scan_emptied_is_filled_again() -> None:
    world = one_queue(Destination(max_smtp_out=1, max_rcpt_per_message=1), read_rows=2)
    world.total_out = 0
    world.arrive(1, 2)
    world.settle_all()
    world.tick(expire=False)
    world.now_ms += 3_500_000
    world.arrive(1, 2)
    world.settle_all()
    world.tick()
    world.now_ms += 200_000  # the first two are too old now
    for _ in range(5):
        world.tick()
        world.settle_all()
        world.now_ms += 100_000
    world.total_out = 1
    world.run_out()
    assert [recipient.ended for recipient in world.recipients.values()] == ["bounced", "bounced", "delivered", "delivered"]


def two_queues() -> World:
    """Both on a virtual MTA that may have one connection; it is connecting for the first, which waits in line for another, as does the second."""
    world = World(
        names={1: "a.example/v1", 2: "b.example/v1"},
        settings={"a.example": Destination(), "b.example": Destination()},
        virtual_mta_limits={"v1": 1},
    )
    for number in (1, 1, 2):
        world.arrive(number, 1)
        world.settle_all()
        world.tick()
    return world


def test_room_that_the_first_in_line_does_not_take_goes_to_the_next() -> None:
    world = two_queues()
    world.doomed(world.in_state("connecting")[0], min_age_ms=0)
    world.run_out()
    assert [recipient.ended for recipient in world.recipients.values()] == ["bounced", "bounced", "delivered"]


def test_waiting_in_line_takes_one_place() -> None:
    world = two_queues()
    for _ in range(100):
        world.scheduler.wake(world.scheduler.queues[2], world.now_ms)  # something came due
        world.tick()
    assert sum(map(len, world.scheduler._parked.values())) == 2
