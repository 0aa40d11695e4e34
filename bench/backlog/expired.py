"""A host that is down until bounce-after passes."""

from __future__ import annotations

import time
from datetime import datetime

from bench.backlog.stage import Report, Stage, until
from bench.engine_process import EngineProcess
from bench.load import percentiles
from bench.runs import LineCount

BOUNCED_WITHIN_S = 60.0


def expired(stage: Stage, report: Report) -> None:
    """A queue whose host is down: everybody in it bounces when bounce-after has passed, with a DSN, and nobody else notices."""
    scale, count, engine = stage.scale, stage.scale.expired, stage.engine
    stage.warm_up()
    before = stage.anonymous_bytes()
    sent = stage.inject(stage.load(count, ".dead.example"))
    report.add("injected", sent.seconds, f"{count:,} messages in {sent.seconds:.0f} s for a host that is down")
    report.expect(sent.seconds < scale.bounce_s, "bounce-after passed before all were in: no burst was measured")
    assert sent.accept_times_us is not None
    first_s, last_s = (each / 1e6 + scale.bounce_s for each in (min(sent.accept_times_us), max(sent.accept_times_us)))
    if scale.burst:
        engine.stop()
        until(lambda: time.monotonic() > last_s, scale.bounce_s + 10)
        engine.start()
        first_s = last_s = time.monotonic()
    until(lambda: time.monotonic() > first_s - 1, scale.bounce_s + 10)
    cpu, peak = engine.cpu_by_role(), 0
    lines = LineCount(engine.directory, "b", b"@d0.dead.example")
    done_s = last_s
    with stage.trickle() as trickle:
        deadline_s = last_s + 3 * BOUNCED_WITHIN_S
        while (lines.look() < count or stage.reports.received()[0] < count) and time.monotonic() < deadline_s:
            peak = max(peak, stage.anonymous_bytes())
            time.sleep(0.2)
        done_s = time.monotonic()
        used = sum(engine.cpu_by_role().values()) - sum(cpu.values())
    late_s = done_s - last_s
    reports = stage.reports.received()[0]
    report.add("bounced", {"late_s": late_s, "b": lines.count, "dsn": reports}, (
        f"b records {lines.count:,}, DSNs delivered {reports:,} of {count:,}, {late_s:.1f} s after bounce-after of the last had passed; "
        f"{used / count:.0f} us of CPU each; anonymous memory +{(peak - before) / 1e6:.1f} MB"
    ))  # fmt: skip
    report.expect(lines.count == count and reports == count, f"{lines.count} b records and {reports} DSNs of {count}")
    report.expect(late_s < BOUNCED_WITHIN_S * scale.patience, f"the last bounce came {late_s:.0f} s after its time")
    if not scale.burst:
        _lateness(stage, report)
    trickle.report(report, "others while it expires", scale.patience)


def _lateness(stage: Stage, report: Report) -> None:
    lateness = sorted(_lateness_s(stage.engine, stage.scale.bounce_s))
    shown = " ".join(f"{key} {value}" for key, value in percentiles(lateness).items())
    report.add("lateness of each bounce", percentiles(lateness), f"{shown} s after its own bounce-after")


def _lateness_s(engine: EngineProcess, bounce_s: int) -> list[int]:
    stamp = "%Y-%m-%d %H:%M:%S%z"
    cache: dict[str, float] = {}

    def at_s(text: str) -> float:
        if text not in cache:
            cache[text] = datetime.strptime(text, stamp).timestamp()
        return cache[text]

    return [round(at_s(record["timeLogged"]) - at_s(record["timeQueued"]) - bounce_s) for record in engine.iter_records("b")]
