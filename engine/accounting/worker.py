"""The accounting process: its loop from start to drain."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import uvloop

from engine.accounting.columns import known
from engine.accounting.export import SHELF, Exporter, Target
from engine.accounting.journal import FILE_MODE, Journal
from engine.accounting.layout import Layout
from engine.accounting.privacy import Mask
from engine.accounting.rotation import LogRotation
from engine.accounting.shelf import Shelf
from engine.config.queue_pattern import QueuePattern, wanted
from engine.drain import watch
from engine.errors import StartError
from engine.log import EventLog, escape
from engine.process import Birth
from engine.spool import SpoolLink, SpoolReader, format

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from engine.config.model import Config
    from engine.config.settings import AcctFileSettings

WORLD_READABLE_MODE = 0o644
ROTATE_S = 10.0
EVERY_QUEUE = (QueuePattern.parse("*/*"),)


def run(birth: Birth, config: Config, now_s: Callable[[], float] = time.time) -> int:
    """Export records until SIGTERM has been obeyed; the exit status.  SpoolError if the spool process does not answer."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(birth, config, now_s))


async def _serve(birth: Birth, config: Config, now_s: Callable[[], float]) -> int:
    loop = asyncio.get_running_loop()
    log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
    targets = make_targets(config.acct_files, log, config.server.track_time_first_attempt)
    lost: asyncio.Future[Exception] = loop.create_future()
    news = asyncio.Event()
    link = await SpoolLink.connect(
        birth.spool_socket,
        role="accounting",
        index=birth.index,
        on_announce=lambda numbers, stamp_ms: news.set(),
        on_lost=lambda error: None if lost.done() else lost.set_result(error),
    )
    try:
        reader = SpoolReader(birth.spool_path)
        with ThreadPoolExecutor(1, "disk") as executor:
            exporter = Exporter(targets, reader, link, log, executor, lambda: day(now_s()), news, now_s)
            exporting = asyncio.ensure_future(exporter.run())

            def stop() -> None:
                exporting.cancel()

            watch(loop, birth, exporter.drain, stop)
            server = config.server
            keep = server.log_rotate if server.log_auto_rotation else 0
            rotation = LogRotation(birth.log_path, keep, world_readable=server.log_file_world_readable)
            rotating = asyncio.ensure_future(_rotate(rotation, executor, log, now_s))
            log.event("started", f"pid={os.getpid()} files={len(targets)}")
            log.flush()
            ends: set[asyncio.Future[Any]] = {exporting, lost}
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            rotating.cancel()
            return _ended(exporting, lost, exporter, log)
    finally:
        link.close()
        for target in targets:
            target.journal.close()
        log.close()


def _ended(exporting: asyncio.Task[None], lost: asyncio.Future[Exception], exporter: Exporter, log: EventLog) -> int:
    if lost.done():
        exporting.cancel()
        log.event("failed", f"spool process lost: {escape(str(lost.result()))}")
        return os.EX_TEMPFAIL
    if exporting.cancelled():
        log.event("stopped", f"at row {exporter.written}; the next start goes on there")
        return os.EX_OK
    exporting.result()
    log.event("stopped", f"drained at row {exporter.written}")
    return os.EX_OK


async def _rotate(rotation: LogRotation, executor: Executor, log: EventLog, now_s: Callable[[], float]) -> None:
    """Look every ten seconds whether the day is over; a failure is said once, and does not stop the records."""
    failed = ""
    while True:
        try:
            said = await asyncio.get_running_loop().run_in_executor(executor, rotation.tend, day(now_s()))
            failed = ""
        except OSError as error:
            said = f"the log cannot be rotated: {error.strerror or error}"
            said, failed = ("" if said == failed else said), said
        if said:
            log.event("log", escape(said))
            log.flush()
        await asyncio.sleep(ROTATE_S)


def make_targets(acct_files: Sequence[AcctFileSettings], log: EventLog, first_attempt: bool = False) -> list[Target]:
    """A target for each acct-file; the same path twice gets two files, told apart by their sequence."""
    targets: dict[str, Target] = {}
    for settings in acct_files:
        every = settings.queue_filter == EVERY_QUEUE
        layout = Layout(
            settings.records,
            settings.fields,
            iso_times=settings.iso_times,
            user_string=settings.user_string,
            wants=None if every else partial(wanted, settings.queue_filter),
            first_attempt=first_attempt,
            mask=Mask(settings.privacy_policy) if settings.privacy_policy.method != "retain" else None,
        )
        for kind, fields in settings.fields.items():
            for field in fields:
                if field != "*" and not known(field.removeprefix("!")):
                    log.event("accounting", f"{escape(settings.path)}: record-fields {kind}: nothing is known of {escape(field)}; it stays blank")
        journal = Journal(
            settings.path,
            layout.header,
            max_size_bytes=settings.max_size_bytes or sys.maxsize,
            max_age_s=settings.move_interval_s if settings.move_to else None,
            mode=WORLD_READABLE_MODE if settings.world_readable else FILE_MODE,
        )
        name = settings.path
        while name in targets:
            name += "'"
        if len(format.POSITION_PREFIX + (SHELF + name).encode("utf-8", "replace")) > format.MAX_KEY_BYTES:
            raise StartError(f"acct-file {settings.path}: the path is too long, the spool could not remember how far it is written")
        targets[name] = Target(name, layout, journal, Shelf(move_to=settings.move_to, delete_after_s=settings.delete_after_s))
    return list(targets.values())


def day(now_s: float) -> str:
    """The local date as file names have it: `2026-11-24`."""
    return time.strftime("%Y-%m-%d", time.localtime(now_s))
