"""Mail to many destinations: against as much to one, and with all of them down."""

from __future__ import annotations

import time

from bench.backlog.stage import Report, Stage, until
from bench.load import Load, LoadError
from bench.runs import LineCount


def domains(stage: Stage, report: Report) -> None:
    """Many destinations that share their hosts: what a message costs, against as many for one destination."""
    count = stage.scale.domains * stage.scale.per_domain
    one = _cost_us(stage, stage.load(count, ".one.example"), 0)
    many = _cost_us(stage, stage.load(count, ".many.example", domains=stage.scale.domains), count)
    ratio = sum(many.values()) / sum(one.values())
    for name, cost in (("one domain", one), (f"{stage.scale.domains:,} domains", many)):
        shown = ", ".join(f"{role} {used:.0f}" for role, used in cost.items() if used >= 0.5)
        report.add(name, cost, f"{count:,} messages: {sum(cost.values()):.0f} us of CPU a message ({shown})")
    report.add("domains over one", ratio, f"{ratio:.2f} times the CPU; anonymous memory {stage.anonymous_by_role()}")


def _cost_us(stage: Stage, load: Load, first: int) -> dict[str, float]:
    before = stage.engine.cpu_by_role()
    stage.inject(load, first)
    if not until(lambda: stage.others.received()[2] >= first + load.messages, stage.scale.deadline_s):
        raise LoadError(f"{stage.others.received()[2] - first} of {load.messages} arrived")
    LineCount(stage.engine.directory, "d").wait(first + load.messages, 30)
    return {role: (spent - before.get(role, 0)) / load.messages for role, spent in stage.engine.cpu_by_role().items()}


def dead(stage: Stage, report: Report) -> None:
    """Many destinations that are all down: memory by destination, CPU while they are retried, and other mail."""
    count = stage.scale.domains
    stage.warm_up()
    before = stage.anonymous_bytes()
    stage.inject(stage.load(count, ".gone.example", domains=count))
    lines = LineCount(stage.engine.directory, "tq")
    lines.wait(count, 60)
    cpu, began_s, peak = stage.engine.cpu_by_role(), time.monotonic(), 0
    with stage.trickle() as trickle:
        while time.monotonic() < began_s + stage.scale.watch_s:
            peak = max(peak, stage.anonymous_bytes())
            time.sleep(0.5)
    seconds = time.monotonic() - began_s
    used = {role: (spent - cpu.get(role, 0)) / 1e6 / seconds for role, spent in stage.engine.cpu_by_role().items()}
    report.add("anonymous memory", {"before": before, "peak": peak}, (
        f"{before / 1e6:.1f} MB before, {peak / 1e6:.1f} MB with {count:,} dead destinations: {(peak - before) / count:.0f} bytes each; "
        f"{stage.anonymous_by_role()}"
    ))  # fmt: skip
    shown = ", ".join(f"{role} {share:.2f}" for role, share in used.items() if share >= 0.005)
    report.add("cores while they are retried", used, f"{sum(used.values()):.2f} ({shown}), tq records {lines.look():,}")
    trickle.report(report, "others meanwhile", stage.scale.patience)
