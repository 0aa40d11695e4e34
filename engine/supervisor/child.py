"""The first code of every child: `python -m engine.supervisor.child FD ROLE/INDEX`, with the encoded Birth in descriptor FD."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import traceback

from engine.config import Config
from engine.errors import EngineError, StartError
from engine.log import EventLog, escape
from engine.process import Birth, enter, load_codecs
from engine.supervisor.configuration import decode


def main(argv: list[str]) -> int:
    """Become the child; returns its exit code.  EX_CONFIG means: it would fail again, do not start it again at once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # `pkill -USR1 engine` after a rotation by hand
    fd = int(argv[1])
    birth = Birth.decode(os.pread(fd, os.fstat(fd).st_size, 0))
    os.close(fd)
    try:
        return live(birth)
    except StartError as error:
        report(birth, "refused", str(error))
        return os.EX_CONFIG
    except EngineError as error:  # perhaps better next time
        report(birth, "failed", str(error))
        return os.EX_TEMPFAIL
    except Exception:
        report(birth, "crashed", traceback.format_exc())
        raise


def live(birth: Birth) -> int:
    """Import everything, drop what a worker must not have, and run the role."""
    module = importlib.import_module(birth.module)
    load_codecs()
    config: Config = decode(os.pread(birth.config_fd, os.fstat(birth.config_fd).st_size, 0), birth.state_dir)
    enter(birth)
    code: int = module.run(birth, config)
    return code


def report(birth: Birth, kind: str, text: str) -> None:
    """Say on the terminal and in the log why this child ends."""
    try:
        print(f"engine: {birth.name}: {text}", file=sys.stderr, flush=True)
    except OSError:  # the terminal is closed: the log and the exit code still tell
        pass
    if birth.uid < 0 or os.geteuid() != 0:  # the log belongs to the user we become
        log = EventLog(birth.log_path, birth.name, mode=birth.log_mode)
        log.event(kind, escape(text, 4000))
        log.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv))
