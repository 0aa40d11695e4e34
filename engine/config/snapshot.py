"""Every file of a configuration as it was at one moment: read once by the supervisor, parsed again by its children.

`read` is the only function of this package that touches the disk.
"""

from __future__ import annotations

import fnmatch
import glob
import os
import stat
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from engine.config.lexer import Arguments, ValueProblem, lex

MAIN = "engine.conf"  # in a directory
DEFAULTS = "config-defaults"  # beside the main file: PowerMTA's stock patterns, read by themselves
MAX_FILE_BYTES = 16 << 20
MAX_TOTAL_BYTES = 64 << 20
MAX_FILES = 2_000
ATTACHED = {  # directives whose file is read too: its most bytes
    "dsn-failed-body-template-from": 64 << 10,
    "dummy-smtp-blacklist": 16 << 20,
    "include-headers-from": 16 << 10,
    "password-file": 4 << 10,
}
_WILD = frozenset("*?[")


class FileText(NamedTuple):
    """A file that a directive names: its path, and once the whole is built its text."""

    path: str
    text: str = ""


NO_FILE = FileText("")


class Snapshot(msgspec.Struct, frozen=True):
    """The text of a configuration: bytes of each file, what each wildcard matched, and what could not be read and why."""

    main: str  # absolute path of the first file
    files: dict[str, bytes]
    matches: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    defaults: str = ""  # the file of DEFAULTS, if there is one
    lenient: bool = False  # lines that go on in the next one are joined, with a warning, instead of refused
    attached: dict[str, bytes] = {}  # files that directives name and that are no configuration: ATTACHED
    exposed: list[str] = []  # files of both kinds that everybody on the machine may read

    def encode(self) -> bytes:
        """A form that survives a pipe to a child process."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Snapshot:
        """The snapshot that `encode` made *data* from; msgspec.DecodeError if it is none."""
        return _decoder.decode(data)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Snapshot] = msgspec.msgpack.Decoder(Snapshot)


def from_text(text: str | bytes, main: str = "/engine.conf", *, lenient: bool = False, **files: str | bytes) -> Snapshot:
    """A snapshot that never was on disk; further files are named relative to the first one's directory."""
    every = {main: text} | {os.path.join(os.path.dirname(main), name): content for name, content in files.items()}
    return snapshot(main, every.get, lambda pattern: sorted(p for p in every if fnmatch.fnmatch(p, pattern)), lenient)


def read(path: str, *, lenient: bool = False) -> Snapshot:
    """The snapshot of the file *path*, or of engine.conf in the directory *path*, with all that it includes.

    Never raises OSError: what cannot be read is noted, and becomes a problem when the snapshot is built.
    """
    main = os.path.abspath(path)
    if os.path.isdir(main):
        main = os.path.join(main, MAIN)
    exposed: list[str] = []
    found = snapshot(main, lambda name: _read_file(name, exposed), lambda pattern: sorted(glob.glob(pattern)), lenient)
    return msgspec.structs.replace(found, exposed=exposed)


def snapshot(main: str, open_file: Callable[[str], str | bytes | None], expand: Callable[[str], list[str]], lenient: bool = False) -> Snapshot:
    """The snapshot of *main* as *open_file* (None: no such file; OSError: its reason) and *expand* (a wildcard's files) give it."""
    files: dict[str, bytes] = {}
    attached: dict[str, bytes] = {}
    matches: dict[str, list[str]] = {}
    failures: dict[str, str] = {}
    defaults = os.path.join(os.path.dirname(main), DEFAULTS)
    waiting, total = [defaults, main], 0
    while waiting:
        name = waiting.pop()
        if name in files or name in failures:
            continue
        try:
            content = open_file(name)
            if content is None:
                raise FileNotFoundError(2, "no such file")
        except (OSError, ValueError) as error:
            if name == defaults and isinstance(error, (FileNotFoundError, NotADirectoryError)):
                defaults = ""
                continue
            failures[name] = getattr(error, "strerror", None) or str(error)
            continue
        data = content.encode(errors="surrogateescape") if isinstance(content, str) else content
        total += len(data)
        if total > MAX_TOTAL_BYTES or len(files) >= MAX_FILES:
            failures[name] = f"the configuration is larger than {MAX_FILES} files or {MAX_TOTAL_BYTES >> 20} MB"
            continue
        files[name] = data
        for word, pattern in _named(name, data):
            if word != "include":
                _attach(pattern, ATTACHED[word], open_file, attached, failures)
                continue
            if is_wild(pattern) and pattern not in matches:
                try:
                    matches[pattern] = [found for found in expand(pattern)[: MAX_FILES + 1] if found.isprintable()]
                except (OSError, ValueError) as error:
                    failures[pattern] = str(error)
            waiting.extend(matches.get(pattern, []) if is_wild(pattern) else [pattern])
    return Snapshot(main, files, matches, failures, "" if defaults == main else defaults, lenient, attached)


def is_wild(pattern: str) -> bool:
    return not _WILD.isdisjoint(pattern)


def resolve(including: str, argument: str) -> str:
    """The file or wildcard that *argument* of an include in *including* names: relative to that file."""
    return os.path.normpath(os.path.join(os.path.dirname(including), argument))


def text_of(data: bytes) -> str:
    """*data* as text; bytes that are not UTF-8 become surrogates, which the lexer reports."""
    return data.decode("utf-8", errors="surrogateescape")


def _named(name: str, data: bytes) -> list[tuple[str, str]]:
    """(directive, file or wildcard) of every directive that has a file read."""
    lowered = data.lower()
    if not any(word.encode() in lowered for word in ("include", *ATTACHED)):
        return []
    names = []
    for line in lex(name, text_of(data)):
        if line.kind == "statement" and (line.word == "include" or line.word in ATTACHED):
            try:
                argument = Arguments(line.argument).rest() if line.word == "include" else Arguments(line.argument).word()
            except ValueProblem:
                continue  # the parser says so, with its place
            if argument and "://" not in argument:
                names.append((line.word, resolve(name, argument)))
    return names


def _attach(name: str, most: int, open_file: Callable[[str], str | bytes | None], attached: dict[str, bytes], failures: dict[str, str]) -> None:
    """Read the file *name* for its directive; one of more than *most* bytes is a failure."""
    if name in attached or name in failures or len(attached) >= MAX_FILES:
        return
    try:
        content = open_file(name)
        if content is None:
            raise FileNotFoundError(2, "no such file")
        if len(content) > most:
            raise ValueError(f"larger than {most >> 10} KB")
    except (OSError, ValueError) as error:
        failures[name] = getattr(error, "strerror", None) or str(error)
        return
    attached[name] = content.encode() if isinstance(content, str) else content


def _read_file(path: str, exposed: list[str]) -> bytes:
    """The contents of *path*, which is added to *exposed* if everybody may read it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a FIFO must not hang the start
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("not a regular file")
        if mode & stat.S_IROTH:
            exposed.append(path)
        with open(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES >> 20} MB")
    return data
