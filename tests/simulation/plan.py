"""A world drawn from a seed: configuration, hosts, zones, mail, and what goes wrong when."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random

from tests.simulation.client import Mail
from tests.simulation.dns import Zone
from tests.simulation.network import Cut, Line
from tests.simulation.peers import FATES, STAGES, Manners
from tests.simulation.spool import Temper

KINDS = ("calm", "limits", "crowd", "peers", "network", "dns", "crashes", "clock", "everything")
CROWD = 130  # messages of the one who crowds: more than a connection may send while others wait in line
GENTLE = ("calm", "crowd")  # nothing breaks in them: attempts are on time
EVENTS = ("kill-delivery", "drain-delivery", "kill-listener", "crash-spool", "crash-spool-at-commit", "step")


@dataclass
class Arrival:
    """A client that comes."""

    at_s: float
    mails: list[Mail]
    stranger: bool = False
    ignore_pipelining: bool = False
    cut: Cut | None = None


@dataclass
class Plan:
    """See the module."""

    seed: int
    kind: str
    config: str = ""
    hosts: dict[str, Manners] = field(default_factory=dict)  # by address
    zones: dict[str, Zone] = field(default_factory=dict)
    addresses: dict[str, tuple[str, ...]] = field(default_factory=dict)  # by host name
    domains_of: dict[str, list[str]] = field(default_factory=dict)  # by host's address
    arrivals: list[Arrival] = field(default_factory=list)
    events: list[tuple[float, str, int]] = field(default_factory=list)  # when, which, by how much (step: ms)
    temper: Temper = field(default_factory=Temper)
    drag_s: float = 0.0
    unkind_s: float = 120.0
    crowded: str = ""  # the domain that has more mail than it can be given at once

    @property
    def crashes_spool(self) -> bool:
        """Whether the spool process dies in it."""
        return any(event.startswith("crash-spool") for _, event, _ in self.events)


def draw(seed: int) -> Plan:
    """The plan of *seed*."""
    random = Random(seed)
    plan = Plan(seed, KINDS[seed % len(KINDS)])
    plan.unkind_s = 30.0 if plan.kind == "calm" else random.choice((60.0, 120.0, 300.0))
    domains = [f"d{number}.example" for number in range(random.randint(1, 4))] + ["senders.example"]
    vmtas = [f"v{number}" for number in range(1, random.randint(2, 4))]
    _draw_config(plan, random, domains, vmtas)
    _draw_hosts(plan, random, domains)
    _draw_mail(plan, random, domains, vmtas)
    _draw_events(plan, random)
    return plan


def _has(plan: Plan, *kinds: str) -> bool:
    return plan.kind == "everything" or plan.kind in kinds


def _draw_config(plan: Plan, random: Random, domains: list[str], vmtas: list[str]) -> None:
    scarce = _has(plan, "limits", "crowd") or (plan.kind != "calm" and random.random() < 0.3)
    lines = ["host-name mx.engine.example", "log-file /sim.log", "relay-domain d0.example"]
    lines.append(f"total-max-smtp-out {random.randint(1, 2 if plan.kind == 'crowd' else 6) if scarce else 500}")
    lines.append(f"<source 10.0.0.0/8>\n always-allow-relaying yes\n process-x-virtual-mta yes\n default-virtual-mta {vmtas[0]}\n</source>")
    lines += ["<spool /spool>\n</spool>", "<acct-file /acct.csv>\n</acct-file>"]
    for number, vmta in enumerate(vmtas, 1):
        limit = f"\n max-smtp-out {random.randint(1, 3)}" if scarce and random.random() < 0.6 else ""
        hosts = "".join(f"\n smtp-source-host 10.1.{extra}.{number} {vmta}.engine.example" for extra in range(random.choice((1, 1, 2))))
        lines.append(f"<virtual-mta {vmta}>{hosts}{limit}\n</virtual-mta>")
    lines.append("<virtual-mta-pool every>\n" + "".join(f" virtual-mta {vmta}\n" for vmta in vmtas) + "</virtual-mta-pool>")
    lines += [_domain(plan, random, domain, scarce) for domain in domains]
    plan.config = "\n".join(lines) + "\n"


def _domain(plan: Plan, random: Random, domain: str, scarce: bool) -> str:
    choice = random.choice
    settings = {
        "max-smtp-out": choice((1, 1, 2, 3)) if scarce else choice((20, 50)),
        "max-msg-per-connection": choice((0, 1, 2, 5)),
        "max-rcpt-per-message": 1 if plan.kind == "crowd" else choice((1, 2, 3, 100)),
        "retry-after": choice(("10s", "5s, 20s", "10s, 20s, 40s", "60s")),
        "retry-recipients-after": choice(("5s", "20s", "60s")),
        "retry-after-dns-error": choice(("5s", "20s")),
        "bounce-after": "1d" if plan.kind in GENTLE else choice(("45s", "2m", "10m", "1h", "4d")),
        "connect-timeout": choice(("5s", "20s")),
        "smtp-greeting-timeout": choice(("5s", "20s")),
        "smtp-multiple-line-response-timeout": choice(("5s", "20s")),
        "data-send-timeout": choice(("5s", "20s")),
        "smtp-data-termination-timeout": choice(("10s", "30s")),
        "connection-idle-timeout": choice(("1s", "2s", "10s")),
        "mx-connection-attempts": choice((1, 2, 10)),
    }
    if random.random() < 0.2:
        settings["ignore-pipelining"] = "yes"
    if random.random() < 0.3:
        settings["bounce-upon-5xx-greeting"] = "no"
    if random.random() < 0.3:
        settings["bounce-upon-no-mx"] = choice(("true", "30s"))
    if random.random() < 0.05:
        settings["type"] = "discard"
    return f"<domain {domain}>\n" + "".join(f" {name} {value}\n" for name, value in settings.items()) + "</domain>"


def _draw_hosts(plan: Plan, random: Random, domains: list[str]) -> None:
    names = [f"mx{number}.hosts.example" for number in range(random.randint(1, 5))]
    for number, name in enumerate(names, 1):
        found = tuple(f"198.51.100.{10 * number + extra}" for extra in range(random.choice((1, 1, 2))))
        plan.addresses[name] = found
        for address in found:
            plan.hosts[address] = _manners(plan, random)
    for domain in domains:
        chosen = random.sample(names, random.randint(1, min(3, len(names))))
        moods = tuple(random.choice((0.0, 0.3, 2.0)) for _ in range(5)) if _has(plan, "dns") else (0.0,) * 5
        exchanges = tuple((random.choice((10, 10, 20)), name) for name in chosen)
        if random.random() < 0.15:  # no MX: the domain itself
            exchanges, plan.addresses[domain] = (), plan.addresses[chosen[0]]
        plan.zones[domain] = Zone(exchanges, moods, random.choice((5, 30, 300)))
        for name in chosen:
            for address in plan.addresses[name]:
                plan.domains_of.setdefault(address, []).append(domain)


def _manners(plan: Plan, random: Random) -> Manners:
    choice = random.choice
    manners = Manners(Line(choice((0.0002, 0.01, 0.05)), choice((1, 1, 4))), multi_line=random.random() < 0.2, no_pipelining=random.random() < 0.2)
    manners = replace(manners, no_ehlo=random.random() < 0.1)
    if plan.kind == "crowd":
        return manners
    if plan.kind in ("calm", "clock"):
        return replace(manners, fates={"rcpt": (0.3, 0.1, 0.0, 0.0, 0.0, 0.0), "end": (0.2, 0.05, 0.0, 0.0, 0.0, 0.0)})
    if _has(plan, "limits"):
        manners = replace(manners, most=choice((0, 1, 2)), too_many=choice((0.0, 0.3)), idle_s=choice((0.0, 3.0)))
    if _has(plan, "peers", "crashes") or (plan.kind != "dns" and random.random() < 0.3):
        fates = {stage: tuple(choice((0.0, 0.0, 0.05, 0.5)) for _ in FATES) for stage in STAGES if random.random() < 0.5}
        manners = replace(manners, fates=fates, too_many=choice((0.0, 0.2)), slow_share=choice((0.0, 0.2)), slow_s=choice((1.0, 40.0)))
    if _has(plan, "network"):
        manners = replace(
            manners, entries=tuple(choice((0.0, 0.2, 3.0)) for _ in range(3)), cut_share=choice((0.0, 0.3, 0.8)), idle_s=choice((0.0, 1.5))
        )
    return manners


def _draw_mail(plan: Plan, random: Random, domains: list[str], vmtas: list[str]) -> None:
    number = 0
    if plan.kind == "crowd":
        count = random.choice((20, CROWD))
        crowd = [Mail("", (f"crowd{each}@{domains[0]}",), f"Subject: crowd {each}\r\n\r\n".encode()) for each in range(count)]
        plan.arrivals.append(Arrival(0.0, crowd))
        plan.crowded = domains[0]
    for _ in range(random.randint(1, 5)):
        mails = []
        stranger = random.random() < 0.1
        for _ in range(random.randint(1, 4)):
            number += 1
            mails.append(_mail(random, number, domains, vmtas, stranger))
        cut = Cut(random.randrange(3000), random.choice(("reset", "close"))) if plan.kind not in GENTLE and random.random() < 0.2 else None
        plan.arrivals.append(Arrival(random.uniform(0, plan.unkind_s * 0.6), mails, stranger, random.random() < 0.3, cut))


def _mail(random: Random, number: int, domains: list[str], vmtas: list[str], stranger: bool) -> Mail:
    count = random.choice((1, 1, 2, 5, 12))
    chosen = random.sample(domains, random.randint(1, min(2, len(domains))))
    if stranger:
        recipients = tuple(f"stranger{number}r{index}@elsewhere.example" for index in range(count))
    else:
        recipients = tuple(f"m{number}r{index}@{random.choice(chosen)}" for index in range(count))
    sender = "" if random.random() < 0.2 else f"s{number}@senders.example"
    wish = random.choice(("", "", random.choice(vmtas), "every"))
    header = (f"X-Virtual-MTA: {wish}\r\n" if wish else "") + f"Subject: {number}\r\n\r\n"
    eight_bit = random.random() < 0.2
    text = f"number {number}\r\n" + random.choice(("", "..dots\r\n..\r\n", "line\r\n" * random.randint(1, 200), "\r\n" * 3))
    if random.random() < 0.02:
        text += ("x" * 998 + "\r\n") * 300  # over 256 KB: streamed
    return Mail(sender, recipients, (header + text + ("\xfc\r\n" if eight_bit else "")).encode("latin-1"), eight_bit)


def _draw_events(plan: Plan, random: Random) -> None:
    if _has(plan, "crashes"):
        for _ in range(random.randint(1, 4)):
            plan.events.append((random.uniform(0, plan.unkind_s), random.choice(EVENTS[:-1]), 0))
        plan.temper = Temper(
            commit_s=random.choice(((0.001, 0.01), (0.0, 0.0), (0.05, 0.5))),
            stall_share=random.choice((0.0, 0.1)),
            refuse_accept=random.choice((0.0, 0.1)),
            refuse_settle=random.choice((0.0, 0.0, 0.1)),
            refuse_dsn=random.choice((0.0, 0.3)),
            unwritable=random.choice((0.0, 0.1)),
            unreadable=random.choice((0.0, 0.0, 0.02)),
        )
    if _has(plan, "clock"):
        for _ in range(random.randint(1, 4)):
            by_ms = random.choice((-500, -20_000, -59_000, -90_000, -3_600_000, 500, 20_000, 59_000, 90_000, 3_600_000, 90_000_000))
            plan.events.append((random.uniform(0, plan.unkind_s), "step", by_ms))
    if plan.kind not in GENTLE and random.random() < 0.2:
        plan.drag_s = random.choice((0.0001, 0.002))
    plan.events.sort()
