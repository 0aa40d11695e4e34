"""The files of TLS: read as whoever started the engine, checked, handed to the children, and read anew when they change."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from typing import Final

from engine.config import Config
from engine.config.tls import ClientTls, ServerTls
from engine.config.tls_build import every_policy, tls_files, with_tls
from engine.errors import StartError
from engine.log import EventLog, escape
from engine.supervisor.spawn import memory_file
from engine.tls.context import TlsSetupError, client_context, server_context
from engine.tls.files import Files, publish

MAX_BYTES: Final = 8 << 20  # of one file: all authorities of the world are 300 KB
LOOK_S: Final = 1.0
ROLES: Final = frozenset(("listener", "delivery"))  # who gets them

Stamp = tuple[int, int, int]  # inode, size, time of the last change in ns


class Certificates:
    """What the children find in `fd`; the supervisor alone writes it."""

    def __init__(self, contents: dict[str, bytes], config: Config, *, fresh: bool = True) -> None:
        """*contents*: what `read` gave for *config*, just now or, not *fresh*, to somebody else: then the next look compares them."""
        self.fd = memory_file("tls", b"")
        self._config = config
        self._contents: dict[str, bytes] = {}
        self._stamps: dict[str, Stamp | None] = {}
        self._next_s = 0.0
        self.replace(contents, config)
        if not fresh:
            self._stamps = dict.fromkeys(contents)

    def replace(self, contents: dict[str, bytes], config: Config) -> None:
        """Another configuration is in force; children of the old one keep what they have made of theirs."""
        self._config = config
        self._contents = contents
        self._stamps = {path: _stamp(path) for path in contents}
        publish(self.fd, contents)

    def look(self, now_s: float, log: EventLog) -> None:
        """Once a second: publish what has changed on disk, if it can be used as a whole; the log says which and why not."""
        if now_s < self._next_s:
            return
        self._next_s = now_s + LOOK_S
        stamps = {path: _stamp(path) for path in self._stamps}
        changed = [path for path, stamp in stamps.items() if stamp != self._stamps[path]]
        if not changed:
            return
        self._stamps = stamps
        try:
            contents = read(self._config)
        except StartError as error:
            log.event("tls", f"{escape(', '.join(changed))} changed, and what was read before stays in use: {escape(str(error))}")
            return
        if contents == self._contents:
            return
        self._contents = contents
        publish(self.fd, contents)
        log.event("tls", f"{escape(', '.join(changed))} changed: in use for new connections")


def read(config: Config) -> dict[str, bytes]:
    """What every file holds that TLS under *config* needs.  StartError: one cannot be read or used."""
    contents = {path: _content(path) for path in tls_files(config)}
    check(Files.of(contents), config)
    return contents


def taken_over(fd: int, config: Config) -> dict[str, bytes]:
    """What another program has published in *fd*.  StartError: it is not all that *config* needs, as we see it."""
    files = Files(fd)
    check(files, config)
    return {path: content for path in tls_files(config) if (content := files.get(path)) is not None}


def check(files: Files, config: Config) -> None:
    """StartError if *files* do not make a context for all that *config* offers and asks for."""
    try:
        for offered in _offered(config):
            server_context(offered, files)
        for policy in _policies(config):
            client_context(policy, files)
    except TlsSetupError as error:
        raise StartError(str(error)) from error


def _offered(config: Config) -> Iterable[ServerTls]:
    every = {with_tls(listener, config.server.tls) for listener in config.server.smtp_listener}
    return [offered for offered in every if offered.certificates]


def _policies(config: Config) -> Iterable[ClientTls]:
    return [policy for policy in every_policy(config) if policy.mode != "off"]


def _content(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hang the start
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StartError(f"{path} is no regular file, and TLS needs it: name a PEM file, or take the directive out")
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise StartError(f"{path} cannot be read, and TLS needs it: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise StartError(f"{path} is larger than {MAX_BYTES >> 20} MB: that is no certificate")
    return data


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
