"""A running engine, asked: its supervisor, its spool processes, its delivery processes."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from typing import Any

from engine.cli.configured import configuration, spool_path
from engine.cli.pages import Pages, Tallies, Tally, Waiting
from engine.control import Child, Request, Status, ask
from engine.errors import EngineError
from engine.mail.envelope import Message
from engine.process import answers_socket
from engine.supervisor.spooldir import control_socket

SLOT_S = 3.0  # a delivery process answers within that, or is said not to
WALK_S = 10.0  # what one command walks of the spool at the most


class Engine:
    """The engine that a command's configuration names.  NotRunning from the first question to a process that is not there."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.config = configuration(arguments)
        self.path = spool_path(self.config)
        self.silent: dict[str, str] = {}  # delivery processes that have not answered, and why
        self.away: dict[str, str] = {}  # likewise spools, but for the first
        self._until_s = time.monotonic() + WALK_S
        self._status: Status | None = None
        self._pages: list[Pages] = []

    @property
    def status(self) -> Status:
        """As the supervisor sees it, once."""
        if self._status is None:
            self._status = ask(control_socket(self.path), "status")
        return self._status

    def child(self, name: str) -> Child | None:
        """The supervisor's word on one process."""
        return next((child for child in self.status.children if child.name == name), None)

    # --- delivery processes ---------------------------------------------------------------------------------------------------------

    def slots(self, request: Request) -> list[Any]:
        """What each delivery process answers to *request*; who does not is in `silent`."""
        answers = []
        for child in self.status.children:
            if not child.name.startswith("delivery/"):
                continue
            try:
                answers.append(ask(answers_socket(self.path, child.name), request, SLOT_S))
            except EngineError as error:
                self.silent[child.name] = str(error)
        return answers

    # --- the spools -----------------------------------------------------------------------------------------------------------------

    @property
    def spools(self) -> list[Pages]:
        """The first, which mail is sent from, then the others, from which it is moved there; those whose process does not answer are `away`."""
        if not self._pages:
            self._pages = [Pages(self.path, self._until_s)]
            for path in self.status.others:
                pages = Pages(path, self._until_s)
                try:
                    pages.counts()
                except EngineError as error:
                    self.away[path] = str(error)
                else:
                    self._pages.append(pages)
        return self._pages

    @property
    def others(self) -> list[Pages]:
        """All but the first."""
        return self.spools[1:]

    def counts(self) -> dict[str, Any]:
        """The first spool's totals."""
        return self.spools[0].counts()

    def message(self, identity: bytes) -> tuple[Message | None, list[tuple[int, str]], bool]:
        """(message, its queues, whether its id was ever given); None for one that is in no spool."""
        issued = False
        for pages in self.spools:
            message, queues, known = pages.message(identity)
            if message is not None:
                return message, queues, True
            issued |= known
        return None, [], issued

    def names(self, prefix: str) -> list[tuple[str, int]]:
        """(name, number) of the queues whose names begin with *prefix*, with mail or without; number 0: it has mail in other spools alone."""
        found = dict(self.spools[0].names(prefix))
        for pages in self.others:
            found |= {name: 0 for name, _ in pages.names(prefix) if name not in found}
        return list(found.items())

    def rows(self, number: int, name: str, *, message: bytes | None = None, address: str | None = None) -> Iterator[Waiting]:
        """The recipients in a queue, in the order in which they are sent, of one message or to one address; those in other spools last."""
        if not self.others:
            yield from self.spools[0].rows(number, name, message=message, address=address)
            return
        for pages in self.spools:
            if there := pages.number(name):
                where = pages.path if pages is not self.spools[0] else ""
                for each in pages.rows(there, name, message=message, address=address):
                    yield each._replace(spool=where)

    def length(self, number: int, name: str) -> tuple[int, bool]:
        """(recipients in a queue, whether these are all)."""
        if not self.others:
            return self.spools[0].length(number)
        lengths = [pages.length(there) for pages in self.spools if (there := pages.number(name))]
        return sum(length for length, _ in lengths), all(whole for _, whole in lengths)

    def tallies(self, sizes: bool = False) -> Tallies:
        """What lies in every queue that has mail."""
        found = self.spools[0].tallies(sizes)
        if not self.others:
            return found
        queues = {tally.name: tally for tally in found.queues}
        for pages in self.others:
            more = pages.tallies(sizes)
            found.whole &= more.whole
            for tally in more.queues:
                first = queues.setdefault(tally.name, Tally(0, tally.name, first_due_ms=tally.first_due_ms))
                first.recipients += tally.recipients
                first.size_bytes += tally.size_bytes
                first.first_due_ms = min(first.first_due_ms, tally.first_due_ms)
        return Tallies(list(queues.values()), found.whole)

    def heads(self) -> tuple[int, int, bool]:
        """(queues that have mail, domains of theirs, whether these are all)."""
        found = [pages.heads() for pages in self.spools]
        names = set().union(*[names for names, _ in found])
        return len(names), len({name.rpartition("/")[0] for name in names}), all(whole for _, whole in found)
