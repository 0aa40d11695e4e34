"""The verdict of check-config: whole outputs against files that were read line by line, then each risk alone.

`python tests/config/test_verdict.py` writes the expected files anew, to be read before they are committed.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from pathlib import Path

import pytest

from engine.cli.verdict import lines
from engine.config import Loaded, build, from_text, read
from engine.config.explain import Explainer
from engine.config.risk import Risk, files_to_look_at, find_risks
from engine.config.surroundings import FileFact, Surroundings
from engine.config.verdict import Verdict, judge

HERE = Path(__file__).resolve().parent.parent / "configs"
SHARED = Path(os.environ.get("ENGINE_SHARED", HERE.parents[1].parent / "shared")) / "reference"
SAMPLES = sorted(str(path.relative_to(HERE).with_suffix("")) for pattern in ("*.conf", "verdict/*.conf") for path in HERE.glob(pattern))
REFERENCE = {
    "05": "pmta-configs/05-signals-bounce-fbl.conf",
    "07": "pmta-configs/07-small-transactional.conf",
    "08": "pmta-configs/08-stock-plus-site-edits.conf",
    "port-guide": "port-guide.conf",
}
MODES = pytest.mark.parametrize("lenient", [False, True], ids=["strict", "lenient"])
CHANGED = "read what changed; if that is right: ENGINE_SHARED=... python tests/config/test_verdict.py, and commit what it writes"
ADDRESSES = frozenset(ipaddress.ip_address(text) for text in ("127.0.0.1", "::1", "192.0.2.10", "192.0.2.11"))


def around(loaded: Loaded, addresses: frozenset[ipaddress.IPv4Address | ipaddress.IPv6Address] | None = ADDRESSES) -> Surroundings:
    """A machine of our making: files named missing are, those named open or risky everybody may read, there is nothing in /etc/pmta but the file."""
    files = {}
    for path in files_to_look_at(loaded, Explainer(loaded)):
        missing = "missing" in path or (path.startswith(("/etc/pmta/", "/etc/ssl/", "/home/")) and path != "/etc/pmta/config")
        files[path] = FileFact(missing=True) if missing else FileFact(0o644 if "open" in path or "risky" in path else 0o640)
    return Surroundings(addresses, files)


def verdict_of(text: str | bytes, main: str = "/etc/engine/engine.conf", *, lenient: bool = False, **files: bytes) -> Verdict:
    loaded = build(from_text(text, main, lenient=lenient, **files))
    return judge(loaded, around(loaded))


def risks(text: str, machine: Surroundings | None = None) -> list[Risk]:
    """The risks in *text*, which follows a line that makes a whole file of it."""
    loaded = build(from_text("log-file /l\n" + text))
    return find_risks(loaded, Explainer(loaded), machine or around(loaded))


def expected(name: str, lenient: bool) -> Path:
    return HERE / f"{name}.{'lenient' if lenient else 'strict'}.txt"


def of_sample(name: str, lenient: bool) -> str:
    main = f"/etc/engine/{Path(name).name}.conf"
    included = {str(path.relative_to(HERE)): path.read_bytes() for path in HERE.glob("more/*")}
    return "\n".join(lines(verdict_of((HERE / f"{name}.conf").read_bytes(), main, lenient=lenient, **included), main)) + "\n"


def of_reference(name: str, lenient: bool) -> str:
    """The output for a file that is not ours to ship: what it quotes of the file masked, and a digest of the whole."""
    main = "/etc/pmta/config"
    found = "\n".join(lines(verdict_of((SHARED / REFERENCE[name]).read_bytes(), main, lenient=lenient), main)) + "\n"
    return masked(found) + f"unmasked: sha256 {hashlib.sha256(found.encode()).hexdigest()}\n"


def masked(text: str) -> str:
    """*text* without values of the file: names of sections, addresses, paths, limits."""
    text = re.sub(r"<(domain|source) [^>]*>", r"<\1 ...>", text)
    text = re.sub(r"\b\d+\.\d+\.\d+\.\d+(:\d+)?", "...", text)
    text = re.sub(r"(?<![\w>])/(?!etc/pmta/config\b)[\w./-]+", "...", text)
    text = re.sub(r"(?m)^(provider: .*?) by (?!\{default\}).*?: (?=max-)", r"\1 by ...: ", text)
    return re.sub(r"(?<=[:;] )([a-z-]+) \S+ (?=\((?:\d|default))", r"\1 ... ", text)


@MODES
@pytest.mark.parametrize("name", SAMPLES)
def test_samples(name: str, lenient: bool) -> None:
    assert of_sample(name, lenient) == expected(name, lenient).read_text(), CHANGED


@MODES
@pytest.mark.parametrize("name", REFERENCE)
def test_files_of_the_reference(name: str, lenient: bool) -> None:
    if not SHARED.is_dir():
        pytest.skip(f"the files of the reference are not at {SHARED} (ENGINE_SHARED names their place); tests/configs/*.conf stand for them")
    assert of_reference(name, lenient) == expected(f"reference/{name}", lenient).read_text(), CHANGED


# --- each risk alone ---

RELAYING = "always-allow-relaying yes\n"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"<source 0/0>\n{RELAYING}</source>\n", [("open relay", 3)]),
        (f"<source ::/0>\n{RELAYING}</source>\n", [("open relay", 3)]),
        (f"<source 0/0>\n{RELAYING}require-auth true\n</source>\n", [("login demanded", 4)]),
        (f"<source 0/0>\nrequire-auth yes\n</source>\n<source 8.8/16>\n{RELAYING}</source>\n", [("login demanded", 6), ("login demanded", 3)]),
        (f"<source 8.8/16>\n{RELAYING}require-auth no\n</source>\n", [("open relay", 3)]),
        (f"<source 2600::/32>\n{RELAYING}</source>\n", [("open relay", 3)]),
        (f"<source 8.8.8.8>\n{RELAYING}</source>\n<source 10/8>\n{RELAYING}</source>\n<source fd00::/8>\n{RELAYING}</source>\n", []),
        (f"<source x>\n{RELAYING}</source>\n", []),
        (f"<source x>\n{RELAYING}</source>\nsmtp-listener 192.0.2.10:25 source=x\n", [("open relay", 3)]),
        (f"<source x>\n{RELAYING}</source>\nsmtp-listener 127.0.0.1:25 source=x\n", []),
        (RELAYING, [("open relay", 2)]),
        ("relay-domain *\n", [("open relay", 2)]),
        ("relay-domain a.example, *\n", [("open relay", 2)]),
        ("relay-domain *.example\n", []),
        ("relay-address /@/\n", [("open relay", 2)]),
        ("relay-address /@example\\.org$/\n", []),
        ("<domain a.example>\nsmtp-hosts [127.0.0.1]\n</domain>\n", [("loop", 3)]),
        ("smtp-listener 0/0:2525\n<domain a.example>\nroute [127.0.0.1]:25\n</domain>\n", []),
        ("smtp-listener 192.0.2.10:26\n<domain *>\nsmtp-hosts x.example, [192.0.2.10]:26\n</domain>\n", [("loop", 4)]),
        ("smtp-listener 0/0:26\n<domain *>\nsmtp-hosts [192.0.2.10]\ndefault-smtp-port 26\n</domain>\n", [("loop", 4)]),
        ("smtp-listener 0/0:26\n<domain *>\nsmtp-hosts [203.0.113.1]:26\n</domain>\n", []),
        ("host-name us.example\n<domain *>\nsmtp-hosts us.example\n</domain>\n", [("loop", 4)]),
        ("host-name us.example\n<domain *>\nsmtp-hosts lookup-mx:us.example\n</domain>\n", []),
        ("<virtual-mta v>\n<domain *>\nsmtp-hosts [127.0.0.1]\n</domain>\n</virtual-mta>\n", [("loop", 4)]),
        ("smtp-source-host 198.51.100.1 a.example\n", [("address not on this machine", 2)]),
        ("smtp-source-host 192.0.2.0/24 a.example\n", []),
        ("smtp-source-ip 198.51.100.1\n", [("address not on this machine", 2)]),
        ("smtp-listener [::1]:25\nsmtp-listener [2001:db8::1]:25\n", [("address not on this machine", 3)]),
        ("<smtp-listener 198.51.100.1:25>\n</smtp-listener>\n", [("address not on this machine", 2)]),
        ("smtp-listener 0.0.0.0:25\nsmtp-listener [::]:26\n", []),
        ("domain-key s, *, missing\n", [("file missing", 2)]),
        ("domain-key s, *, open\n", [("readable secret", 2)]),
        ("domain-key s, *, {vault}:/v1/missing:KEY\n", []),
        ("<domain *>\nsmtp-client-certificate open secret\n</domain>\n", [("readable secret", 3)]),
        ("include-headers-from missing\n", [("file missing", 2)]),
        ("<source 10/8>\nretain-x-dkim-key yes\n</source>\n", [("secret sent out", 3)]),
        ("<source 10/8>\nretain-x-dkim-key no\nretain-x-schedule yes\n</source>\n", []),
        ("smtp-tls-ca-file open\n", []),
        ("<source 10/8>\ndefault-virtual-mta x\n</source>\n", [("unknown virtual MTA", 3)]),
        ("<virtual-mta-pool p>\nvirtual-mta x\n</virtual-mta-pool>\n", [("unknown virtual MTA", 3)]),
        (
            "<virtual-mta v>\n<domain *>\nmax-smtp-out 3\nretry-after 1h\n</domain>\n</virtual-mta>\n"
            "<domain gmail.com>\nmax-smtp-out 5\nretry-after 2h\n</domain>\n",
            [("scope against specificity", 4)],
        ),
    ],
)
def test_each_risk(text: str, found: list[tuple[str, int]]) -> None:
    assert [(risk.kind, risk.places[0].line) for risk in risks(text)] == found


def test_passwords_are_a_risk_only_where_others_can_read_them() -> None:
    text = "http-api-key 0123456789abcdef0123456789abcdef\n<smtp-user u>\npassword p\n</smtp-user>\n"
    for mode, lines_found in ((0o644, [2, 4]), (0o640, []), (0o600, [])):
        found = risks(text, Surroundings(ADDRESSES, {"/engine.conf": FileFact(mode)}))
        assert [place.line for risk in found for place in risk.places] == lines_found


def test_the_door_of_the_migration_guide_is_safe() -> None:
    guide = (HERE.parents[1] / "docs" / "migrate.md").read_text()
    door = next(block for block in guide.split("```")[1::2] if block.strip().startswith("smtp-listener"))
    verdict = verdict_of("log-file /l\n<virtual-mta mta1>\nsmtp-source-host 192.0.2.10 a.example\n</virtual-mta>\n" + door)
    assert (verdict.usable, verdict.problems, verdict.risks, verdict.not_yet) == (True, (), (), ())


DOOR = """smtp-listener 127.0.0.1:25{listener}
<source 0/0>
require-auth true
</source>
<source 10.0.5.20>
always-allow-relaying yes
{feed}
</source>
{more}
"""


@pytest.mark.parametrize(
    ("listener", "feed", "more", "lines"),
    [
        ("", "", "", [(7, 4), (4, 2)]),
        ("", "require-auth false", "", [(4, 2)]),
        (" source=mx", "", "<source mx>\nrequire-auth false\n</source>", [(7, 4)]),
        (" source=mx", "require-auth false", "<source mx>\nrequire-auth false\n</source>", []),
    ],
)
def test_what_merging_makes_of_require_auth_is_said_and_two_lines_undo_it(
    listener: str, feed: str, more: str, lines: list[tuple[int, ...]]
) -> None:
    found = [risk for risk in risks(DOOR.format(listener=listener, feed=feed, more=more)) if risk.kind == "login demanded"]
    assert [tuple(place.line for place in risk.places) for risk in found] == lines
    for risk in found:
        assert "<source 0/0> says require-auth" in risk.text and "`require-auth false`" in risk.advice and not risk.stops


def test_our_own_beginning_is_safe() -> None:
    loaded = build(read(str(HERE.parents[1] / "conf")))
    verdict = judge(loaded, around(loaded))
    assert (verdict.usable, verdict.problems, verdict.risks, verdict.not_yet) == (True, (), (), ())


def test_what_is_not_known_is_not_accused() -> None:
    text = "smtp-source-host 198.51.100.1 a.example\ndomain-key s, *, missing\nhttp-api-key 0123456789abcdef0123456789abcdef\n"
    assert risks(text, Surroundings()) == []


def test_only_what_hinders_a_start_makes_it_unusable() -> None:
    start = "log-file /l\n"
    assert verdict_of(start + "smtp-source-host 198.51.100.1 a.example\n").usable
    assert not verdict_of(start + "smtp-listener 198.51.100.1:25\n").usable
    assert not verdict_of("").usable
    assert verdict_of(start + "http-mgmt-port 8080\n").usable


def test_a_thousand_virtual_mtas_take_no_long_time() -> None:
    stanza = "<virtual-mta v{0}>\nsmtp-source-host 10.{1}.{2}.1 h.example\n<domain gmail.com>\nmax-smtp-out {3}\n</domain>\n</virtual-mta>\n"
    text = "".join(stanza.format(n, n // 250, n % 250, 1 + n % 3) for n in range(1000))
    verdict = verdict_of("log-file /l\n" + text)
    rows = [provider for provider in verdict.providers if "gmail.com" in provider.domains]
    assert [len(row.virtual_mtas) for row in rows] == [1, 334, 333, 333]
    assert len(verdict.risks) == 1000


if __name__ == "__main__":
    for lenient in (False, True):
        for name in SAMPLES:
            expected(name, lenient).write_text(of_sample(name, lenient))
        for name in REFERENCE:
            expected(f"reference/{name}", lenient).write_text(of_reference(name, lenient))
