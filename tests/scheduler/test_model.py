"""The scheduler in a world of random arrivals, outcomes, failures, delays and crashes: nobody is forgotten, sent twice or hurried."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.scheduler.world import Destination, World


class SchedulerMachine(RuleBasedStateMachine):
    """Random lives of one slot with four queues on two virtual MTAs."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World(
            names={1: "a.example/v1", 2: "b.example/v1", 3: "a.example/v2", 4: "c.example/v2"},
            settings={"a.example": Destination(), "b.example": Destination(max_smtp_out=1, max_rcpt_per_message=1), "c.example": Destination(max_smtp_out=5)},
            virtual_mta_limits={"v1": 2, "v2": 0},
            total_out=4,
        )

    @rule(number=st.sampled_from([1, 2, 3, 4]), count=st.integers(1, 5))
    def arrive(self, number: int, count: int) -> None:
        self.world.arrive(number, count)

    @rule()
    def hear(self) -> None:
        self.world.hear()

    @rule(seconds=st.sampled_from([0.01, 1, 31, 40, 61, 130, 3000, 4000]))
    def wait(self, seconds: float) -> None:
        self.world.now_ms += int(seconds * 1000)

    @rule(expire=st.booleans())
    def tick(self, expire: bool) -> None:
        self.world.tick(expire)

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
        self.world.run_out()


TestSchedulerMachine = SchedulerMachine.TestCase
TestSchedulerMachine.settings = settings(
    max_examples=100, report_multiple_bugs=False, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)
