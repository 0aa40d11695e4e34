"""Imports go one way: the rules of docs/architecture.md, read from the syntax trees of every module, and kept true here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parent.parent / "engine"

LEAVES = {
    *("errors", "clock", "units", "fastpath", "_fastpath", "_reference", "log"),
    *("process", "door", "drain", "stream", "_stream", "_stream_reference", "metrics"),
}

# package -> the packages of ours that it may import besides leaves and itself
MAY_IMPORT: dict[str, set[str]] = {
    "mail": set(),
    "config": set(),
    "control": set(),
    "smtp": {"mail"},
    "dns": {"config"},
    "spf": {"dns"},  # its values: questions and answers
    "tls": {"config"},
    "spool": {"config", "mail"},
    "policy": {"config", "mail", "smtp"},
    "bounce": {"config", "mail"},
    "scheduler": {"config", "mail"},
    "reception": {"config", "mail", "policy", "spool"},
    "listener": {"config", "dns", "mail", "policy", "reception", "smtp", "spf", "spool", "tls"},
    "delivery": {"bounce", "config", "control", "dns", "mail", "scheduler", "smtp", "spool", "tls"},
    "accounting": {"config", "mail", "spool"},
    "sink": {"config", "mail", "smtp"},
    "doctor": {"config", "dns", "spf"},
    "supervisor": {"config", "control", "tls"},  # tls: a certificate that cannot be used is refused before anything changes
    # mail: to show rows in words; spool: of an engine that is stopped; delivery, dns: `engine resolve` asks as delivery would
    "cli": {"config", "control", "delivery", "dns", "doctor", "mail", "policy", "sink", "smtp", "spool", "supervisor"},
    "__main__": {"cli"},
    "__init__": set(),
}

PURE = {"smtp", "policy", "bounce", "scheduler", "config", "mail", "spf"}
IMPURE_MODULES = {"asyncio", "socket", "ssl", "lmdb", "threading", "signal", "uvloop", "selectors", "multiprocessing", "subprocess"}
FORKS = {("os", "fork"), ("os", "forkpty"), ("os", "posix_spawn"), ("os", "posix_spawnp"), ("subprocess", ""), ("multiprocessing", "")}


def modules() -> Iterator[tuple[str, str, ast.Module]]:
    """(path below engine/, package or module name, its tree) of every module."""
    for path in sorted(ENGINE.rglob("*.py")):
        parts = path.relative_to(ENGINE).with_suffix("").parts
        yield str(path.relative_to(ENGINE)), parts[0], ast.parse(path.read_text(), str(path))


MODULES = list(modules())


def imports(path: str, tree: ast.Module) -> Iterator[tuple[str, int]]:
    """(dotted name, line) of everything imported, relative imports resolved; also inside functions and type checks."""
    package = ("engine", *Path(path).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield name.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module or "") if part)
            yield module, node.lineno
            for name in node.names:
                yield f"{module}.{name.name}", node.lineno


def ours(dotted: str) -> str:
    """The package of ours that *dotted* lies in, or ""."""
    parts = dotted.split(".")
    return parts[1] if parts[0] == "engine" and len(parts) > 1 else ""


def top(dotted: str) -> str:
    """The outermost package of *dotted*."""
    return dotted.partition(".")[0]


def test_every_package_has_a_rule() -> None:
    unknown = {name for _, name, _ in MODULES} - LEAVES - MAY_IMPORT.keys()
    assert not unknown, f"say in MAY_IMPORT what these may import: {unknown}"


@pytest.mark.parametrize(("path", "name", "tree"), MODULES, ids=[path for path, _, _ in MODULES])
def test_imports_go_one_way(path: str, name: str, tree: ast.Module) -> None:
    known = LEAVES | MAY_IMPORT.keys()
    allowed = LEAVES if name in LEAVES else LEAVES | MAY_IMPORT[name] | {name}
    found = imports(path, tree)
    wrong = [f"{path}:{line}: {name} may not import {dotted}" for dotted, line in found if ours(dotted) in known - allowed]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(("path", "tree"), [pytest.param(path, tree, id=path) for path, name, tree in MODULES if name in PURE])
def test_cores_touch_no_outer_world(path: str, tree: ast.Module) -> None:
    wrong = [f"{path}:{line}: a pure core may not import {dotted}" for dotted, line in imports(path, tree) if top(dotted) in IMPURE_MODULES]
    assert not wrong, "\n".join(wrong)


JUDGES = {f"doctor/{name}.py" for name in ("finding", "judgement", "listeners", "names", "ports", "senders", "stranger")}
PROBES = {f"doctor/{name}.py" for name in ("__init__", "dialog", "door", "examination", "probe")}


def test_the_doctor_judges_what_others_saw() -> None:
    assert {path for path, name, _ in MODULES if name == "doctor"} == JUDGES | PROBES, "say whether it judges or looks"
    probes = {f"engine.{path.removesuffix('.py').replace('/', '.')}" for path in PROBES if "__init__" not in path}
    for path, _, tree in MODULES:
        if path in JUDGES:
            wrong = [f"{path}:{line}: {dotted}" for dotted, line in imports(path, tree) if top(dotted) in IMPURE_MODULES or dotted in probes]
            assert not wrong, "\n".join(wrong)


def test_only_the_spool_knows_lmdb() -> None:
    others = [(path, tree) for path, name, tree in MODULES if name != "spool"]
    wrong = [f"{path}:{line}" for path, tree in others for dotted, line in imports(path, tree) if top(dotted) == "lmdb"]
    assert not wrong, wrong


def test_only_the_supervisor_starts_processes() -> None:
    wrong = []
    for path, name, tree in MODULES:
        if name == "supervisor":
            continue
        wrong += [f"{path}:{line}: {dotted}" for dotted, line in imports(path, tree) if (top(dotted), "") in FORKS]
        wrong += [
            f"{path}:{node.lineno}: {node.value.id}.{node.attr}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in FORKS
        ]
    assert not wrong, "\n".join(wrong)


def test_the_supervisor_holds_no_loop_and_no_thread() -> None:
    wrong = [
        f"{path}:{line}: {dotted}"
        for path, name, tree in MODULES
        if name == "supervisor"
        for dotted, line in imports(path, tree)
        if top(dotted) in {"asyncio", "uvloop", "threading", "lmdb"} or dotted == "engine.drain"
    ]
    assert not wrong, "\n".join(wrong)


def test_process_is_free_of_asyncio() -> None:
    for path, name, tree in MODULES:
        if name in {"process", "log", "errors", "clock", "units", "fastpath", "_reference"}:
            assert "asyncio" not in {top(dotted) for dotted, _ in imports(path, tree)}, path


def test_the_reader_of_imports_misses_none() -> None:
    early = "import engine.spool.ops\nfrom ..dns import cache\nfrom . import attempt\n"
    source = early + "def late():\n    from engine import listener\n    import lmdb as store\n"
    found = {dotted for dotted, _ in imports("delivery/worker.py", ast.parse(source))}
    assert {"engine.spool.ops", "engine.dns.cache", "engine.delivery.attempt", "engine.listener", "lmdb"} <= found
