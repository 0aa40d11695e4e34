"""Writes docs/config.md from the tables: `python -m engine.config.document > docs/config.md`."""

from __future__ import annotations

import sys

from engine.config.stanza import STANZAS, Stanza

_HEAD = """# Configuration

Made from the directive tables by `python -m engine.config.document`; a test keeps it so.

The language is PowerMTA's. `-c` names a file, or a directory with `engine.conf` in it. One directive stands on a line: its name, then
its values; `#` starts a comment wherever it stands outside double quotes. Names and tags are known in any case of letters. A file name
is relative to the file it stands in. `include` takes a file or a wildcard and reads it in its place, at the top level and where the tables below
have it; a file `config-defaults` beside the main one is read too, weaker than it.

One directive is one line. `--lenient`, an option of every command that reads a configuration, joins what public files break in two, each with a
warning: a `domain-macro` that goes on behind a comma, and a pattern that a line's end cuts before its closing `/`.

- **Since**: the version from which a directive works; *not yet*: known by name and type, listed at start; *accepted*: has no meaning here.
- A directive that is *not yet* there, and without which mail would come in or go out that you forbade or relied on, stops the start.
  Where a default is given for one, that value asks for nothing and is always fine.
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
    lines += ["| Directive | Type | Default | Since | Meaning |", "|---|---|---|---|---|"]
    for name in sorted(stanza.directives):
        row = stanza.directives[name]
        if name == "include" and tag:
            continue
        default = f"`{row.default}`" if row.default else ""
        meaning = row.help if stanza.working else ""
        since = row.since if stanza.working or row.status != "working" else "not yet"
        cells = (f"`{name}`", row.type.name, default, since, meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(document())
