"""Who may send to whom: whatever the address, a stranger reaches only what a rule names, as routing and the next host will read it."""

from __future__ import annotations

import ipaddress
import re

from engine.config import build, from_text
from engine.dns.codec import BadName, encode_name
from engine.mail.address import canonical_domain, split
from engine.mail.reply import Reply
from engine.policy.access import Access, Admitted, Rule, Target
from engine.smtp.command import read_rcpt, write_rcpt

RULES = r"""
host-name mx.engine.example
host-name alias.engine.example
postmaster ops@corp.example
relay-domain relay.example
relay-domain *.wild.example
relay-domain bücher.example
relay-domain [10.0.0.0/8]
relay-address only@partner.example
relay-address /@foo(bar)?\.example$/
log-file /tmp/log
<spool /tmp/spool>
</spool>
"""
OURS = {"mx.engine.example", "alias.engine.example"}
LOCAL_IP = "192.0.2.25"
HOST = re.compile(r"(?:[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
ROUTING = frozenset("%!@:,;<> \t\r\n\0")


def _access() -> Access:
    loaded = build(from_text(RULES))
    assert loaded.config is not None, loaded.problems
    return Access(loaded.config)


ACCESS = _access()


def access(data: bytes) -> object:
    """*data* as a recipient, straight to the rules (any text) and through the door that SMTP's addresses come in by."""
    seen = [_judge(data.decode("utf-8", "surrogateescape")), _judge(data.decode("latin-1"))]
    read = read_rcpt(b"TO:<" + data + b">")
    if not isinstance(read, bytes):
        address = read[0]
        stranger, client = _judge(address)
        for verdict in (stranger, client):
            for target in () if isinstance(verdict, Reply) else verdict.targets:
                assert write_rcpt(target.address), "what is admitted can be delivered"
        seen.append((stranger, client))
    return seen


def _judge(address: str) -> tuple[Admitted | Reply, Admitted | Reply]:
    stranger, client = ACCESS.admit(address, False, LOCAL_IP), ACCESS.admit(address, True, LOCAL_IP)
    if isinstance(stranger, Admitted):
        assert stranger.rule is not Rule.CLIENT and stranger.targets
        for target in stranger.targets:
            _stranger(address, stranger.rule, target)
        assert isinstance(client, Admitted), "a client may do all that a stranger may"
    elif stranger.code // 100 != 5:
        raise AssertionError("refused for good, or not at all")
    if isinstance(client, Admitted) and client.rule is Rule.CLIENT:
        (target,) = client.targets
        assert target.domain not in OURS, "our own names are ours for everybody"
        assert target.domain == split(target.address)[1] == split(address)[1], "routed by what stands behind the last @"
        _routable(target.domain)
    return stranger, client


def _stranger(address: str, rule: Rule, target: Target) -> None:
    """By rules of our own, written from the configuration above and not from its code."""
    local, domain = target.address.rpartition("@")[::2]
    assert domain == target.domain == canonical_domain(domain), "the queue is the one that the address names"
    if rule is Rule.LOCAL:
        assert target.address == "ops@corp.example" and target.orcpt.startswith("rfc822;")
        asked = address.rpartition("@")[0] or address
        assert re.sub(r"\\(.)", r"\1", asked).strip('"').lower() in ("postmaster", "abuse"), "only for postmaster and abuse"
        return
    assert domain == canonical_domain(address.rpartition("@")[2]), "no other domain than was given"
    assert not ROUTING & set(local.strip('"').replace("\\", "")), "nothing that a later host could take for routing"
    named = domain == "relay.example" or domain.endswith(".wild.example") or domain == canonical_domain("bücher.example") or _in_net(domain)
    addressed = target.address.lower() == "only@partner.example" or domain in ("foo.example", "foobar.example")
    assert named if rule is Rule.RELAY_DOMAIN else addressed, f"{rule} never named {domain}"
    _routable(domain)


def _in_net(domain: str) -> bool:
    if not (domain.startswith("[") and domain.endswith("]")):
        return False
    try:
        return ipaddress.ip_address(domain[1:-1]) in ipaddress.ip_network("10.0.0.0/8")
    except ValueError:
        return False


def _routable(domain: str) -> None:
    """DNS is asked for this very name and no other."""
    if domain.startswith("["):
        ipaddress.ip_address(domain[1:-1].removeprefix("ipv6:"))
        return
    assert HOST.fullmatch(domain), domain
    try:
        encode_name(domain)
    except BadName as error:
        raise AssertionError(f"admitted, but no name: {domain}") from error
