"""What must be true before anything starts: user, directories, file descriptors.  Each refusal says what is missing, why, and what to do."""

from __future__ import annotations

import grp
import os
import pwd
import resource
import shutil
import socket
import stat
from collections.abc import Iterable

from engine.config import AcctFileSettings
from engine.errors import StartError
from engine.process import FDS_PER_CONNECTION, SHADOW_MARK, answers_socket, spool_socket
from engine.supervisor.spooldir import CONTROL_SOCKET, RUN, SOCKET_PATH_BYTES, claim, sync_directory

DESCRIPTORS_OF_A_CHILD = 256  # segments, sockets of DNS and of the spool, log, LMDB, the interpreter's own


def who(user: str) -> tuple[int, int]:
    """(uid, gid) that the children become; (-1, -1) if we are not root: then they stay what we are.  StartError if there is no such user."""
    if os.geteuid() != 0:
        return -1, -1
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise StartError(
            f"user {user} does not exist, and workers never run as root: create it with\n"
            f"  useradd --system --user-group --no-create-home --shell /usr/sbin/nologin {user}\n"
            f"or name another one in the configuration, or start as a user without privilege"
        ) from None
    if entry.pw_uid == 0:
        raise StartError(f"user {user} is root, and workers never run as root: name another user")
    return entry.pw_uid, entry.pw_gid


def descriptors(total_in: int, total_out: int, sockets: int) -> None:
    """Raise the limit on open files to what a child may need that comes to have all connections, each with FDS_PER_CONNECTION.

    Where that cannot be, as far as it goes; StartError with the number where not even one for each connection is allowed.
    """
    need = max(total_in, total_out, sockets) + DESCRIPTORS_OF_A_CHILD
    wish = max(FDS_PER_CONNECTION * max(total_in, total_out), sockets) + DESCRIPTORS_OF_A_CHILD
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wish:
        return
    if hard != resource.RLIM_INFINITY and hard < wish and os.geteuid() == 0:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wish, wish))
        except (OSError, ValueError):  # above fs.nr_open, or a container without the capability
            pass
        else:
            return
    if hard == resource.RLIM_INFINITY or hard >= need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wish if hard == resource.RLIM_INFINITY else min(wish, hard), hard))
        return
    raise StartError(
        f"{need} open files are needed for total-max-smtp-in {total_in}, total-max-smtp-out {total_out} and {sockets} listening sockets, "
        f"but the limit is {hard}: raise it (`ulimit -n {need}`, LimitNOFILE={need} in a systemd unit), or lower those totals"
    )


def directory(path: str, mode: int, uid: int, gid: int, what: str) -> None:
    """Make sure that directory *path* exists and that the children may write to it; created with *mode* and owned by them if it is missing."""
    if len(os.fsencode(path)) + 1 > 4000:
        raise StartError(f"{what} {path}: the path is too long")
    try:
        os.makedirs(os.path.dirname(path) or "/", mode=0o755, exist_ok=True)
        os.mkdir(path, mode)
    except FileExistsError:
        pass
    except OSError as error:
        raise StartError(
            f"cannot create {what} {path}: {error.strerror}; create it for this user, or keep all state elsewhere with --state-dir DIR"
        ) from error
    else:
        sync_directory(os.path.dirname(path) or "/")
        if uid >= 0:
            os.chown(path, uid, gid, follow_symlinks=False)  # its parent may be theirs: they must not lead us elsewhere
    _must_be_usable(path, uid, gid, what)


def _must_be_usable(path: str, uid: int, gid: int, what: str) -> None:
    if not os.path.isdir(path):
        raise StartError(f"{what} {path} is not a directory")
    if uid < 0:
        if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
            raise StartError(f"{what} {path} is not writable for us: chown it, start as root, or use --state-dir DIR")
        return
    parent = path
    while parent != os.path.dirname(parent):
        parent = os.path.dirname(parent)
        if not _allows(os.stat(parent), uid, gid, 0o1):
            raise StartError(f"{what} {path}: the workers' user {_name(uid)} may not enter {parent}; choose another place or chmod o+x {parent}")
    if not _allows(os.stat(path), uid, gid, 0o7):
        raise StartError(f"{what} {path} is not writable for the workers' user {_name(uid)}: chown -R {_name(uid)}: {path}")


def _allows(found: os.stat_result, uid: int, gid: int, bits: int) -> bool:
    shift = 6 if found.st_uid == uid else 3 if found.st_gid == gid else 0
    return (stat.S_IMODE(found.st_mode) >> shift) & bits == bits


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def attached_spool(path: str, uid: int, gid: int) -> int:
    """The lock on a deliver-only spool that is emptied into ours; StartError if it is none, in use, or not the children's to read."""
    if not os.path.isdir(path):
        raise StartError(f"spool {path}: there is no such directory; remove its <spool>, which is deliver-only, or bring the spool back")
    _must_be_usable(path, uid, gid, "spool")
    mark = os.path.join(path, SHADOW_MARK)
    if os.path.lexists(mark):
        advice = f"take its <spool> away, or, only to deliver to the world what lies in it, remove {mark}"
        raise StartError(f"spool {path}: engine start --shadow has used it: {advice}")
    return claim(path)


def one_volume(path: str, move_to: str) -> None:
    """Refuse a move-to that files of directory *path* cannot be renamed into."""
    if os.stat(path).st_dev != os.stat(move_to).st_dev:
        raise StartError(f"move-to {move_to} is on another volume than {path}: files are handed over by renaming, choose a directory beside them")


def log_file(path: str, uid: int, gid: int, mode: int = 0o640) -> None:
    """Make sure that the children may append to the log; created with *mode* and theirs if it is missing."""
    directory(os.path.dirname(path), 0o750, uid, gid, "the log's directory")
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | (os.O_NOFOLLOW | os.O_NONBLOCK if uid >= 0 else 0)
    try:
        fd = os.open(path, flags, mode)
    except OSError as error:
        raise StartError(f"cannot write log-file {path}: {error.strerror}") from error
    try:
        found = os.fstat(fd)
        empty = stat.S_ISREG(found.st_mode) and found.st_size == 0 and found.st_nlink == 1  # no second name of a file of ours
        if empty and (uid >= 0 or found.st_uid == os.geteuid()):
            os.fchmod(fd, mode)
        if uid >= 0 and empty:
            os.fchown(fd, uid, gid)
        elif uid >= 0 and not _allows(found, uid, gid, 0o2):
            raise StartError(f"log-file {path} is not writable for the workers' user {_name(uid)}: chown {_name(uid)} {path}")
    finally:
        os.close(fd)


def accounting(acct_files: Iterable[AcctFileSettings], uid: int, gid: int) -> None:
    """Make sure that the accounting process may make its files, and hand them over."""
    for acct in acct_files:
        directory(os.path.dirname(acct.path), 0o750, uid, gid, "acct-file's directory")
        if acct.move_to:
            directory(acct.move_to, 0o750, uid, gid, "move-to")
            one_volume(os.path.dirname(acct.path), acct.move_to)


def run_directory(spool: str, gid: int) -> str:
    """<spool>/run, ours: pids and sockets.  The children may enter it, and only we write to it."""
    path = os.path.join(spool, RUN)
    longest = max(len(os.fsencode(name)) for name in (os.path.join(path, CONTROL_SOCKET), answers_socket(spool, "delivery/99")))
    if longest > SOCKET_PATH_BYTES:
        raise StartError(f"spool {spool}: the path is too long for a Unix socket in it ({longest} bytes, at most {SOCKET_PATH_BYTES})")
    try:
        os.mkdir(path, 0o750)
    except FileExistsError:
        pass
    else:
        if gid >= 0:
            os.chown(path, os.geteuid(), gid, follow_symlinks=False)
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        # the same spool was used by another user: what lies in run/ is only about processes that are gone, since the lock is ours
        os.unlink(path) if not stat.S_ISDIR(found.st_mode) else shutil.rmtree(path)
        return run_directory(spool, gid)
    return path


def group(name: str) -> int:
    """The gid of control-group *name*; -1 for "".  StartError if there is no such group."""
    if not name:
        return -1
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise StartError(f"control-group {name} does not exist: create it (groupadd --system {name}), or name another") from None


def doors(spool: str, uid: int, control_gid: int) -> None:
    """Where children listen for questions (theirs alone), and the way to all that answers: open to the group *control_gid*, if there is one."""
    run, ask = os.path.join(spool, RUN), os.path.dirname(answers_socket(spool, ""))
    if os.path.lexists(ask):
        shutil.rmtree(ask)  # of processes that are gone, since the lock is ours
    os.mkdir(ask, 0o700)
    if uid >= 0 or control_gid >= 0:
        os.chown(ask, uid, control_gid, follow_symlinks=False)
    os.chmod(run, 0o750 if control_gid < 0 else 0o751)
    if control_gid < 0:
        return
    os.chmod(ask, 0o2750)  # what children make in it is the group's
    try:
        os.chown(spool, -1, control_gid, follow_symlinks=False)
        os.chmod(spool, 0o710)  # to pass, not to look
    except OSError as error:
        raise StartError(f"spool {spool} cannot be opened to control-group (gid {control_gid}): {error.strerror}: start as root") from error


def spool_door(spool: str, uid: int, gid: int, asking_gid: int) -> socket.socket:
    """The listening socket of the process of *spool*: for our children, and the group *asking_gid*, if there is one."""
    return unix_listener(spool_socket(spool), uid, *((asking_gid, 0o660) if asking_gid >= 0 else (gid, 0o600)))


def unix_listener(path: str, uid: int, gid: int, mode: int) -> socket.socket:
    """A listening Unix socket at *path*, whatever stood there before."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o777 & ~mode)
    try:
        listening.bind(path)
    finally:
        os.umask(before)
    if gid >= 0:
        os.chown(path, uid, gid, follow_symlinks=False)
    listening.listen(128)
    return listening
