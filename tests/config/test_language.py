"""The language: comments, quoting, tags, includes, macros, and what each mistake is answered with."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from engine.config import Snapshot, build, describe, from_text, read
from engine.config.lexer import Arguments, ValueProblem, lex
from engine.config.problem import MAX_PROBLEMS

BASE = "log-file /var/log/engine/log\n<spool /var/spool/engine>\n</spool>\n"


def problems(text: str | bytes, **files: str | bytes) -> list[str]:
    """What is said of BASE and *text* (whose first line is line 4), without the file's name."""
    whole = BASE.encode() + text if isinstance(text, bytes) else BASE + text
    return [str(p).removeprefix("/engine.conf:") for p in build(from_text(whole, **files)).problems]


def config(text: str, **files: str | bytes):
    loaded = build(from_text(BASE + text, **files))
    assert loaded.config is not None, describe(loaded.problems)
    return loaded.config


def test_nothing_to_say_of_a_good_file() -> None:
    assert problems("host-name a.example\n") == []


@pytest.mark.parametrize(
    ("line", "word", "argument"),
    [
        ("max-smtp-out 20", "max-smtp-out", "20"),
        ("  Pickup   /a  /b  ", "pickup", "/a  /b"),
        ("max-smtp-out\t20 # comment", "max-smtp-out", "20"),
        ("smtp-tls-allow-SSLv3 no", "smtp-tls-allow-sslv3", "no"),
        ('x "a # b" # c', "x", '"a # b"'),
        ('x a"b # c"', "x", 'a"b'),  # a quote inside a word quotes nothing
        ('x "a # b', "x", '"a'),  # and one that does not end protects nothing
        ('x "a\\" # b"', "x", '"a\\" # b"'),
        ("x 1\r", "x", "1"),
        ("\ufeffx 1", "x", "1"),
        ("/re/ category", "/", "/re/ category"),
        ("reply /a#b/ mode=backoff", "reply", "/a"),  # no escape: the rest of the line is lost, as in PowerMTA
        ("x", "x", ""),
    ],
)
def test_statements(line: str, word: str, argument: str) -> None:
    (only,) = lex("f", line)
    assert (only.kind, only.word, only.argument) == ("statement", word, argument)


@pytest.mark.parametrize(
    ("line", "kind", "tag", "argument"),
    [
        ("<source 0/0>  # all", "open", "source", "0/0"),
        ("  < Domain\texample.com >", "open", "domain", "example.com"),
        ("<mx-rollup-list >", "open", "mx-rollup-list", ""),
        ("</domain-key-list name>", "close", "domain-key-list", "name"),
        ("<acct-file |/bin/etl --logfile a.log>", "open", "acct-file", "|/bin/etl --logfile a.log"),
        ("<spool /var/spool/pmta>", "open", "spool", "/var/spool/pmta"),
    ],
)
def test_tags(line: str, kind: str, tag: str, argument: str) -> None:
    (only,) = lex("f", line)
    assert (only.kind, only.word, only.argument) == (kind, tag, argument)
    if argument:
        assert line[only.argument_column - 1 :].startswith(argument)


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("a, b,c", ["a", "b", "c"]),
        ('""', []),
        ('"a b", c', ["a b", "c"]),
        ('"a, b"', ["a", "b"]),
        ('"a, b", c', ["a, b", "c"]),
        ('"a b"', ["a b"]),
        (r'"a\"b\\c\d"', [r'a"b\c\d']),
    ],
)
def test_lists(text: str, want: list[str]) -> None:
    assert [item for item, _, _ in Arguments(text).list()] == want


@pytest.mark.parametrize("text", ["", "a,", "a,,b", "a b", '"a', ","])
def test_bad_lists(text: str) -> None:
    with pytest.raises(ValueProblem):
        Arguments(text).list()


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("max-smpt-out 3\n", "4:1: error: unknown directive 'max-smpt-out'; did you mean 'max-smtp-out'?"),
        ("max-smtp-out 3\n", "4:1: error: max-smtp-out does not belong at the top level, but in <domain>, <virtual-mta>, <virtual-mta-pool>"),
        ("<domain *>\n  retry-afer 1m\n</domain>\n", "5:3: error: unknown directive 'retry-afer' in <domain>; did you mean 'retry-after'?"),
        ("<domain *>\n  retry-after 10\n</domain>\n", "5:15: error: retry-after: '10' is not a time such as 30s, 10m, 4d12h: a unit is missing"),
        ("<domain *>\n  retry-after 10m, 5x\n</domain>\n", "5:20: error: retry-after: '5x' is not a time such as 30s, 10m, 4d12h"),
        ("<domian *>\n</domian>\n", "4:1: error: unknown stanza <domian>; did you mean 'domain'?"),
        ("domain *\n", "4:1: error: domain is a stanza: <domain ...>"),
        ("source 0/0\n", "4:1: error: source is a stanza: <source ...>"),
        ("<domain a b c>\n</domain>\n", "4:11: error: <domain>: unexpected 'b c' after the value"),
        ("<domain>\n</domain>\n", "4:2: error: <domain>: argument missing"),
        ("<spool /x\n", "4:1: error: a stanza's tag is <tag argument> or </tag>, alone on its line"),
        ("<domain *>\n", "4:1: error: <domain> is not closed: </domain> is missing"),
        ("</domain>\n", "4:1: error: </domain> closes nothing"),
        ("<domain *>\n</source>\n</domain>\n", "5:1: error: </source> closes nothing: <domain> is open"),
        (
            "<source 0/0>\n<domain *>\n</domain>\n</source>\n",
            "5:1: error: <domain> does not belong into <source>, but at the top level or in <virtual-mta> or in <virtual-mta-pool>",
        ),
        ("<virtual-mta a>\n<domain *>\n</virtual-mta>\n", "5:1: error: <domain> is not closed before </virtual-mta> in line 6"),
        ("<source 0/0>\nsmtp-service maybe\n</source>\n", "5:14: error: smtp-service: 'maybe': neither yes, true, no nor false"),
        ("<source 0/0>\nsmtp-service yes no\n</source>\n", "5:18: error: smtp-service: unexpected 'no' after the value"),
        ("total-max-smtp-in 0\n", "4:19: error: total-max-smtp-in: '0' is not between 1 and 2147483647"),
        ("http-access #YOUR_IP admin\n", "4:12: error: http-access: argument missing; CIDR and level is expected; the # begins a comment"),
        ("<smtp-user u>\npassword ## SECRET ##\n</smtp-user>\n", "5:9: error: password: argument missing; text is expected; the # begins a comment"),
        ("smtp-source-host a.example 192.0.2.1\n", "4:18: error: smtp-source-host: the address comes first, then the host name"),
        ("<acct-file /a>\nrecords all\n</acct-file>\n", "5:9: error: records: 'all': one of d, b, t, tq, r, f, rb, rs is expected"),
        (
            "<acct-file /a>\nrecord-fields d rcpt, dsnStatsu\n</acct-file>\n",
            "5:23: error: record-fields d: no column 'dsnStatsu'; did you mean 'dsnStatus'?",
        ),
        ("relay-address /a(/\n", "4:17: error: relay-address: in the pattern: a ( that nothing closes"),
        ("relay-address /(a)\\1/\n", "4:19: error: relay-address: in the pattern: back references are not supported"),
        ("relay-address /a\n", "4:15: error: relay-address: the pattern does not end with /"),
        ("<domain a..b>\n</domain>\n", "4:9: error: <domain a..b>: not a domain name: the label ''"),
        ("<domain x*>\n</domain>\n", "4:9: error: <domain x*>: a * stands only alone, or as *. or [*.] before a name"),
        ("<source 10.0.0.300>\n</source>\n", "4:9: error: <source 10.0.0.300>: not an IP address or CIDR"),
        (
            "<source 0/0>\ndefault-virtual-mta mta1\n</source>\n<virtual-mta mta2>\n</virtual-mta>\n",
            "5:1: error: default-virtual-mta: neither a virtual MTA nor a pool is named 'mta1'; did you mean 'mta2'?",
        ),
        (
            "<virtual-mta a>\n</virtual-mta>\n<virtual-mta-pool a>\nvirtual-mta a\n</virtual-mta-pool>\n",
            "6:1: error: the pool 'a' has the name of the virtual MTA in line 4 of /engine.conf",
        ),
        ("<virtual-mta-pool p>\nvirtual-mta nobody\n</virtual-mta-pool>\n", "5:1: error: the virtual MTA 'nobody' is not defined"),
        ("<virtual-mta-pool p>\n</virtual-mta-pool>\n", "4:1: error: the pool 'p' has no virtual-mta"),
        ("smtp-listener 0/0:25 source=nobody\n", "4:1: error: no <source nobody> is defined"),
        ("<source 0/0>\nalways-allow-relaying yes\n</source>\n", "5:1: warning: an open relay: <source 0/0> is everybody"),
        ("<source ::/0>\nalways-allow-relaying yes\n</source>\n", "5:1: warning: an open relay: <source ::/0> is everybody"),
        (
            "sync-msg-create false\n",
            "4:1: warning: sync-msg-create is accepted and changes nothing.  Every message is on disk before its 250, whatever this says.",
        ),
        (
            "<domain a.b>\nsmtp-hosts [10.0.0.1]\nroute x.y:26\n</domain>\n",
            "6:1: warning: route and smtp-hosts are one setting: this replaces line 5",
        ),
        ("a\x00b\n", "4:2: error: the control character '\\x00' is not allowed here"),
        ("<virtual-mta a>\n</virtual-mta b>\n", "5:1: warning: </virtual-mta b> closes <virtual-mta a>"),
        ('domain-macro a ""\n', "4:18: error: domain-macro: a macro of nothing"),
        ('<domain *>\nretry-after "10m, 5x"\n</domain>\n', "5:19: error: retry-after: '5x' is not a time such as 30s, 10m, 4d12h"),
        ("include\n", "4:1: error: include: the name of a file is missing"),
        ("include nowhere.conf\n", "4:1: error: cannot read /nowhere.conf: no such file"),
        ("include x/*.conf\n", "4:1: warning: include: no file matches /x/*.conf"),
        ("domain-macro\n", "4:13: error: domain-macro: argument missing; name, values is expected"),
        ("domain-macro a x,\n", "4:18: error: domain-macro: argument missing"),
        ("domain-macro a $b\ndomain-macro b $a\n", "4:1: error: domain-macro a: a loop: a -> b -> a"),
        ("domain-macro a x.$nope\n", "4:1: error: domain-macro a: no macro $nope"),
        ("relay-domain $nope\n", "4:1: error: relay-domain $nope: no macro $nope"),
    ],
)
def test_what_a_mistake_is_answered_with(text: str, want: str) -> None:
    assert want in problems(text)


def test_all_errors_in_one_run() -> None:
    found = problems("foo 1\n<domain *>\nbounce-after x\nretry-after y\n</domain>\nrelay-domain a..b\n")
    assert [p.split(":")[0] for p in found] == ["4", "6", "7", "9"]


def test_bytes_that_are_not_utf8() -> None:
    assert problems(b"host-name a\xff.example\n") == ["4:12: error: a byte that is not UTF-8 is not allowed here"]


def test_missing_log_file_and_the_default_spool() -> None:
    assert [p.text for p in build(from_text("")).problems] == ["log-file is missing: it names the log"]
    loaded = build(from_text("log-file /l\n"))
    assert loaded.config is not None
    assert [spool.path for spool in loaded.config.spools] == ["/var/spool/engine"]


def test_a_secret_is_never_quoted() -> None:
    text = "".join(problems('<smtp-user u>\npassword "hush hush\npassword a b "c\n</smtp-user>\nsmtp-server-tls-certificate a hush more\n'))
    assert "hush" not in text and "error" in text


def test_crlf_bom_and_case() -> None:
    text = "\ufeffLog-File /l\r\n<Spool /s>\r\n</SPOOL>\r\n<DOMAIN *>\r\n\tMax-SMTP-Out 7\r\n</domain>\r\n"
    loaded = build(from_text(text))
    assert loaded.config is not None and loaded.config.domain("x.y", "").max_smtp_out == 7


def test_includes_are_textual_relative_and_in_order() -> None:
    got = config(
        "include d/one.conf\n<virtual-mta m>\ninclude d/*.vmta\n</virtual-mta>\n",
        **{
            "d/one.conf": "include two.conf\n<domain *>\nmax-smtp-out 2\n</domain>\n",
            "d/two.conf": "<domain *>\nmax-smtp-out 1\nbounce-after 1h\n</domain>",
            "d/a.vmta": "smtp-source-host 192.0.2.1 a.example\n",
            "d/b.vmta": "smtp-source-host 192.0.2.2 b.example\n",
        },
    )
    assert got.domain("x.y", "").max_smtp_out == 2
    assert got.domain("x.y", "").bounce_after_s == 3600
    assert [s.host_name for s in got.virtual_mtas["m"].source_hosts] == ["a.example", "b.example"]


def test_include_loops_and_addresses_are_refused() -> None:
    assert any("includes itself: /a -> /b -> /a" in p for p in problems("include a\n", a="include b\n", b="include a\n"))
    assert any("only files are read" in p for p in problems("include https://example.com/x\n"))
    deep = {f"f{n}": f"include f{n + 1}\n" for n in range(30)}
    assert any("nested deeper" in p for p in problems("include f0\n", **deep))


def test_a_problem_in_an_included_file_names_that_file() -> None:
    assert problems("include a\n", a="\nfoo\n") == ["/a:2:1: error: unknown directive 'foo'"]


def test_a_stanza_is_closed_in_the_file_that_opens_it() -> None:
    assert any("is not closed" in p for p in problems("include a\n</domain>\n", a="<domain *>\n"))


def test_macros_make_the_cross_product_and_explicit_names_win() -> None:
    got = config(
        "domain-macro com com, net\ndomain-macro tld $com,org\ndomain-macro isp aol, yahoo\nrelay-domain in.$isp.$tld\n"
        "<domain aol.com>\nmax-smtp-out 1\n</domain>\n<domain $isp.$TLD>\nmax-smtp-out 9\n</domain>\n"
    )
    assert [got.domain(d, "").max_smtp_out for d in ("aol.com", "aol.org", "yahoo.net", "aol.de")] == [1, 9, 9, 20]
    assert len(got.server.relay_domain) == 6 and "in.yahoo.org" in got.relay_domains


def test_a_macro_that_explodes_is_an_error() -> None:
    lines = ["domain-macro m0 a,b,c,d,e,f,g,h,i,j"] + [f"domain-macro m{n} $m{n - 1}.$m{n - 1}" for n in range(1, 30)]
    assert any("expands to more than" in p for p in problems("\n".join(lines) + "\n<domain $m29>\n</domain>\n"))


def test_repeated_stanzas_accumulate_and_the_later_wins() -> None:
    got = config(
        "<domain *>\nmax-smtp-out 1\nbounce-after 1h\n</domain>\n<domain *>\nmax-smtp-out 2\n</domain>\n"
        "<source 0/0>\nlog-data yes\n</source>\n<source 0/0>\nlog-commands yes\n</source>\n"
    )
    assert (got.domain("a.b", "").max_smtp_out, got.domain("a.b", "").bounce_after_s) == (2, 3600.0)
    assert got.client("10.0.0.1").log_data and got.client("10.0.0.1").log_commands


def test_a_pending_stanza_is_checked_and_named_once() -> None:
    text = "<smtp-pattern-list l>\nreply /421 .* try later/ mode=backoff\nreply /x/mode=normal\n</smtp-pattern-list>\n"
    assert problems(text * 2) == [
        "4:1: unsupported: <smtp-pattern-list> is not supported yet",
        *(f"{line}:10: warning: reply: no blank stands behind the pattern's /: one that belongs to the pattern is written \\/" for line in (6, 10)),
    ]
    assert "5:7: error: reply: a pattern between slashes is expected" in problems(text.replace("/421", "421"))


def test_nested_pattern_lists_are_read() -> None:
    text = "<pattern-list a>\nheader subject /x y/ <pattern-list>\nmail-from /a@b/ virtual-mta=q\n* virtual-mta=r\n</pattern-list>\n</pattern-list>\n"
    vmtas = "".join(f"<virtual-mta {name}>\n</virtual-mta>\n" for name in "qr")
    assert problems(text + vmtas) == ["4:1: unsupported: <pattern-list> is not supported yet"]
    assert "6:11: error: mail-from: no virtual MTA or pool 'q' is defined" in problems(text)


def test_problems_are_bounded_and_counted() -> None:
    start = time.process_time()
    found = build(from_text(BASE + "\n".join(f"nonsense{n} 1" for n in range(50_000)))).problems
    assert time.process_time() - start < 5  # 0.5 s on an idle machine
    assert len(found) <= MAX_PROBLEMS + 3
    assert describe(found[:2] + found[:1]).endswith("3 errors, 0 warnings, 0 not supported yet\n")


def test_reading_files_directories_and_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "engine.conf").write_text("log-file log\ninclude d/*.conf\ninclude d\n")
    (tmp_path / "d" / "b.conf").write_text("spool s\n")
    snapshot = read(str(tmp_path))
    assert Snapshot.decode(snapshot.encode()) == snapshot
    loaded = build(snapshot)
    assert [p.text for p in loaded.problems] == [f"cannot read {tmp_path}/d: not a regular file"]
    (tmp_path / "engine.conf").write_text("log-file log\ninclude d/*.conf\n")
    loaded = build(read(str(tmp_path / "engine.conf")))
    assert loaded.config is not None
    assert (loaded.config.server.log_file, loaded.config.spools[0].path) == (f"{tmp_path}/log", f"{tmp_path}/d/s")
    assert [p.severity for p in build(read(str(tmp_path / "nowhere"))).problems] == ["error"] * 2
