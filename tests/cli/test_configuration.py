"""`engine check-config` and `engine show settings` as commands: exit codes, JSON, plain lines on a pipe, a table on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from engine.cli import main

CONFIGS = Path(__file__).resolve().parent.parent / "configs" / "verdict"
GOOD = """\
log-file log
smtp-listener 127.0.0.1:2525
<virtual-mta v>
    <domain gmail.com>
        max-smtp-out 3
    </domain>
</virtual-mta>
<domain *>
    retry-after 5m
</domain>
<source 127.0.0.1>
    always-allow-relaying yes
</source>
"""


@pytest.fixture
def good(tmp_path: Path) -> str:
    path = tmp_path / "engine.conf"
    path.write_text(GOOD)
    path.chmod(0o640)
    return str(path)


def test_a_good_file(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-c", good]) == os.EX_OK
    said = capsys.readouterr().out.splitlines()
    assert said == [
        "provider: gmail.com by {default}: max-smtp-out 20 (default); retry-after 5m (9); bounce-after 4d12h (default)",
        "provider: gmail.com by v: max-smtp-out 3 (5); retry-after 5m (9); bounce-after 4d12h (default)",
        "provider: * by {default}: max-smtp-out 20 (default); retry-after 5m (9); bounce-after 4d12h (default)",
        "verdict: usable: 5 directives working (on 5 lines), 0 not yet, 0 risky",
    ]


@pytest.mark.parametrize("text", ["nonsense\n", "log-file l\nnonsense\n", "log-file l\nsmtp-listener 192.0.2.77:25\n", "log-file l\n<domain *>\n"])
def test_one_that_would_not_start(tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "engine.conf").write_text(text)
    assert main(["check-config", "-c", str(tmp_path)]) == os.EX_CONFIG
    assert "verdict: would not start" in capsys.readouterr().out


def test_one_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-c", str(tmp_path / "none")]) == os.EX_CONFIG
    assert "No such file" in capsys.readouterr().out


def test_json(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-c", good, "--json"]) == os.EX_OK
    said = json.loads(capsys.readouterr().out)
    assert said["usable"] is True
    assert said["working"] == {"directives": 5, "lines": 5}
    assert (said["not_yet"], said["risks"], said["problems"]) == ([], [], [])
    limit = said["providers"][1]["limits"]["max-smtp-out"]
    assert (said["providers"][1]["domains"], limit) == (["gmail.com"], {"value": "3", "from": [f"{good}:5"], "works": True})


def test_json_of_a_risky_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check-config", "-c", str(CONFIGS / "risky.conf"), "--json"]) == os.EX_CONFIG
    said = json.loads(capsys.readouterr().out)
    assert {"open relay", "unknown virtual MTA", "loop", "file missing"} <= {risk["kind"] for risk in said["risks"]}
    assert all(risk["at"] and risk["text"] and risk["advice"] for risk in said["risks"])
    assert {item["name"] for item in said["not_yet"]} >= {"domain-key"}


def on_a_terminal(arguments: list[str]) -> tuple[str, int]:
    """What `engine` prints on a terminal, and its exit status."""
    parent, child = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"COLUMNS": "200", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-m", "engine", *arguments], stdin=child, stdout=child, stderr=child, env=environment)
    os.close(child)
    said = b""
    try:
        while chunk := os.read(parent, 65536):
            said += chunk
    except OSError:  # EIO: the other end is closed
        pass
    finally:
        os.close(parent)
        status = process.wait(timeout=30)
    return said.decode(), status


def test_tables_on_a_terminal() -> None:
    said, status = on_a_terminal(["check-config", "-c", str(CONFIGS / "risky.conf")])
    assert status == os.EX_CONFIG
    for part in ("Risks", "Does not work yet", "What the large providers get", "\x1b[", "verdict: would not start"):
        assert part in said


def test_settings_of_a_queue(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "settings", "-c", good, "GMAIL.com/v"]) == os.EX_OK
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["gmail.com/v", "max-smtp-out", "3", f"{good}:5"] in rows
    assert ["gmail.com/v", "retry-after", "5m", f"{good}:9"] in rows
    assert ["gmail.com/v", "bounce-after", "4d12h", "default"] in rows


def test_settings_of_the_server_and_of_a_client(good: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "settings", "-c", good, "--json"]) == os.EX_OK
    server = json.loads(capsys.readouterr().out)[0]
    assert {"name": "log-file", "value": "log", "from": f"{good}:1", "works": True} in server["settings"]
    assert main(["show", "settings", "-c", good, "--source", "127.0.0.1", "--json"]) == os.EX_OK
    source = json.loads(capsys.readouterr().out)[0]
    assert {"name": "always-allow-relaying", "value": "yes", "from": f"{good}:12", "works": True} in source["settings"]


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["a.example/nobody"], os.EX_DATAERR, "no virtual MTA is named 'nobody'"),
        (["--source", "nobody"], os.EX_DATAERR, "neither an address nor the name of a <source>"),
        (["a.example", "--source", "::1"], os.EX_USAGE, "one of them"),
        (["a b"], os.EX_DATAERR, "a b"),
    ],
)
def test_settings_of_what_is_not_there(good: str, arguments: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "settings", "-c", good, *arguments]) == status
    assert said in capsys.readouterr().err
