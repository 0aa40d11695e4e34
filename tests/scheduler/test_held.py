"""Dead destinations: a queue that waits out a failure costs a few bytes, and is forgotten in nothing."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

from tests.scheduler.world import Destination, World

FAILING = Destination(retry_after=(60.0, 120.0), bounce_after_s=10_000.0)


def world_of(count: int, destination: Destination = FAILING) -> World:
    names = {number: f"d{number}.example/v1" for number in range(1, count + 1)}
    settings = {name.partition("/")[0]: destination for name in names.values()}
    return World(names=names, settings=settings, virtual_mta_limits={}, total_out=10 * count)


def fail_all(world: World) -> None:
    """Every connection that is begun fails, until none is."""
    world.settle_all()
    world.tick()
    while connecting := world.in_state("connecting"):
        for connection in connecting:
            world.connect_failed(connection)
        world.tick()


def test_it_leaves_memory_and_comes_back_when_its_wait_is_over() -> None:
    world = world_of(1)
    world.arrive(1, 1)
    fail_all(world)
    assert not world.scheduler.queues
    assert set(world.scheduler.held) == {1}
    world.now_ms += 59_000
    world.tick()
    assert not world.in_state("connecting")
    world.now_ms += 1_000
    world.tick()
    assert len(world.in_state("connecting")) == 1
    world.run_out()
    assert not world.scheduler.held


def test_it_remembers_how_often_it_has_failed() -> None:
    world = world_of(1)
    world.arrive(1, 1)
    fail_all(world)
    world.now_ms += 60_000
    fail_all(world)
    assert world.scheduler.held[1].failures == 2
    assert world.scheduler.held[1].until_ms == world.now_ms + 120_000


def test_new_mail_for_it_waits_with_the_rest() -> None:
    world = world_of(1)
    world.arrive(1, 1)
    fail_all(world)
    world.arrive(1, 2)
    fail_all(world)
    assert set(world.scheduler.held) == {1}
    world.now_ms += 60_000
    world.tick()
    world.run_out()


def test_its_recipients_expire_while_it_is_held() -> None:
    world = world_of(1, replace(FAILING, retry_after=(5_000.0,), bounce_after_s=600.0))
    world.arrive(1, 3)
    fail_all(world)
    world.now_ms += 599_000
    fail_all(world)
    assert not any(recipient.ended for recipient in world.recipients.values())
    world.now_ms += 35_000  # a twentieth of bounce-after too late, at the most
    fail_all(world)
    world.settle_all()
    assert [recipient.ended for recipient in world.recipients.values()] == ["bounced"] * 3


def test_thousands_of_them_are_small() -> None:
    count = 5_000
    world = world_of(count)
    scheduler = world.scheduler
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for number in range(1, count + 1):
            queue = scheduler.add(number, world.names[number])
            scheduler.connecting_to(queue)
            scheduler.connect_failed(queue, world.now_ms + number, f"connect to d{number}.example timed out after 60s")
            del queue
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    assert len(scheduler.held) == count
    assert not scheduler.queues
    assert grown / count < 700, f"{grown / count:.0f} bytes each"


def test_its_wait_moves_with_a_wall_clock_that_steps() -> None:
    """After a step back by an hour it waited an hour longer."""
    for step_ms in (-3_600_000, 3_600_000):
        world = world_of(2)
        world.arrive(1, 1)
        fail_all(world)
        world.now_ms += 30_000 + step_ms
        world.scheduler.clock_stepped(step_ms)
        world.holds = {number: until_ms + step_ms for number, until_ms in world.holds.items()}
        world.tick()
        assert not world.in_state("connecting")
        world.now_ms += 30_000
        world.tick()
        assert len(world.in_state("connecting")) == 1
