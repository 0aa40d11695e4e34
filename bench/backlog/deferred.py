"""Every recipient is told 451 and retried: memory, CPU, restart, release, disk."""

from __future__ import annotations

import time

from bench.backlog.restart import release, restart
from bench.backlog.stage import Report, Stage

ANONYMOUS_GROWTH_BYTES = 50_000_000
FIRST_ATTEMPT_S = 2.0
DOMAIN = b"@d0.later.example"


def deferred(stage: Stage, report: Report) -> None:
    """A standing backlog that is retried, over a stop and a kill -9, until its sink takes it."""
    scale, count = stage.scale, stage.scale.messages
    cold = stage.anonymous_bytes()
    stage.warm_up()
    before = stage.anonymous_bytes()
    sent = stage.inject(stage.load(count, ".later.example"))
    report.add("injected", sent.seconds, f"{count:,} messages of {scale.size_bytes} bytes in {sent.seconds:.0f} s, told 451 meanwhile")
    _standing(stage, report, cold, before)
    restart(stage, report, stage.later, "stop", stage.engine.stop, FIRST_ATTEMPT_S)
    restart(stage, report, stage.later, "kill -9", stage.engine.kill9_all, FIRST_ATTEMPT_S)
    release(stage, report, stage.later, count, "released", DOMAIN)
    first = stage.disk_bytes()
    stage.later.command("refuse")
    stage.inject(stage.load(count, ".later.example"), count)
    release(stage, report, stage.later, 2 * count, "released again", DOMAIN)
    second = stage.disk_bytes()
    growth = second["index"] / max(first["index"], 1)
    report.add("index over two cycles", growth, f"{first['index'] / 1e6:.1f} MB after the first, x {growth:.2f} after the second")
    report.expect(growth < 1.5, "the index grows with every cycle")


def _standing(stage: Stage, report: Report, cold: int, before: int) -> None:
    cpu = stage.engine.cpu_by_role()
    began_s = time.monotonic()
    peak = 0
    with stage.trickle() as trickle:
        while time.monotonic() < began_s + stage.scale.watch_s:
            peak = max(peak, stage.anonymous_bytes())
            time.sleep(0.5)
    seconds = time.monotonic() - began_s
    used = {role: (spent - cpu.get(role, 0)) / 1e6 / seconds for role, spent in stage.engine.cpu_by_role().items()}
    grown = peak - before
    report.add("anonymous memory", {"cold": cold, "before": before, "peak": peak}, (
        f"cold {cold / 1e6:.1f}, before {before / 1e6:.1f}, highest with {stage.scale.messages:,} waiting {peak / 1e6:.1f} MB: "
        f"+{grown / 1e6:.1f} MB (+{(peak - cold) / 1e6:.1f} over cold); now {stage.anonymous_by_role()}"
    ))  # fmt: skip
    report.expect(peak - cold < ANONYMOUS_GROWTH_BYTES, "anonymous memory grows with the backlog")
    shown = ", ".join(f"{role} {share:.2f}" for role, share in used.items() if share >= 0.005)
    report.add("cores while it is retried", used, f"{sum(used.values()):.2f} ({shown}) over {seconds:.0f} s")
    trickle.report(report, "others while it is retried", stage.scale.patience)
