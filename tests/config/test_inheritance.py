"""Which section says what: a table over domains, pools, virtual MTAs and sources, each case with the section of the reference that it follows.

Sections are those of the reference to PowerMTA: 1.2 repetition, 1.3 patterns and networks, 1.5 macros, 1.6 matching and inheritance (with the number
in its list), 2.x directives.
"""

from __future__ import annotations

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import Config, build, describe, from_text

SETUPS = {
    "specific": """
<domain exact.example.com>
max-smtp-out 9
</domain>
<domain *>
max-smtp-out 1
connect-timeout 11s
bounce-after 1h
</domain>
<domain [*.]example.com>
max-smtp-out 4
mx-connection-attempts 4
</domain>
<domain *.com>
max-smtp-out 2
connect-timeout 12s
</domain>
<domain *.deep.example.com>
max-smtp-out 6
</domain>
<domain *.example.com>
max-msg-per-connection 44
</domain>
<domain example.net>
max-smtp-out 7
</domain>
<domain *.example.net>
max-smtp-out 8
</domain>
<domain Bücher.example>
max-smtp-out 13
</domain>
<domain local>
max-smtp-out 14
</domain>
<domain {bounce}>
max-smtp-out 15
</domain>
<domain gmail.rollup>
max-smtp-out 16
smtp-hosts lookup-mx:gmail.com
</domain>
""",
    "macros": """
domain-macro com com, net
domain-macro tld $com, org
domain-macro isp aol, yahoo
domain-macro whole hotmail.com, [*.]outlook.com, *.live.com
domain-macro Mixed Case.example
domain-macro late $later
domain-macro later late.example
<domain aol.com>
max-smtp-out 1
</domain>
<domain $isp.$tld>
max-smtp-out 2
max-msg-per-connection 2
</domain>
<domain mail.$isp.$com>
max-smtp-out 3
</domain>
<domain $whole>
max-smtp-out 4
</domain>
<domain msn.com>
max-smtp-out 5
</domain>
<domain [*.]msn.$com>
max-smtp-out 6
max-msg-per-connection 6
</domain>
<domain *.wide.example>
max-smtp-out 7
</domain>
<domain *.$wide>
max-smtp-out 8
</domain>
domain-macro wide wide.example, a.wide.example
<domain $MIXED>
max-smtp-out 9
</domain>
<domain $late>
max-smtp-out 10
</domain>
<domain twice.$com>
max-smtp-out 11
</domain>
<domain $twice>
max-smtp-out 12
</domain>
domain-macro twice twice.com
relay-domain in.$isp.$com, $whole
""",
    "scopes": """
<virtual-mta-pool pool>
virtual-mta m1
virtual-mta m2
max-smtp-out 50
<domain *>
max-smtp-out 3
connect-timeout 13s
</domain>
<domain gmail.com>
max-msg-per-connection 33
</domain>
</virtual-mta-pool>
<virtual-mta-pool plain>
virtual-mta m2
virtual-mta m3
max-smtp-out 20
</virtual-mta-pool>
<domain *>
max-smtp-out 1
connect-timeout 11s
bounce-after 1h
retry-after 1m
</domain>
<domain gmail.com>
max-smtp-out 2
mx-connection-attempts 2
smtp-hosts relay.example
max-msg-per-connection 22
</domain>
<virtual-mta m1>
smtp-source-host 192.0.2.1 m1.example
max-smtp-out 5
<domain *>
max-smtp-out 4
bounce-after 4h
</domain>
<domain aol.com>
max-smtp-out 44
</domain>
<domain gmail.com>
smtp-hosts ""
</domain>
</virtual-mta>
<virtual-mta m2>
</virtual-mta>
<virtual-mta m3>
host-name m3.example
<domain [*.]gmail.com>
retry-after 3m
</domain>
</virtual-mta>
<virtual-mta m4>
</virtual-mta>
smtp-source-host 192.0.2.9 all.example
""",
    "literals": """
<domain *>
max-smtp-out 1
connect-timeout 11s
</domain>
<domain [0/0]>
max-smtp-out 2
default-smtp-port 2525
</domain>
<domain [10/8]>
max-smtp-out 3
</domain>
<domain [10.1.0/24]>
max-smtp-out 4
</domain>
<domain [10.1.0.7]>
max-smtp-out 5
</domain>
<domain [2001:db8::/32]>
max-smtp-out 6
</domain>
<domain [IPv6:2001:db8::1]>
max-smtp-out 7
</domain>
<virtual-mta m>
<domain [10/8]>
max-smtp-out 8
</domain>
</virtual-mta>
domain-macro net 172.16/12, 192.168/16
<domain [$net]>
max-smtp-out 9
</domain>
relay-domain [10.2/16]
""",
    "sources": """
smtp-listener 0/0:25
smtp-listener 192.0.2.1:587 source={submission}
<smtp-listener 192.0.2.1:465>
source {submission}
</smtp-listener>
<source 10.0.0.5>
max-message-hops 5
</source>
<source 0/0>
max-message-hops 1
max-message-size 1M
hide-message-source yes
</source>
<source 10/8>
max-message-hops 2
smtp-data-timeout 2m
</source>
<source 10.0.0/24>
max-message-hops 3
</source>
<source 10.0.0.0/8>
smtp-command-timeout 22s
</source>
<source {submission}>
max-message-hops 7
process-x-virtual-mta yes
</source>
<source {submission}>
max-message-size 7M
</source>
<source {pmta-auth}>
hide-message-source no
</source>
<source My-Feed.1>
max-message-hops 8
</source>
<source ::/0>
max-message-hops 60
</source>
<source 2001:db8::/32>
max-message-hops 61
</source>
<source 2001:db8::1>
smtp-service no
</source>
<source 173.194/16>
max-message-hops 9
</source>
""",
    "repeated": """
host-name a.example
total-max-smtp-in 5
host-name b.example
total-max-smtp-in 6
postmaster one@a.example
postmaster two@a.example
relay-domain one.example
relay-domain two.example, three.example
name-server 127.0.0.1
name-server 127.0.0.2
smtp-listener 127.0.0.1:25
smtp-listener 127.0.0.1:2525
smtp-listener 127.0.0.1:25
<domain *>
max-smtp-out 1
bounce-after 1h
</domain>
<domain a.example>
max-smtp-out 3
max-smtp-out 4
</domain>
<domain *>
max-smtp-out 2
</domain>
<virtual-mta m>
smtp-source-host 192.0.2.1 one.example
max-smtp-out 3
<domain *>
max-smtp-out 5
</domain>
</virtual-mta>
<virtual-mta n>
</virtual-mta>
<virtual-mta m>
smtp-source-host 192.0.2.2 two.example
max-smtp-out 4
<domain *>
max-smtp-out 6
</domain>
</virtual-mta>
<virtual-mta-pool p>
virtual-mta n
</virtual-mta-pool>
<virtual-mta-pool p>
virtual-mta m
</virtual-mta-pool>
<acct-file /a.csv>
records d
</acct-file>
<acct-file /a.csv>
records b
iso-times no
</acct-file>
<spool /s>
min-free-space 1G
</spool>
<spool /s>
deliver-only no
</spool>
""",
}
SETUPS["specificity first"] = "domain-precedence specific\n" + SETUPS["scopes"]


@cache
def setup(name: str) -> Config:
    base = "" if name == "repeated" else "<spool /s>\n</spool>\n"
    loaded = build(from_text(f"log-file /l\n{base}{SETUPS[name]}"))
    assert loaded.config is not None, describe(loaded.problems)
    return loaded.config


DOMAINS = [
    # section, setup, queue, setting, value
    ("1.3 *", "specific", "other.example/{default}", "max_smtp_out", 1),
    ("1.3 *", "specific", "com/{default}", "max_smtp_out", 1),
    ("1.3 *.name", "specific", "any.com/{default}", "max_smtp_out", 2),
    ("1.3 *.name", "specific", "a.b.c.com/{default}", "max_smtp_out", 2),
    ("1.3 *.name", "specific", "example.net/{default}", "max_smtp_out", 7),
    ("1.3 *.name", "specific", "a.example.net/{default}", "max_smtp_out", 8),
    ("1.3 *.name", "specific", "a.b.example.net/{default}", "max_smtp_out", 8),
    ("1.3 *.name", "specific", "notexample.net/{default}", "max_smtp_out", 1),
    ("1.3 [*.]name", "specific", "example.com/{default}", "max_smtp_out", 4),
    ("1.3 [*.]name", "specific", "a.example.com/{default}", "max_smtp_out", 4),
    ("1.3 [*.]name", "specific", "a.b.example.com/{default}", "max_smtp_out", 4),
    ("1.3 [*.]name", "specific", "anexample.com/{default}", "max_smtp_out", 2),
    ("1.3 name", "specific", "exact.example.com/{default}", "max_smtp_out", 9),
    ("1.3 name", "specific", "EXACT.Example.COM/{default}", "max_smtp_out", 9),
    ("1.3 name", "specific", "x.exact.example.com/{default}", "max_smtp_out", 4),
    ("1.1 UTF-8", "specific", "xn--bcher-kva.example/{default}", "max_smtp_out", 13),
    ("1.6.1 longer parent", "specific", "a.deep.example.com/{default}", "max_smtp_out", 6),
    ("1.6.1 longer parent", "specific", "deep.example.com/{default}", "max_smtp_out", 4),
    ("1.6.1 per directive", "specific", "exact.example.com/{default}", "mx_connection_attempts", 4),
    ("1.6.1 per directive", "specific", "exact.example.com/{default}", "connect_timeout_s", 12.0),
    ("1.6.1 per directive", "specific", "exact.example.com/{default}", "bounce_after_s", 3600.0),
    ("1.6.1 per directive", "specific", "exact.example.com/{default}", "max_msg_per_connection", 44),
    ("1.6.1 per directive", "specific", "example.com/{default}", "max_msg_per_connection", 0),
    ("1.6.1 per directive", "specific", "a.deep.example.com/{default}", "mx_connection_attempts", 4),
    ("1.6.1 per directive", "specific", "other.example/{default}", "connect_timeout_s", 11.0),
    ("1.6.1 per directive", "specific", "other.example/{default}", "mx_connection_attempts", 10),
    ("1.6.8 reserved", "specific", "local/{default}", "max_smtp_out", 14),
    ("1.6.8 reserved", "specific", "{bounce}/{default}", "max_smtp_out", 15),
    ("1.6.8 reserved", "specific", "{sparkpost}/{default}", "max_smtp_out", 1),
    ("1.6.7 rollup", "specific", "gmail.rollup/{default}", "max_smtp_out", 16),
    ("1.6.7 rollup", "specific", "gmail.rollup/{default}", "bounce_after_s", 3600.0),
    ("1.6.7 rollup", "specific", "gmail.com/{default}", "max_smtp_out", 2),
    ("1.5 cross product", "macros", "aol.net/{default}", "max_smtp_out", 2),
    ("1.5 cross product", "macros", "yahoo.org/{default}", "max_smtp_out", 2),
    ("1.5 cross product", "macros", "yahoo.de/{default}", "max_smtp_out", 20),
    ("1.5 cross product", "macros", "mail.yahoo.net/{default}", "max_smtp_out", 3),
    ("1.5 cross product", "macros", "mail.yahoo.org/{default}", "max_smtp_out", 20),
    ("1.5 cross product", "macros", "a.yahoo.net/{default}", "max_smtp_out", 20),
    ("1.5 nesting", "macros", "aol.org/{default}", "max_smtp_out", 2),
    ("1.5 nesting", "macros", "late.example/{default}", "max_smtp_out", 10),
    ("1.5 whole patterns", "macros", "hotmail.com/{default}", "max_smtp_out", 4),
    ("1.5 whole patterns", "macros", "a.hotmail.com/{default}", "max_smtp_out", 20),
    ("1.5 whole patterns", "macros", "outlook.com/{default}", "max_smtp_out", 4),
    ("1.5 whole patterns", "macros", "a.outlook.com/{default}", "max_smtp_out", 4),
    ("1.5 whole patterns", "macros", "a.live.com/{default}", "max_smtp_out", 4),
    ("1.5 whole patterns", "macros", "live.com/{default}", "max_smtp_out", 20),
    ("1.2 case", "macros", "case.example/{default}", "max_smtp_out", 9),
    ("1.6.2 explicit", "macros", "aol.com/{default}", "max_smtp_out", 1),
    ("1.6.2 explicit", "macros", "aol.com/{default}", "max_msg_per_connection", 2),
    ("1.6.2 explicit", "macros", "msn.com/{default}", "max_smtp_out", 5),
    ("1.6.2 explicit", "macros", "msn.com/{default}", "max_msg_per_connection", 6),
    ("1.6.2 explicit", "macros", "a.msn.com/{default}", "max_smtp_out", 6),
    ("1.6.2 explicit", "macros", "msn.net/{default}", "max_smtp_out", 6),
    ("1.6.2 explicit", "macros", "x.wide.example/{default}", "max_smtp_out", 7),
    ("1.6.2 longer parent", "macros", "x.a.wide.example/{default}", "max_smtp_out", 8),
    ("1.2 later wins", "macros", "twice.com/{default}", "max_smtp_out", 12),
    ("1.2 later wins", "macros", "twice.net/{default}", "max_smtp_out", 11),
    ("1.6.3 global", "scopes", "aol.com/{default}", "max_smtp_out", 1),
    ("1.6.3 global", "scopes", "gmail.com/{default}", "max_smtp_out", 2),
    ("1.6.3 global", "scopes", "gmail.com/m4", "max_smtp_out", 2),
    ("1.6.3 global", "scopes", "gmail.com/nobody", "max_smtp_out", 2),
    ("1.6.3 global", "scopes", "gmail.com/m3", "max_smtp_out", 2),
    ("1.6.3 pool", "scopes", "aol.com/m2", "max_smtp_out", 3),
    ("1.6.3 pool", "scopes", "gmail.com/m2", "max_smtp_out", 3),
    ("1.6.3 pool", "scopes", "gmail.com/m2", "connect_timeout_s", 13.0),
    ("1.6.3 pool", "scopes", "gmail.com/m2", "max_msg_per_connection", 33),
    ("1.6.3 pool", "scopes", "gmail.com/m1", "max_msg_per_connection", 33),
    ("1.6.3 pool", "scopes", "gmail.com/m3", "max_msg_per_connection", 22),
    ("1.6.3 pool", "scopes", "aol.com/m3", "connect_timeout_s", 11.0),
    ("1.6.3 virtual MTA", "scopes", "other.example/m1", "max_smtp_out", 4),
    ("1.6.3 virtual MTA", "scopes", "gmail.com/m1", "max_smtp_out", 4),
    ("1.6.3 virtual MTA", "scopes", "aol.com/m1", "max_smtp_out", 44),
    ("1.6.3 virtual MTA", "scopes", "aol.com/m1", "bounce_after_s", 14400.0),
    ("1.6.3 virtual MTA", "scopes", "gmail.com/m1", "connect_timeout_s", 13.0),
    ("1.6.3 virtual MTA", "scopes", "gmail.com/m1", "mx_connection_attempts", 2),
    ("1.6.3 virtual MTA", "scopes", "gmail.com/m1", "retry_after", (60.0,)),
    ("1.6.3 virtual MTA", "scopes", "gmail.com/m3", "retry_after", (180.0,)),
    ("1.6.3 virtual MTA", "scopes", "mail.gmail.com/m3", "retry_after", (180.0,)),
    ("1.6.3 virtual MTA", "scopes", "aol.com/m3", "retry_after", (60.0,)),
    ('1.2 "" clears', "scopes", "gmail.com/m1", "smtp_hosts", ()),
    ("1.6.3 open point", "specificity first", "gmail.com/m1", "max_smtp_out", 2),
    ("1.6.3 open point", "specificity first", "gmail.com/m2", "max_smtp_out", 2),
    ("1.6.3 open point", "specificity first", "gmail.com/m2", "max_msg_per_connection", 33),
    ("1.6.3 open point", "specificity first", "aol.com/m1", "max_smtp_out", 44),
    ("1.6.3 open point", "specificity first", "aol.com/m2", "max_smtp_out", 3),
    ("1.6.3 open point", "specificity first", "other.example/m1", "max_smtp_out", 4),
    ("1.6.3 open point", "specificity first", "other.example/m1", "connect_timeout_s", 13.0),
    ("1.6.3 open point", "specificity first", "gmail.com/m1", "bounce_after_s", 14400.0),
    ("1.3 [ip/mask]", "literals", "[192.0.2.1]/{default}", "max_smtp_out", 2),
    ("1.3 [ip/mask]", "literals", "[10.9.9.9]/{default}", "max_smtp_out", 3),
    ("1.3 [ip/mask]", "literals", "[10.1.0.200]/{default}", "max_smtp_out", 4),
    ("1.3 [ip/mask]", "literals", "[10.1.0.7]/{default}", "max_smtp_out", 5),
    ("1.3 [ip/mask]", "literals", "[10.1.0.7]/{default}", "default_smtp_port", 2525),
    ("1.3 [ip/mask]", "literals", "[10.1.0.7]/{default}", "connect_timeout_s", 11.0),
    ("1.3 [ip/mask]", "literals", "[ipv6:2001:db8::2]/{default}", "max_smtp_out", 6),
    ("1.3 [ip/mask]", "literals", "[IPv6:2001:DB8:0::1]/{default}", "max_smtp_out", 7),
    ("1.3 [ip/mask]", "literals", "[ipv6:2001:db9::1]/{default}", "max_smtp_out", 1),
    ("1.3 [ip/mask]", "literals", "[ipv6:::ffff:10.1.0.7]/{default}", "max_smtp_out", 5),
    ("1.3 [ip/mask]", "literals", "10.1.0.7/{default}", "max_smtp_out", 1),
    ("1.3 [ip/mask]", "literals", "example.com/{default}", "default_smtp_port", 25),
    ("1.5 in [ip/mask]", "literals", "[172.31.0.1]/{default}", "max_smtp_out", 9),
    ("1.5 in [ip/mask]", "literals", "[192.168.9.9]/{default}", "max_smtp_out", 9),
    ("1.6.3 [ip/mask]", "literals", "[10.1.0.7]/m", "max_smtp_out", 8),
    ("1.6.3 [ip/mask]", "literals", "[192.0.2.1]/m", "max_smtp_out", 2),
    ("1.2 repetition", "repeated", "b.example/{default}", "max_smtp_out", 2),
    ("1.2 repetition", "repeated", "b.example/{default}", "bounce_after_s", 3600.0),
    ("1.2 repetition", "repeated", "a.example/{default}", "max_smtp_out", 4),
    ("1.2 repetition", "repeated", "a.example/m", "max_smtp_out", 6),
    ("1.2 repetition", "repeated", "a.example/n", "max_smtp_out", 4),
]
SOURCES = [
    # section, client, its listener's source, setting, value
    ("1.6.5 network", "192.0.2.7", "", "max_message_hops", 1),
    ("1.6.5 network", "10.200.0.1", "", "max_message_hops", 2),
    ("1.6.5 network", "10.0.0.9", "", "max_message_hops", 3),
    ("1.6.5 network", "10.0.0.5", "", "max_message_hops", 5),
    ("1.6.5 network", "10.0.0.5", "", "smtp_data_timeout_s", 120.0),
    ("1.6.5 network", "10.0.0.5", "", "max_message_size_bytes", 1 << 20),
    ("1.6.5 network", "192.0.2.7", "", "smtp_data_timeout_s", 600.0),
    ("1.2 repetition", "10.0.0.5", "", "smtp_command_timeout_s", 22.0),
    ("1.3 abbreviated CIDR", "173.194.255.1", "", "max_message_hops", 9),
    ("1.3 abbreviated CIDR", "173.195.0.1", "", "max_message_hops", 1),
    ("1.3 IPv6", "2001:db8::2", "", "max_message_hops", 61),
    ("1.3 IPv6", "2001:db8::2", "", "smtp_service", True),
    ("1.3 IPv6", "2001:db8::1", "", "smtp_service", False),
    ("1.3 IPv6", "2001:db9::1", "", "max_message_hops", 60),
    ("1.3 IPv6", "2001:db9::1", "", "max_message_size_bytes", 0),
    ("1.3 IPv6", "::ffff:10.0.0.5", "", "max_message_hops", 5),
    ("1.6.5 named", "10.0.0.5", "{submission}", "max_message_hops", 7),
    ("1.6.5 named", "10.0.0.5", "{submission}", "process_x_virtual_mta", True),
    ("1.6.5 named", "10.0.0.5", "", "process_x_virtual_mta", False),
    ("1.6.5 named", "10.0.0.5", "{submission}", "smtp_data_timeout_s", 120.0),
    ("1.6.5 named, repeated", "10.0.0.5", "{submission}", "max_message_size_bytes", 7 << 20),
    ("1.6.5 braces", "10.0.0.5", "{pmta-auth}", "hide_message_source", False),
    ("1.6.5 braces", "10.0.0.5", "", "hide_message_source", True),
    ("1.6.5 no braces", "10.0.0.5", "My-Feed.1", "max_message_hops", 8),
    ("1.2 case of names", "10.0.0.5", "my-feed.1", "max_message_hops", 5),
]
VALUES = [
    # section, setup, what, value
    ("1.2 accumulate", "repeated", lambda c: c.server.host_name, ("a.example", "b.example")),
    ("1.2 accumulate", "repeated", lambda c: c.server.postmaster, ("one@a.example", "two@a.example")),
    ("1.2 accumulate", "repeated", lambda c: [str(p) for p in c.server.relay_domain], ["one.example", "two.example", "three.example"]),
    ("1.2 accumulate", "repeated", lambda c: [ip for ip, _ in c.server.name_server], ["127.0.0.1", "127.0.0.2"]),
    ("1.2 accumulate", "repeated", lambda c: [item.port for item in c.server.smtp_listener], [25, 2525]),
    ("1.2 accumulate", "repeated", lambda c: [h.host_name for h in c.virtual_mtas["m"].source_hosts], ["one.example", "two.example"]),
    ("1.2 accumulate", "repeated", lambda c: c.members("p"), ("n", "m")),
    ("1.2 later wins", "repeated", lambda c: c.server.total_max_smtp_in, 6),
    ("1.2 later wins", "repeated", lambda c: c.virtual_mtas["m"].max_smtp_out, 4),
    ("1.2 records", "repeated", lambda c: [(a.records, a.iso_times) for a in c.acct_files], [(("d", "b"), False)]),
    ("1.2 repetition", "repeated", lambda c: [s.min_free_space_bytes for s in c.spools], [1 << 30]),
    ("1.6.4 pools before members", "scopes", lambda c: c.members("pool"), ("m1", "m2")),
    ("1.6.4 one name space", "scopes", lambda c: c.members("m1"), ("m1",)),
    ("1.6.4 one name space", "scopes", lambda c: c.members("nobody"), ()),
    ("2.11 max-smtp-out", "scopes", lambda c: c.virtual_mtas["m1"].max_smtp_out, 5),
    ("2.11 max-smtp-out", "scopes", lambda c: c.virtual_mtas["m2"].max_smtp_out, 20),
    ("2.11 max-smtp-out", "scopes", lambda c: c.virtual_mtas["m3"].max_smtp_out, 20),
    ("2.11 max-smtp-out", "scopes", lambda c: c.virtual_mtas["m4"].max_smtp_out, 0),
    ("2.11 smtp-source-host", "scopes", lambda c: c.virtual_mtas["m1"].source_hosts[0].host_name, "m1.example"),
    ("2.11 smtp-source-host", "scopes", lambda c: c.virtual_mtas["m2"].source_hosts[0].host_name, "all.example"),
    ("2.1 smtp-source-host", "scopes", lambda c: c.virtual_mtas["{default}"].source_hosts[0].host_name, "all.example"),
    ("2.11 host-name", "scopes", lambda c: c.virtual_mtas["m3"].host_name, "m3.example"),
    ("1.6.5 source=NAME", "sources", lambda c: [item.source for item in c.server.smtp_listener], ["", "{submission}", "{submission}"]),
    ("1.5 in relay-domain", "macros", lambda c: [d in c.relay_domains for d in ("in.aol.net", "in.aol.org", "aol.com")], [True, False, False]),
    ("1.5 in relay-domain", "macros", lambda c: [d in c.relay_domains for d in ("hotmail.com", "a.outlook.com", "live.com")], [True, True, False]),
    ("1.3 in relay-domain", "literals", lambda c: [d in c.relay_domains for d in ("[10.2.3.4]", "[10.3.3.4]", "10.2.3.4")], [True, False, False]),
]


@pytest.mark.parametrize(("section", "name", "queue", "setting", "want"), DOMAINS, ids=[f"{c[0]}-{c[1]}-{c[2]}-{c[3]}" for c in DOMAINS])
def test_domains(section: str, name: str, queue: str, setting: str, want: object) -> None:
    domain, virtual_mta = queue.split("/")
    assert getattr(setup(name).domain(domain, virtual_mta), setting) == want, section


@pytest.mark.parametrize(("section", "client", "source", "setting", "want"), SOURCES, ids=[f"{c[0]}-{c[1]}-{c[2]}-{c[3]}" for c in SOURCES])
def test_sources(section: str, client: str, source: str, setting: str, want: object) -> None:
    assert getattr(setup("sources").client(client, source), setting) == want, section


@pytest.mark.parametrize(("section", "name", "what", "want"), VALUES, ids=[f"{number}-{c[0]}" for number, c in enumerate(VALUES)])
def test_values(section: str, name: str, what, want: object) -> None:
    assert what(setup(name)) == want, section


def test_every_place_is_that_of_the_value() -> None:
    """What `show settings` prints: the line of each value, of the entry that won."""
    for _, name, queue, setting, want in DOMAINS:
        config, (domain, virtual_mta) = setup(name), queue.split("/")
        place = config.domain_place(domain, virtual_mta, setting)
        winners = [entry for entry in config.domain_entries(domain, virtual_mta) if setting in entry.values]
        assert (place is None) == (not winners)
        if place is not None:
            assert (winners[-1].values[setting], winners[-1].places[setting]) == (want, place)


# --- the rule itself, on any sections ---

_MACROS = "domain-macro m1 a.b.example, *.example\ndomain-macro m2 [*.]b.example\n"
_MEANS = {"$m1": ("a.b.example", "*.example"), "$m2": ("[*.]b.example",)}
_PATTERNS = ("*", "*.example", "[*.]example", "*.b.example", "[*.]b.example", "b.example", "a.b.example", "example", "$m1", "$m2")
_SECTIONS = st.lists(st.tuples(st.sampled_from(("global", "pool", "virtual MTA")), st.sampled_from(_PATTERNS)), min_size=1, max_size=8)


def strength(pattern: str, domain: str) -> tuple[int, int] | None:
    """How specific *pattern* is for *domain* by 1.6.1: kind, then labels of the parent; None if it does not match."""
    if pattern == "*":
        return 0, 0
    name = pattern.removeprefix("[*.]").removeprefix("*.")
    below, tree = domain.endswith(f".{name}"), pattern.startswith("[*.]")
    if pattern == name or (tree and domain == name):
        return (3 if pattern == name else 2, 0) if domain == name else None
    return (1, name.count(".")) if below else None


def naive(sections: list[tuple[str, str]], domain: str, precedence: str) -> int | None:
    """The number of the section that wins, found by trying all of them."""
    best: tuple[object, ...] = ()
    for number, (scope, written) in enumerate(sections):
        for pattern in _MEANS.get(written, (written,)):
            how = strength(pattern, domain)
            if how is not None:
                rank = ("global", "pool", "virtual MTA").index(scope)
                key = (rank, how) if precedence == "scope" else (how, rank)
                best = max(best, (*key, written[0] != "$", number))
    return best[-1] if best else None  # type: ignore[return-value]


@settings(deadline=None)
@given(
    _SECTIONS, st.sampled_from(("example", "b.example", "a.b.example", "x.a.b.example", "c.example", "other")), st.sampled_from(("scope", "specific"))
)
def test_the_section_that_wins_is_found_by_trying_all(sections: list[tuple[str, str]], domain: str, precedence: str) -> None:
    inside: dict[str, str] = {"global": "", "pool": "", "virtual MTA": ""}
    for number, (scope, pattern) in enumerate(sections):
        inside[scope] += f"<domain {pattern}>\nmax-smtp-out {number + 100}\n</domain>\n"
    text = (
        f"log-file /l\ndomain-precedence {precedence}\n{_MACROS}{inside['global']}"
        f"<virtual-mta-pool p>\nvirtual-mta m\n{inside['pool']}</virtual-mta-pool>\n<virtual-mta m>\n{inside['virtual MTA']}</virtual-mta>\n"
    )
    loaded = build(from_text(text))
    assert loaded.config is not None, describe(loaded.problems)
    won = naive(sections, domain, precedence)
    assert loaded.config.domain(domain, "m").max_smtp_out == (20 if won is None else won + 100)


def test_the_table_is_as_large_as_it_should_be() -> None:
    assert len(DOMAINS) + len(SOURCES) + len(VALUES) >= 120
