"""control-group: its members may ask and stop, nobody else, and none of them can write to the spool."""

from __future__ import annotations

import grp
import os
import stat
import subprocess
import sys

import pytest

from tests.system.conftest import MakeEngine
from tests.system.engine import Engine, eventually

GROUP = "daemon"
STRANGER = 65_530  # a user who is nobody here


AS_ANOTHER = """
import contextlib, io, os, sys
from engine.cli import main
from engine.process import load_codecs
user, groups, words = int(sys.argv[1]), [int(each) for each in sys.argv[2].split(",") if each], sys.argv[3:]
load_codecs()
with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
    main(words)  # as root: what is imported late is there then, though the interpreter's files may be root's alone
os.setgroups(groups)
os.setresgid(user, user, user)
os.setresuid(user, user, user)
os.chdir("/")
sys.exit(main(words))
"""


def ask(engine: Engine, *words: str, groups: list[int]) -> subprocess.CompletedProcess[str]:
    """An engine command as another user, a member of *groups*."""
    user = [str(STRANGER), ",".join(str(each) for each in groups)]
    command = [sys.executable, "-c", AS_ANOTHER, *user, *words, "-c", str(engine.conf)]
    return subprocess.run(command, env=engine._environment(), capture_output=True, text=True, timeout=30, check=False)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes another user")
def test_members_may_ask_and_others_may_not(make_engine: MakeEngine) -> None:
    gid = grp.getgrnam(GROUP).gr_gid
    engine = make_engine(f"control-group {GROUP}\n")
    engine.conf.chmod(0o644)
    engine.directory.chmod(0o755)
    spool = engine.directory / "spool"
    modes = {
        name: (stat.S_IMODE((spool / name).stat().st_mode), (spool / name).stat().st_gid)
        for name in (".", "run/control.sock", "run/spool.sock", "index", "bodies")
    }
    assert modes["."] == (0o710, gid)
    assert modes["run/control.sock"] == modes["run/spool.sock"] == (0o660, gid)
    assert modes["index"][0] == modes["bodies"][0] == 0o700
    asked = spool / "run" / "ask" / "delivery-0"
    eventually(asked.exists, "the delivery process listens")
    eventually(lambda: stat.S_IMODE(asked.stat().st_mode) == 0o660 and asked.stat().st_gid == gid, "and the group may ask it")
    for words in (("status", "--json"), ("show", "queues"), ("why", "a@b.example")):
        said = ask(engine, *words, groups=[gid])
        assert said.stderr == ""
        assert said.returncode in (0, os.EX_DATAERR)
    refused = ask(engine, "status", groups=[])
    assert refused.returncode != 0
    assert "ask as root or as the engine's user" in refused.stderr


def test_a_group_that_is_not_there_is_refused(make_engine: MakeEngine) -> None:
    engine = make_engine()
    engine.stop()
    engine.configure("control-group nosuchgroup\n")
    engine.start(wait=False)
    assert engine.wait_until_ended(20) == os.EX_CONFIG
    assert "control-group nosuchgroup does not exist" in engine.said()
