"""Writes docs/config.md from the tables: `python -m engine.config.document > docs/config.md`."""

from __future__ import annotations

import sys

from engine.config.directive import Directive
from engine.config.powermta import default_and_meaning
from engine.config.stanza import STANZAS, Stanza
from engine.config.values import parse_value

_HEAD = """# Configuration

Made from the directive tables by `python -m engine.config.document`; a test keeps it so.

The language is PowerMTA's. `-c` names a file, or a directory with `engine.conf` in it. One directive stands on a line: its name, then
its values; `#` starts a comment wherever it stands outside double quotes. Names and tags are known in any case of letters. A file name
is relative to the file it stands in. `include` takes a file or a wildcard and reads it in its place, at the top level and where the tables below
have it; a file `config-defaults` beside the main one is read too, weaker than it.

One directive is one line. `--lenient`, an option of every command that reads a configuration, joins what public files break in two, each with a
warning: a `domain-macro` that goes on behind a comma, and a pattern that a line's end cuts before its closing `/`.

- **Since**: the version from which a directive works; *not yet*: known by name and type, listed at start; *accepted*: has no meaning here.
- Of a directive that is *not yet* there, default and meaning are PowerMTA's. One without which mail would come in or go out that you forbade or
  relied on stops the start (in bold), unless its value asks for nothing. Of all others default and meaning are ours; the last column says where
  PowerMTA's are otherwise, and `docs/differences.md` why.
- Of the `<domain>` sections that match, the more specific wins, each directive for itself: `*`, then `*.parent` and `[*.]parent`, then
  the name, and a name written out over one from a macro. A section in a virtual MTA wins over its pool's, and that over those at the top
  level (`domain-precedence`).
- `<source>`: the narrower network wins, and one named by a listener (`source=NAME`) over all networks.
- Regular expressions are PCRE's without back references, look-around, atomic groups, possessive repetition, conditions and recursion: each is an
  error where it stands; case makes no difference (`(?-i)` restores it), and matching time is bounded.
- Without a `<spool>`, mail waits in `/var/spool/engine`.
"""


def document() -> str:
    """The text of docs/config.md."""
    parts = [_HEAD]
    for tag, stanza in STANZAS.items():
        parts.append(_section(tag, stanza))
    return "\n".join(parts)


def _section(tag: str, stanza: Stanza) -> str:
    argument = f" {stanza.argument.name}" if stanza.argument else ""
    title = f"`<{tag}{argument}>`" if tag else "Top level"
    lines = [f"## {title}", ""]
    if tag and stanza.parents != ("",):
        lines += ["Stands " + " or ".join(f"in `<{parent}>`" if parent else "at the top level" for parent in stanza.parents) + ".", ""]
    if not stanza.working:
        lines += [f"Not supported yet{f': stops the start, which would {stanza.stops}' if stanza.stops else ''}.", ""]
    lines += ["| Directive | Type | Default | Since | Meaning | In PowerMTA otherwise |", "|---|---|---|---|---|---|"]
    for name in sorted(stanza.directives):
        row = stanza.directives[name]
        if name == "include" and tag:
            continue
        cells = _cells(tag, stanza, row)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _cells(tag: str, stanza: Stanza, row: Directive) -> tuple[str, ...]:
    """A row of the table.  Of what does not work yet the meaning is PowerMTA's, and what it does here is said behind it."""
    default, meaning = default_and_meaning(tag, row.name)
    default = "" if default == "none" else default
    since = row.since if stanza.working or row.status == "ignored" else "not yet"
    if since == "not yet":
        here = f"**{row.help}**" if row.stops and stanza.working else ""
        return (f"`{row.name}`", row.type.name, _code(default), since, f"{meaning} {here}".strip(), "")
    text = row.help
    if row.status == "ignored" and meaning:
        return (f"`{row.name}`", row.type.name, "", since, f"Nothing. {text}", meaning)
    other = f"default {_code(default)}" if default and not _same(default, row) else ""
    return (f"`{row.name}`", row.type.name, _code(row.default), since, text, other)


def _same(default: str, row: Directive) -> bool:
    """Whether *default*, as PowerMTA's guides write it, is this row's."""
    if not row.default or row.repeat:
        return True
    try:
        return bool(parse_value(row.type, default) == parse_value(row.type, row.default))
    except ValueError:
        return False


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


if __name__ == "__main__":
    sys.stdout.write(document())
