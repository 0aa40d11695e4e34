"""`engine upgrade` in the running supervisor: asks the installed program, keeps what came of it, and says when to become that program."""

from __future__ import annotations

from collections.abc import Callable

from engine import __version__
from engine.clock import monotonic_s
from engine.control import Upgrade
from engine.errors import RemoteProtocolError
from engine.log import EventLog, escape
from engine.supervisor.state import State
from engine.supervisor.trial import Trial


class Upgrading:
    """The last upgrade that somebody asked for."""

    def __init__(self, log: EventLog, document: Callable[[], State], trial_s: float) -> None:
        """*document*: the State as it is now; *trial_s*: what a trial may take."""
        self.told = Upgrade()
        self._log = log
        self._document = document
        self._trial_s = trial_s
        self._trial: Trial | None = None
        self._only_try = False
        self._before = ""  # the version whose place we have taken

    @property
    def until_s(self) -> float | None:
        """When a trial that is under way has taken too long."""
        return self._trial.until_s if self._trial is not None else None

    def begin(self, only_try: bool) -> Upgrade:
        """Ask the installed program; what comes of it is *told* later.  RemoteProtocolError while it is asked already."""
        if self._trial is not None:
            raise RemoteProtocolError("the installed program is being asked already: engine status says what comes of it")
        self._only_try = only_try
        self.told = Upgrade(self.told.attempt + 1, "trying", __version__)
        self._log.event("upgrade", f"{__version__} asks the installed program whether it could take over")
        self._ask()
        return self.told

    def turn(self, now_s: float) -> bool:
        """Whether the installed program has said that it could, and shall."""
        trial = self._trial
        verdict = trial.poll(now_s) if trial is not None else None
        if trial is None or verdict is None:
            return False
        self._trial = None
        if verdict.problems:
            self.refuse(verdict.problems, verdict.version)
        elif trial.generation != self._document().generation:  # a reload came between: not this configuration was tried
            self._ask()
        else:
            self.told = Upgrade(self.told.attempt, "possible", __version__, verdict.version)
            self._log.event("upgrade", f"{verdict.version} could take over")
            return not self._only_try
        return False

    def refuse(self, problems: list[str], version: str = "") -> None:
        """It comes to nothing: everything runs on."""
        self.told = Upgrade(self.told.attempt, "refused", __version__, version, problems)
        for line in problems:
            self._log.event("upgrade", escape(f"refused: {line}", 1000))

    def give_up(self) -> None:
        """The engine stops: nobody waits for the answer any more."""
        if self._trial is not None:
            self._trial.end()
            self._trial = None
            self.refuse(["the engine stops"])

    def took_over(self, before: State) -> None:
        """We are the installed program, and the one that wrote *before* is no more."""
        self._before = before.version
        self.told = Upgrade(before.attempt, "replacing", before.version, __version__)
        self._log.event("upgrade", f"{before.version} -> {__version__}: took over with {len(before.children)} processes, which are replaced")

    def done(self) -> None:
        """Every process is of this program."""
        self._log.event("upgraded", f"{self._before} -> {__version__}")
        if self.told.state == "replacing":  # and not the next one under way
            self.told = Upgrade(self.told.attempt, "done", self._before, __version__)

    def _ask(self) -> None:
        try:
            self._trial = Trial(self._document(), monotonic_s() + self._trial_s)
        except OSError as error:
            self.refuse([f"the installed program cannot be started: {error.strerror}"])
