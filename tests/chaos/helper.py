"""A process of the harness that nobody kills: words to its standard input, MessagePack behind a length from its standard output."""

from __future__ import annotations

import select
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import msgspec

ROOT = Path(__file__).resolve().parent.parent.parent


class HelperError(Exception):
    """It ended, or does not answer."""


class Helper:
    """`with Helper("tests.chaos.sink", "1", "kind") as sink: sink.ask("report", list[Attempt])`."""

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=ROOT, start_new_session=True)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        self._process.stdin.close()
        self._process.stdout.close()

    def tell(self, word: str) -> None:
        """A command without an answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{word}\n".encode())
        self._process.stdin.flush()

    def ask(self, word: str, wanted: Any, timeout_s: float = 60) -> Any:
        """The answer to *word*, of type *wanted*; HelperError."""
        self.tell(word)
        return self.hear(wanted, timeout_s)

    def hear(self, wanted: Any, timeout_s: float = 60) -> Any:
        """What it says next, of type *wanted*; HelperError."""
        deadline_s = time.monotonic() + timeout_s
        (size,) = struct.unpack("=Q", self._read(8, deadline_s))
        return msgspec.msgpack.decode(self._read(size, deadline_s), type=wanted)

    def _read(self, size: int, deadline_s: float) -> bytes:
        assert self._process.stdout is not None
        descriptor, parts = self._process.stdout, []
        ready = select.poll()  # select() knows no descriptor over 1023
        ready.register(descriptor, select.POLLIN)
        while size:
            if not ready.poll(max(0.0, deadline_s - time.monotonic()) * 1000):
                raise HelperError(f"{self._command[2]} does not answer")
            part = descriptor.read(min(size, 1 << 20))
            if not part:
                raise HelperError(f"{self._command[2]} has ended with status {self._process.wait(10)}")
            parts.append(part)
            size -= len(part)
        return b"".join(parts)
