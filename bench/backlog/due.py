"""A million recipients that are due when the engine starts: how soon the first of them is tried, and that all of them leave."""

from __future__ import annotations

from contextlib import ExitStack

from bench.backlog.restart import release, restart
from bench.backlog.stage import Report, Stage
from bench.load import Sink

FIRST_ATTEMPT_S = 3.0
RECIPIENTS_A_MESSAGE = 100


def due(stage: Stage, report: Report) -> None:
    """In so many domains, one after the other: a stop and a kill -9, each followed by a start, then they may leave."""
    with ExitStack() as running:
        sink: Sink | None = None
        for domains in stage.scale.due_domains:
            if sink is not None:
                sink.stop()
                stage.close_dead_host()
            total = stage.scale.due // RECIPIENTS_A_MESSAGE * RECIPIENTS_A_MESSAGE
            name = "1 domain" if domains == 1 else f"{domains:,} domains"
            load = stage.load(
                total // RECIPIENTS_A_MESSAGE, f".due{domains}.example", recipients=RECIPIENTS_A_MESSAGE, domains=domains, pipeline=True
            )
            sent = stage.inject(load)
            report.add(f"queued, {name}", sent.seconds, f"{total:,} recipients in {sent.seconds:.0f} s, for a host that is down")
            stage.engine.stop()
            refusing = Sink(stage.directory, name=f"due{domains}", listen=[stage.open_dead_host()], replies={"rcpt": "451 4.3.0 later"})
            sink = running.enter_context(refusing)
            restart(stage, report, sink, f"stop, {name}", lambda: None, FIRST_ATTEMPT_S)
            restart(stage, report, sink, f"kill -9, {name}", stage.engine.kill9_all, FIRST_ATTEMPT_S)
            release(stage, report, sink, total, f"released, {name}", f".due{domains}.example".encode())
