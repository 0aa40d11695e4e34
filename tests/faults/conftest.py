"""What faults need: a shim between a process and its kernel, small disks in a mount namespace of our own, a peer, and mail that is accounted for."""

from __future__ import annotations

import ctypes
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.faults.world import CONF, Disk, Faults, FaultyEngine, World
from tests.sinks.sink import Sink
from tests.system.conftest import engine_dir

__all__ = ["engine_dir"]  # a fixture here too

SOURCE = Path(__file__).with_name("shim.c")
CLONE_NEWNS, MS_REC, MS_SLAVE = 0x20000, 0x4000, 0x80000
libc = ctypes.CDLL(None, use_errno=True)

MakeWorld = Callable[..., World]
MakeDisk = Callable[..., Disk]


@pytest.fixture(scope="session")
def shim() -> Iterator[Path]:
    """shim.c as a library that any user may load."""
    with tempfile.TemporaryDirectory(prefix="engine-faults-") as name:
        Path(name).chmod(0o755)
        library = Path(name, "shim.so")
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"], check=True, timeout=60)
        yield library


@pytest.fixture
def faults(shim: Path, engine_dir: Path) -> Faults:
    """None yet."""
    return Faults(shim, engine_dir / "faults")


@pytest.fixture
def make_world(engine_dir: Path, faults: Faults) -> Iterator[MakeWorld]:
    """`make_world(conf, **timing)`: an engine whose system calls can fail, and a peer that takes its mail; both ended with the test."""
    with ExitStack() as running:

        def make(more: str = "", *, start: bool = True, **timing: float) -> World:
            sink = running.enter_context(Sink("accept-all"))
            engine = FaultyEngine(engine_dir / "engine", CONF.format(port=sink.port) + more, faults, timing)
            running.callback(lambda: engine.stop(timeout_s=30) if engine.alive() else None)
            if start:
                engine.start()
            return World(engine, sink, faults)

        yield make


@pytest.fixture
def make_disk(engine_dir: Path) -> Iterator[MakeDisk]:
    """`make_disk(path, megabytes)`: a small file system at *path*, in a mount namespace of this thread and of what it starts.

    Skips, by name, where there may be no mount: not root, or a container without the capability.
    """
    here = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    directory = os.getcwd()
    mounted: list[Path] = []
    if os.geteuid() != 0 or libc.unshare(CLONE_NEWNS) != 0 or libc.mount(b"none", b"/", None, MS_REC | MS_SLAVE, None) != 0:
        os.close(here)
        pytest.skip("NOT TESTED: a full disk needs root and CAP_SYS_ADMIN, to mount a small one in a namespace of its own")

    def make(path: Path, megabytes: int) -> Disk:
        path.mkdir(parents=True, exist_ok=True)
        assert libc.mount(b"tmpfs", bytes(path), b"tmpfs", 0, b"size=%dm" % megabytes) == 0, os.strerror(ctypes.get_errno())
        mounted.append(path)
        return Disk(path)

    yield make
    for path in reversed(mounted):
        libc.umount2(bytes(path), 2)  # MNT_DETACH
    if libc.setns(here, CLONE_NEWNS) == 0:  # a thread that came meanwhile keeps us here: as good, since all is unmounted
        os.chdir(directory)
    os.close(here)
