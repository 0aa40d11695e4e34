"""Mutilated files: whatever is cut, flipped, left open or included in a circle, the answer is problems with their places or a configuration.

The samples in tests/configs hold every construct of three public files.  Those themselves take part where ../shared is, beside the repository.
"""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from engine.cli import main
from engine.cli.verdict import lines as lines_of
from engine.config import Loaded, Snapshot, build, describe, from_text, read
from engine.config.snapshot import text_of
from engine.config.surroundings import Surroundings
from engine.config.verdict import judge as verdict_on

ROOT = Path(__file__).parents[2]
OWN = ROOT / "tests" / "configs"
PUBLIC = ROOT.parent / "shared" / "reference" / "pmta-configs"
VARIANTS = 200
BATCH = 25
LIMIT_S = 2.0

Lines = list[bytes]


def sources(directory: Path) -> list[dict[str, bytes]]:
    """For each configuration in *directory*: its bytes by name, the first one's first."""
    more = {f"more/{path.name}": path.read_bytes() for path in sorted(directory.glob("more/*"))}
    return [{path.name: path.read_bytes()} | more for path in sorted(directory.glob("*.conf"))]


# --- how a file is mutilated ---


def at(rng: random.Random, lines: Lines) -> int:
    return rng.randrange(len(lines)) if lines else 0


def lose_lines(rng: random.Random, lines: Lines) -> None:
    start = at(rng, lines)
    del lines[start : start + rng.choice((1, 1, 3, 20))]


def cut_line(rng: random.Random, lines: Lines) -> None:
    if lines:
        number = at(rng, lines)
        lines[number] = lines[number][: rng.randrange(len(lines[number]) + 1)]


def cut_file(rng: random.Random, lines: Lines) -> None:
    whole = b"\n".join(lines)
    lines[:] = whole[: rng.randrange(len(whole) + 1)].split(b"\n")


def flip_bytes(rng: random.Random, lines: Lines) -> None:
    for _ in range(rng.choice((1, 4, 30))):
        number = at(rng, lines)
        if lines and lines[number]:
            column = rng.randrange(len(lines[number]))
            flipped = bytes((lines[number][column] ^ 1 << rng.randrange(8),))
            lines[number] = lines[number][:column] + flipped + lines[number][column + 1 :]


def leave_open(rng: random.Random, lines: Lines) -> None:
    closing = [number for number, line in enumerate(lines) if line.lstrip().startswith(b"</")]
    for number in sorted(rng.sample(closing, min(len(closing), rng.choice((1, 2, 10)))), reverse=True):
        del lines[number]


def close_twice(rng: random.Random, lines: Lines) -> None:
    lines.insert(at(rng, lines), rng.choice((b"</domain>", b"</>", b"<>", b"</virtual-mta", b"<domain", b"<source 0/0 >")))


def include_in_a_circle(rng: random.Random, lines: Lines) -> None:
    lines.insert(
        at(rng, lines), rng.choice((b"include main.conf", b"include circle", b"include *", b"include nowhere/*.x", b"include http://a.example/x"))
    )


def break_line(rng: random.Random, lines: Lines) -> None:
    if lines:
        number = at(rng, lines)
        column = rng.randrange(len(lines[number]) + 1)
        lines[number : number + 1] = [lines[number][:column], lines[number][column:]]


def join_lines(rng: random.Random, lines: Lines) -> None:
    number = at(rng, lines)
    lines[number : number + 2] = [b" ".join(lines[number : number + 2])]


def move_lines(rng: random.Random, lines: Lines) -> None:
    start = at(rng, lines)
    moved = lines[start : start + 8]
    del lines[start : start + 8]
    target = at(rng, lines)
    lines[target:target] = moved


def repeat_lines(rng: random.Random, lines: Lines) -> None:
    start = at(rng, lines)
    lines[start:start] = lines[start : start + 30] * rng.choice((1, 2, 20))


def insert_noise(rng: random.Random, lines: Lines) -> None:
    noise = (
        b"\xff\xfe\x00",
        b'"',
        b"/" * 300,
        b"(" * 5000,
        b"$x" * 2000,
        b"domain-macro m $m,",
        b"domain-macro a $b\ndomain-macro b $a",
        b"\xef\xbb\xbf#",
        b"\r",
    )
    lines.insert(at(rng, lines), rng.choice(noise))


WAYS: tuple[Callable[[random.Random, Lines], None], ...] = (
    lose_lines,
    cut_line,
    cut_file,
    flip_bytes,
    leave_open,
    close_twice,
    include_in_a_circle,
    break_line,
    join_lines,
    move_lines,
    repeat_lines,
    insert_noise,
)


def mutilated(source: dict[str, bytes], seed: int) -> Snapshot:
    """A snapshot of *source* after one to four injuries, by *seed* alone."""
    rng = random.Random(seed)
    name, *_ = source
    lines = source[name].split(b"\n")
    for _ in range(rng.choice((1, 1, 2, 4))):
        rng.choice(WAYS)(rng, lines)
    ends = rng.choice((b"\n", b"\n", b"\r\n"))
    files = {"circle": b"include main.conf\n", **{other: text for other, text in source.items() if other != name}}
    return from_text(ends.join(lines), "/etc/sample/main.conf", lenient=rng.random() < 0.5, **files)


def judge(snapshot: Snapshot, what: str) -> Loaded:
    """Builds *snapshot* and holds it to its promise."""
    start = time.process_time()
    loaded = build(snapshot)
    report = describe(loaded.problems) + "\n".join(lines_of(verdict_on(loaded, Surroundings(frozenset())), snapshot.main))
    took_s = time.process_time() - start
    assert took_s < LIMIT_S, f"{what}: {took_s:.1f} s"
    assert (loaded.config is None) == any(p.severity == "error" for p in loaded.problems), what
    assert "Traceback" not in report and report.replace("\n", "").isprintable(), what
    texts = {name: text_of(data).removeprefix("\ufeff").split("\n") for name, data in snapshot.files.items()}
    for problem in loaded.problems:
        lines = texts[problem.file]
        assert 1 <= problem.line <= len(lines), f"{what}: {problem}"
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1, f"{what}: {problem}"
        assert len(problem.text) < 600 and "\n" not in problem.text, f"{what}: {problem}"
    if loaded.config is not None:
        loaded.config.domain("bigmail.example", next(iter(loaded.config.virtual_mtas)))
        loaded.config.client("192.0.2.1", "{auth}")
        assert {name for slot in loaded.config.slots(2) for name in slot.virtual_mtas} == set(loaded.config.virtual_mtas), what
    assert build(Snapshot.decode(snapshot.encode())).problems == loaded.problems, f"{what}: a child reads it otherwise"
    if not any("on to line" in p.text for p in loaded.problems):
        other = msgspec.structs.replace(snapshot, lenient=not snapshot.lenient)
        assert build(other).problems == loaded.problems, f"{what}: --lenient joins lines only, and says so"
    return loaded


def run_batch(directory: Path, batch: int) -> None:
    every = sources(directory)
    broken = 0
    for seed in range(batch, batch + BATCH):
        source = every[seed % len(every)]
        loaded = judge(mutilated(source, seed), f"{next(iter(source))}, seed {seed}")
        broken += loaded.config is None
    assert broken, "these mutilations harm nothing"


@pytest.mark.parametrize("batch", range(0, VARIANTS, BATCH))
def test_mutilated_samples_of_our_own(batch: int) -> None:
    run_batch(OWN, batch)


def test_check_config_says_what_is_wrong_and_where(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The command itself, with the files on disk."""
    every = sources(OWN)
    for seed in range(VARIANTS, VARIANTS + 12):
        snapshot = mutilated(every[seed % len(every)], seed)
        directory = tmp_path / str(seed)
        (directory / "more").mkdir(parents=True)
        for name, data in snapshot.files.items():
            (directory / name.removeprefix("/etc/sample/")).write_bytes(data)
        start = time.process_time()
        status = main(["check-config", "-c", str(directory / "main.conf"), *(["--lenient"] if snapshot.lenient else [])])
        assert time.process_time() - start < LIMIT_S
        said, complaint = capsys.readouterr()
        assert complaint == "" and said.splitlines()[-1].startswith("verdict: "), seed
        broken = {(p.line, p.column) for p in build(read(str(directory / "main.conf"), lenient=snapshot.lenient)).problems if p.severity == "error"}
        assert status == os.EX_CONFIG if broken else status in (os.EX_OK, os.EX_CONFIG)  # an address that is not here stops a start too
        told = {(int(line), int(column)) for line, column in re.findall(r"^/[^:]*:(\d+):(\d+): error: ", said, re.M)}
        assert told <= broken and (told or not broken or "not yet: " in said), seed


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="../shared with the three public files is not beside the repository")
@pytest.mark.parametrize("batch", range(0, VARIANTS, BATCH))
def test_mutilated_public_files(batch: int) -> None:
    run_batch(PUBLIC, batch)


@pytest.mark.parametrize("source", sources(OWN), ids=lambda source: next(iter(source)))
def test_the_samples_have_no_error_but_what_is_not_there_yet(source: dict[str, bytes]) -> None:
    name, *_ = source
    files = {other: text for other, text in source.items() if other != name}
    loaded = judge(from_text(source[name], "/etc/sample/main.conf", lenient=True, **files), name)
    assert [str(p) for p in loaded.problems if p.severity == "error" and "not supported yet" not in p.text] == []


def test_the_broken_sample_is_refused_unless_lenient() -> None:
    text = (OWN / "broken-lines.conf").read_bytes()

    def said(lenient: bool) -> list[tuple[int, str]]:
        return [(p.line, p.severity) for p in build(from_text(text, lenient=lenient)).problems if "on to line" in p.text]

    assert said(False) == [(3, "error"), (11, "error"), (16, "error")]
    assert said(True) == [(3, "warning"), (11, "warning"), (16, "warning")]
