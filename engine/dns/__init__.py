"""Names to MX hosts and addresses.  Imports config.

`resolver` asks and remembers, over `exchange` (sockets), `cache` and `nameservers` (whom to ask); `reverse` asks it for the names of an address.
Pure: `codec` (wire format), `answer` (what a response says about a question), `targets` (RFC 5321 section 5.1: which hosts to try, in which order).
"""

from engine.dns.answer import Found, NoData, NxDomain, TemporaryFailure
from engine.dns.nameservers import system_servers
from engine.dns.resolver import Resolver
from engine.dns.reverse import Reverse, reverse
from engine.dns.targets import NoTargets, Target, Targets

__all__ = ["Found", "NoData", "NoTargets", "NxDomain", "Resolver", "Reverse", "Target", "Targets", "TemporaryFailure", "reverse", "system_servers"]
