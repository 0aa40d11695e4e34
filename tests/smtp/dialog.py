"""Dialogs: SMTP sessions as transcripts, run against the core here and against a live listener elsewhere.

    # comment
    limits: max_rcpt_per_message=2       ServerLimits of this dialog, if it needs any; lists with commas
    C: MAIL FROM:<a@example.com>         a line that the client sends, CRLF added
    R: MAIL FROM:<a@example.com>\\n       the same raw: with backslash escapes, nothing added
    S: 250 2.1.0 *                       a reply line, as a glob
    S: <close>                           the server closes the connection

Client lines that follow each other go out in one write; then the reply lines below them must come, these and no others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

DIALOGS = Path(__file__).parent.parent / "dialogs"
_CLOSE = "<close>"


@dataclass
class Step:
    """Bytes to send, and what must come back."""

    send: bytes = b""
    expect: list[str] = field(default_factory=list)
    closes: bool = False


@dataclass
class Dialog:
    """One transcript."""

    name: str
    limits: dict[str, Any] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=lambda: [Step()])

    @property
    def sent(self) -> bytes:
        """Everything that the client sends."""
        return b"".join(step.send for step in self.steps)


def read_dialog(path: Path) -> Dialog:
    """The dialog in the file *path*; ValueError for a line that is none of the above."""
    dialog = Dialog(path.stem)
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        kind, _, rest = line.partition(": ")
        step = dialog.steps[-1]
        if not line or line.startswith("#"):
            continue
        if kind == "limits":
            words = (word.split("=") for word in rest.split())
            dialog.limits = {name: _value(name, value) for name, value in words}
        elif kind in ("C", "R"):
            if step.expect or step.closes:
                dialog.steps.append(step := Step())
            step.send += rest.encode("utf-8") + b"\r\n" if kind == "C" else rest.encode("latin-1").decode("unicode_escape").encode("latin-1")
        elif kind == "S":
            if rest == _CLOSE:
                step.closes = True
            else:
                step.expect.append(rest)
        else:
            raise ValueError(f"{path}:{number}: {line}")
    return dialog


def _value(name: str, text: str) -> Any:
    if name.startswith("auth"):
        return tuple(text.split(","))
    return int(text) if text.isdigit() else text


def all_dialogs() -> list[Dialog]:
    """Every dialog of tests/dialogs, by name."""
    return [read_dialog(path) for path in sorted(DIALOGS.glob("*.txt"))]


def run_dialog(dialog: Dialog, exchange: Callable[[bytes], bytes]) -> None:
    """Hold *dialog*; AssertionError where the server says anything else.

    exchange(data) sends *data* (b"": nothing) and returns some bytes of what comes; b"" means that the server has closed or will say no more.
    The greeting is the answer to the first, empty send.
    """
    for number, step in enumerate(dialog.steps):
        received = exchange(step.send)
        while received.count(b"\r\n") < len(step.expect) or (step.closes and received):
            more = exchange(b"")
            received += more
            if not more:
                break
        lines = received.decode("latin-1").split("\r\n")
        assert lines.pop() == "", f"{dialog.name}, step {number}: an unfinished line in {received!r}"
        matched = len(lines) == len(step.expect) and all(fnmatchcase(line, glob) for line, glob in zip(lines, step.expect, strict=True))
        assert matched, f"{dialog.name}, step {number}, after {step.send[:200]!r}:\nexpected {step.expect}\nreceived {lines}"
        if step.closes:
            assert exchange(b"") == b"", f"{dialog.name}, step {number}: still open"
