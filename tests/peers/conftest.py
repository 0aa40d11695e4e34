"""The engine that these tests send through, and a list at the end of what did not run and why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp

import pytest

from bench.engine_process import EngineProcess
from bench.postfix import missing as postfix_missing
from tests.dns_server import DnsServer
from tests.peers.install import PACKAGES, path_of
from tests.sinks import Sink
from tests.system.engine import Engine

ZONE = {
    **{f"d{number}.example": {"MX": ["10 mx1.sink.example", "20 mx2.sink.example"]} for number in range(3)},
    "mx1.sink.example": {"A": ["127.0.0.21"]},
    "mx2.sink.example": {"A": ["127.0.0.22"]},
}


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say aloud what was not tested."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if "tests/peers" in report.nodeid]
    if not skipped:
        return
    terminalreporter.section("peers that could not be tested")
    reasons = sorted({(report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)) for report in skipped})
    for reason in reasons:
        terminalreporter.write_line(reason)


@pytest.fixture(scope="session")
def need() -> Callable[[str], None]:
    """`need("swaks")` skips the test, with the reason, where the program is missing."""

    def check(program: str) -> None:
        if program in PACKAGES and path_of(program) is None:
            pytest.skip(f"{program} is not installed (apt-get install {PACKAGES[program]}; python -m tests.peers.install)")
        if program == "postfix" and (reason := postfix_missing()):
            pytest.skip(f"postfix: {reason}")

    return check


@dataclass(frozen=True, slots=True)
class Relay:
    """An engine that delivers to a sink which the DNS names as MX."""

    engine: EngineProcess
    sink: Sink


def routed(port: int) -> str:
    """<domain *> for a fast test, next hops at *port*."""
    return (
        f"<domain *>\n    default-smtp-port {port}\n    allow-private-mx yes\n    retry-after 1s\n    retry-recipients-after 1s\n"
        "    bounce-after 10m\n    max-smtp-out 5\n</domain>\n"
    )


@pytest.fixture(scope="module")
def module_directory() -> Iterator[Path]:
    """A directory that the users can reach whom root's children become, unlike pytest's own."""
    with TemporaryDirectory(prefix="peers-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def open_directory(module_directory: Path) -> Path:
    """One such directory for each test."""
    path = Path(mkdtemp(dir=module_directory))
    path.chmod(0o711)
    return path


@pytest.fixture(scope="module")
def relay(module_directory: Path) -> Iterator[Relay]:
    """One engine for a module's tests."""
    with DnsServer(ZONE) as dns, Sink(host="127.0.0.21") as sink:
        address, port = dns.server
        conf = f"name-server {address}:{port}\n" + routed(sink.port)
        with Engine(module_directory / "relay", conf) as engine:
            yield Relay(engine, sink)
