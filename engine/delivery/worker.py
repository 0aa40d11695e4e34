"""The delivery process: builds one slot from the configuration, and turns its loop until told to drain."""

from __future__ import annotations

import asyncio
import gc
import os
import traceback
from pathlib import Path
from typing import Any

import uvloop

from engine import drain, process
from engine.clock import monotonic_s, wall_ms
from engine.config.model import Config
from engine.control.serving import Serving
from engine.delivery.answers import Answers
from engine.delivery.backlog import Backlog
from engine.delivery.connection import Connection
from engine.delivery.destination import Destinations
from engine.delivery.dressing import fields_of
from engine.delivery.encryption import Encryption
from engine.delivery.ownership import Ownership
from engine.delivery.report import Reporter
from engine.delivery.settling import Settler
from engine.delivery.slot import Slot
from engine.delivery.sources import Sources, local_addresses
from engine.dns import Resolver, system_servers
from engine.log import EventLog, escape
from engine.process import Birth, Traffic
from engine.scheduler.clockstep import StepGuard
from engine.scheduler.scheduler import Scheduler
from engine.spool import SegmentWriter, SpoolLink, SpoolReader
from engine.tls.files import Files

TICK_S = 0.25
SWEEP_S = 1.0  # how long the space of an unlinked body segment may be held
GC_THRESHOLDS = (50_000, 20, 50)  # rows and outcomes make few cycles; a collection walks only what came after gc.freeze()


def run(birth: Birth, config: Config) -> int:
    """Deliver for the virtual MTAs of slot *birth.index* until drained; the exit status."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_Worker(birth, config).run())


class _Worker:
    def __init__(self, birth: Birth, config: Config) -> None:
        self._birth = birth
        self._config = config
        self._log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
        self._traffic = Traffic(birth)
        self._encryption = Encryption(Files(birth.tls_fd))
        self._slot: Slot | None = None
        self._drained = asyncio.Event()
        self._deadline_s = 0.0  # of draining
        self._stopped = False
        self._status = os.EX_OK

    async def run(self) -> int:
        birth, config = self._birth, self._config
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._fault)
        slots = config.slots(birth.delivery_workers)
        ours = frozenset(slots[birth.index].virtual_mtas)
        everybodys = frozenset(vmta for slot in slots for vmta in slot.virtual_mtas)
        fallback = birth.index == 0  # of queues whose virtual MTA is gone

        link = await SpoolLink.connect(
            birth.spool_socket,
            role="delivery",
            index=birth.index,
            virtual_mtas=sorted(ours),
            fallback=fallback,
            on_announce=self._announced,
            on_lost=self._spool_lost,
        )
        reader = SpoolReader(birth.spool_path)
        resolver = Resolver(config.server.name_server or system_servers(), edns_bytes=config.server.edns_udp_length)
        scheduler = Scheduler(config.domain, lambda vmta: config.virtual_mtas[vmta].max_smtp_out if vmta in config.virtual_mtas else 0)
        slot = Slot(
            scheduler,
            reader,
            Destinations(resolver, frozenset(birth.listening), birth.shadow),
            Sources(config, local_addresses),
            process.outgoing(birth, config.server.total_max_smtp_out),
            self._log,
            fields_of(config),
            config.server.spool_delete_corrupted,
            self._encryption,
        )
        writer = SegmentWriter(Path(birth.spool_path) / "bodies", link)
        reporter = Reporter(config.server, link, reader, writer)
        slot.settler = Settler(scheduler, link, reader, reporter, self._log, slot.plan)
        owns = Ownership(ours, everybodys, fallback, self._log)
        slot.backlog = Backlog(
            scheduler,
            reader,
            slot.settler,
            StepGuard(wall_ms(), monotonic_s()),
            self._log,
            owns,
            link.stamp_ms,
        )
        self._slot = slot
        answers = Answers(birth.name, slot, config, link, resolver, owns)
        serving = await self._serve(answers)
        drain.watch(loop, birth, self._drain, self._stop)
        self._log.event("started", f"virtual MTAs: {', '.join(sorted(ours))}")
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
        try:
            await self._turn(slot, link, reader)
        finally:
            self._log.event("stopped", f"{link.pending} operations not acknowledged")
            self._log.close()
            serving.close()
            link.close()
            await resolver.close()
            reader.close()
        return self._status

    async def _serve(self, answers: Answers) -> Serving:
        """Questions are answered from now on; mail goes out even if they cannot be."""
        asked = {"slot": answers.slot, "queues": answers.queues, "queue": answers.queue, "why": answers.why}
        serving = Serving(process.answers_socket(self._birth.spool_path, self._birth.name), asked)
        try:
            await serving.start()
        except OSError as error:
            self._log.event("answers", f"questions are not answered: {error}")
        return serving

    async def _turn(self, slot: Slot, link: SpoolLink, reader: SpoolReader) -> None:
        """Tick until stopped, or drained, or past the deadline of draining."""
        sweep_at_s = 0.0
        while not self._stopped:
            slot.tick()
            self._count(slot)
            self._log.flush()
            if monotonic_s() > sweep_at_s:
                sweep_at_s = monotonic_s() + SWEEP_S
                reader.sweep()
                for line in self._encryption.refresh():
                    self._log.event("tls", escape(line))
            if self._deadline_s and ((not slot.busy and not link.pending) or monotonic_s() > self._deadline_s):
                break
            try:
                async with asyncio.timeout(TICK_S):
                    await self._drained.wait()
            except TimeoutError:
                continue
            self._drained.clear()
        slot.stop("the engine stops")
        self._count(slot)

    def _count(self, slot: Slot) -> None:
        settler = slot.settler
        self._traffic.put(settler.sent_messages, settler.sent_recipients, settler.sent_bytes)

    def _announced(self, numbers: list[int], stamp_ms: int) -> None:
        if self._slot is not None:  # before, the search at start will find them
            self._slot.backlog.announced(numbers, stamp_ms)
            self._slot.plan()

    def _drain(self) -> None:
        self._deadline_s = monotonic_s() + self._config.server.shutdown_timeout_s
        if self._slot is not None:
            self._slot.drain()
        self._drained.set()

    def _stop(self) -> None:
        self._stopped = True
        self._drained.set()

    def _spool_lost(self, error: Exception) -> None:
        """The spool process will not have us back: what is unacknowledged is tried again by our successor."""
        self._log.event("spool-lost", f"{error}: this process ends and is started anew")
        self._status = os.EX_TEMPFAIL
        self._stop()

    def _fault(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A fault of ours: said in full; it ends its connection, or where there is none, this process - its mail is on disk."""
        error = context.get("exception")
        told = "".join(traceback.format_exception(error)) if error else context["message"]
        self._log.event("fault", escape(told, 4000))
        connection = context.get("protocol")
        if isinstance(connection, Connection):
            connection.abort("an internal fault, see the log", True)
        else:
            self._status = os.EX_SOFTWARE
            self._stop()
