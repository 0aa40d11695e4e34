"""The scheduler in a world of random arrivals, outcomes, failures, delays and crashes: nobody is forgotten, sent twice or hurried."""

from __future__ import annotations

import sys
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.scheduler.world import Destination, World


def small_world(limit: int, total: int, per_connection: int, read_rows: int) -> World:
    """Four queues on two virtual MTAs, with limits so small that they are met all the time."""
    ordinary = Destination(max_msg_per_connection=per_connection)
    return World(
        names={1: "a.example/v1", 2: "b.example/v1", 3: "a.example/v2", 4: "c.example/v2"},
        settings={
            "a.example": ordinary,
            "b.example": replace(ordinary, max_smtp_out=1, max_rcpt_per_message=1),
            "c.example": replace(ordinary, max_smtp_out=5, max_rcpt_per_message=5),
        },
        virtual_mta_limits={"v1": limit, "v2": 0},
        total_out=total,
        read_rows=read_rows,
    )


class SchedulerMachine(RuleBasedStateMachine):
    """Random lives of one slot with four queues on two virtual MTAs."""

    world: World

    @initialize(
        limit=st.sampled_from([0, 1, 2]), total=st.sampled_from([1, 4, 9]), per_connection=st.sampled_from([0, 1, 3]), read_rows=st.integers(2, 5)
    )
    def begin(self, limit: int, total: int, per_connection: int, read_rows: int) -> None:
        self.world = small_world(limit, total, per_connection, read_rows)

    @rule(number=st.sampled_from([1, 2, 3, 4]), count=st.integers(1, 5))
    def arrive(self, number: int, count: int) -> None:
        self.world.arrive(number, count)

    @rule()
    def hear(self) -> None:
        self.world.hear()

    @rule(seconds=st.sampled_from([0.01, 1, 20, 35, 61, 130, 3000, 4000]))
    def wait(self, seconds: float) -> None:
        self.world.now_ms += int(seconds * 1000)

    @rule(expire=st.booleans())
    def tick(self, expire: bool) -> None:
        self.world.tick(expire)

    @rule()
    def turn(self) -> None:
        self.world.settle_all()
        self.world.tick()

    @rule(refused=st.sampled_from([False, False, False, True]))
    def answer(self, refused: bool) -> None:
        self.world.answer(refused)

    @rule()
    def acknowledge(self) -> None:
        self.world.acknowledge()

    @precondition(lambda self: self.world.in_state("connecting"))
    @rule(data=st.data(), how=st.sampled_from(["connected", "connected", "failed", "doomed", "doomed later", "adopt"]))
    def opening(self, data: st.DataObject, how: str) -> None:
        connection = data.draw(st.sampled_from(self.world.in_state("connecting")))
        idle = [c for c in self.world.in_state("idle") if c.queue.vmta == connection.queue.vmta and c.queue is not connection.queue]
        if how == "failed":
            self.world.connect_failed(connection)
        elif how.startswith("doomed"):
            self.world.doomed(connection, 0 if how == "doomed" else 600_000)
        elif how == "adopt" and idle:
            self.world.adopt(connection, idle[0])
        else:
            self.world.connected(connection)

    @precondition(lambda self: self.world.in_state("sending"))
    @rule(data=st.data(), how=st.sampled_from(["finished", "finished", "finished", "lost", "stale"]))
    def answered(self, data: st.DataObject, how: str) -> None:
        connection = data.draw(st.sampled_from(self.world.in_state("sending")))
        if how == "lost":
            self.world.lost(connection)
        elif how == "stale":
            self.world.stale(connection)
        else:
            fates = data.draw(st.lists(st.sampled_from(["delivered", "bounced", "deferred", "at-once"]), min_size=5, max_size=5))
            self.world.finished(connection, lambda index: fates[index] if index else fates[0].replace("at-once", "deferred"))

    @precondition(lambda self: self.world.in_state("idle"))
    @rule()
    def idle_too_long(self) -> None:
        self.world.close(self.world.in_state("idle")[0])

    @rule(committed=st.integers(0, 5))
    def crash(self, committed: int) -> None:
        self.world.crash(committed)

    @invariant()
    def promises_hold(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        if hasattr(self, "world") and sys.exc_info()[0] is None:
            self.world.run_out()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


@pytest.mark.parametrize("seed", range(60))
def test_a_long_life(seed: int) -> None:
    """Busier than what hypothesis draws: most things succeed, so that queues get deep into their lives."""
    random = Random(seed)
    world = small_world(random.choice([0, 1, 2]), random.choice([1, 4, 9]), random.choice([0, 1, 3]), random.randint(2, 5))
    trouble = random.choice([0.02, 0.1, 0.3])
    for _ in range(300):
        step(world, random, trouble)
        world.check()
    world.run_out()


def step(world: World, random: Random, trouble: float) -> None:
    """One thing happens, with a probability of *trouble* something bad."""
    bad = random.random() < trouble
    openings, sendings, idles = world.in_state("connecting"), world.in_state("sending"), world.in_state("idle")
    match random.choice(["arrive", "hear", "answer", "acknowledge", "tick", "tick", "opening", "sending", "sending", "idle", "wait"]):
        case "arrive":
            world.arrive(random.randint(1, 4), random.randint(1, 5))
        case "hear":
            world.hear()
        case "answer":
            world.answer(refused=bad)
        case "acknowledge":
            world.acknowledge()
        case "tick":
            world.tick(expire=random.random() < 0.5)
        case "opening" if openings:
            opening = random.choice(openings)
            spare = [c for c in idles if c.queue.vmta == opening.queue.vmta and c.queue is not opening.queue]
            if bad and random.random() < 0.3:
                world.doomed(opening, random.choice([0, 600_000]))
            elif bad:
                world.connect_failed(opening)
            elif spare:
                world.adopt(opening, spare[0])
            else:
                world.connected(opening)
        case "sending" if sendings:
            sending = random.choice(sendings)
            if bad:
                random.choice([world.lost, world.stale])(sending)
            else:
                fates = ["delivered", *random.choices(["delivered", "bounced", "deferred", "at-once"], [6, 1, 2, 2], k=4)]
                world.finished(sending, lambda index: fates[index])
        case "idle" if idles:
            world.close(idles[0])
        case "wait":
            world.now_ms += random.choice([1, 250, 1_000, 20_000, 35_000] + [130_000, 3_600_000] * bad)
        case _ if bad and random.random() < 0.1:
            world.crash(random.randint(0, 3))
