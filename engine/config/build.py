"""From a snapshot to a checked configuration: reads every statement by its table, expands macros, resolves names, merges repeated stanzas."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

from engine.config import settings
from engine.config import values as v
from engine.config.check import check
from engine.config.header_file import wire_form
from engine.config.lexer import Arguments, Place, ValueProblem
from engine.config.macro import Macros
from engine.config.model import Config, DomainScope, Entry
from engine.config.naming import check_names
from engine.config.parser import Section, parse
from engine.config.pattern import DomainPattern, NetworkMap, parse_network
from engine.config.problem import Problem, Problems
from engine.config.reading import Reader, Values
from engine.config.record_field import check_fields
from engine.config.settings import DEFAULT_VIRTUAL_MTA
from engine.config.snapshot import FileText, Snapshot, resolve
from engine.config.stanza import STANZAS, TOP
from engine.config.stored_password import fault, is_hash
from engine.config.tls import ServerTls
from engine.config.tls_build import absolute, check_tls, of_listener

MAX_DOMAINS = 1_000_000  # of all <domain> sections, macros expanded
DEFAULT_SPOOL = "/var/spool/engine"  # where no <spool> is given
_SUPPORTED_RECORDS = ("d", "b", "t", "tq")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, or None where a problem is an error; and all problems."""

    config: Config | None
    problems: list[Problem]
    draft: Config  # what could be read, errors or not: to explain the configuration, never to run it
    top: Section  # the text as it was read


def build(snapshot: Snapshot) -> Loaded:
    """The configuration in *snapshot* and everything that is wrong with it.  Pure; raises nothing, whatever the text."""
    problems = Problems()
    top = parse(snapshot, problems)
    config = _Builder(problems, snapshot).build(top)
    return Loaded(None if problems.failed else config, problems.all(snapshot.files), config, top)


@dataclass(slots=True)
class _Named:
    """A virtual MTA or pool while its stanzas are read."""

    place: Place
    values: Values = field(default_factory=Values)
    domains: DomainScope = field(default_factory=DomainScope)


class _Builder:
    def __init__(self, problems: Problems, snapshot: Snapshot) -> None:
        self.problems = problems
        self.snapshot = snapshot
        self.aliases: list[tuple[str, tuple[str, ...]]] = []
        self.reader = Reader(problems)
        self.macros = Macros()
        self.domains = DomainScope()
        self.sources: list[Entry] = []
        self.networks: NetworkMap[Entry] = NetworkMap()
        self.named: dict[str, Entry] = {}
        self.vmtas: dict[str, _Named] = {}
        self.pools: dict[str, _Named] = {}
        self.groups: dict[str, Values] = {}
        self.users: dict[str, Values] = {}
        self.spools: dict[str, Values] = {}
        self.accts: dict[str, Values] = {}
        self.listeners: list[v.ListenerSettings] = []
        self.domain_count = 0
        self.server_tls = ServerTls()

    def build(self, top: Section) -> Config:
        server = absolute(self.reader.read(top, STANZAS[TOP]))
        self.server_tls = settings.ServerSettings(**{name: value for name, value in server.values.items() if name.startswith("smtp_server_tls_")}).tls
        for statement in self.reader.special:
            if statement.name == "domain-macro":
                self.macros.define(statement, self.problems)
        self.macros.check(self.problems)
        for statement in self.reader.take_special("spool"):
            if path := self._path(statement.place, v.file, statement.argument, statement.argument_column):
                self.spools.setdefault(path, Values())
        self.sections(top)
        if not server.places.get("log_file"):
            self.problems.error(top.place, "log-file is missing: it names the log")
        if not self.spools:
            self.spools[DEFAULT_SPOOL] = Values()
        self.old_names(server)
        config = self.assemble(server)
        sources = {name: entry.place for name, entry in self.named.items()}
        listened = [listener.source for listener in config.server.smtp_listener]
        check_names(top, self.macros, (*config.virtual_mtas, *config.pools), sources, listened, self.problems)
        check_tls(config, server, self.problems)
        check(config, top, server, self.sources, {n: s.domains for n, s in self.pools.items()}, self.reader.later, self.problems)
        return config

    def old_names(self, server: Values) -> None:
        """Gives the old directives that are no field their meaning of today: a setting of each spool, and a listener where there is no other."""
        for statement in self.reader.take_special("spool-min-free-space"):
            megabytes = v.parse_value(v.number, statement.argument)
            for spool in self.spools.values():
                spool.values.setdefault("min_free_space_bytes", megabytes << 20)
                spool.places.setdefault("min_free_space_bytes", statement.place)
        addresses, ports = self.reader.take_special("smtp-ip"), self.reader.take_special("smtp-port")
        if server.values.get("smtp_listener") or self.listeners:
            for statement in (*addresses, *ports):
                self.problems.warning(statement.place, f"{statement.name} changes nothing where there is an smtp-listener")
            return
        port = v.parse_value(v.port, ports[-1].argument) if ports else 25
        for text in [statement.argument for statement in addresses] or (["0.0.0.0"] if ports else []):
            self.listeners.append(v.ListenerSettings(parse_network(str(v.parse_value(v.address, text))), port))

    # --- stanzas ---

    def sections(self, top: Section) -> None:
        for section in top.sections:
            stanza = self.reader.stanza(section, top)
            if stanza is None:
                continue
            match section.tag:
                case "domain":
                    self.domain(section, self.domains)
                case "source":
                    self.source(section)
                case "source-group":
                    values = self.reader.read(section, stanza)
                    if name := self.reader.argument(section, v.name):
                        self.groups.setdefault(name, Values()).update(values)
                case "smtp-user":
                    values = self.reader.read(section, stanza)
                    if name := self.reader.argument(section, v.name):
                        values.places[""] = section.place
                        values.places.update((s.name, s.place) for s in section.statements if s.name == "password")  # readable or not
                        self.users.setdefault(name, Values()).update(values)
                case "virtual-mta":
                    self.virtual_mta(section, self.vmtas)
                case "virtual-mta-pool":
                    self.virtual_mta(section, self.pools)
                case "spool":
                    if path := self._path(section.place, v.file, section.argument, section.argument_column):
                        self.spools.setdefault(path, Values()).update(self.reader.read(section, stanza))
                case "acct-file":
                    self.acct_file(section)
                case "smtp-listener":
                    self.listener(section)
                case "aliases":
                    self.aliases += self.reader.read(section, stanza).values.get("alias", ())
                case _:
                    self.reader.pending_stanza(section, stanza)

    def domain(self, section: Section, scope: DomainScope) -> None:
        values = absolute(self.reader.read(section, STANZAS["domain"]))
        text = self.reader.argument(section, v.name)
        entry = Entry(text or "", section.place, values.values, values.places)
        kind = values.values.get("type", "smtp")
        if kind not in ("smtp", "discard"):
            self.problems.error(values.places["type"], f"type {kind} is not supported yet, and starting without it would send this mail by SMTP")
        if text is None:
            return
        scope.entries.append(entry)
        index = scope.expanded if "$" in text else scope.explicit
        try:
            for name in self.macros.expand(text):
                self.domain_count += 1
                index.add(DomainPattern.parse(name), entry)
            if self.domain_count > MAX_DOMAINS:
                raise ValueError(f"more than {MAX_DOMAINS} domains in all")
        except ValueError as error:
            self.problems.error(section.place_of(0), f"<domain {text[:60]}>: {error}")

    def source(self, section: Section) -> None:
        values = self.reader.read(section, STANZAS["source"])
        name = self.reader.argument(section, v.name)
        if name is None:
            return
        entry = Entry(name, section.place, values.values, values.places)
        self.sources.append(entry)
        try:
            self.networks.add(parse_network(name), entry)
        except ValueError as error:
            if name[0].isdigit() and set(name) <= set("0123456789./"):
                self.problems.error(section.place_of(0), f"<source {name}>: {error}")
            elif name in self.named:
                self.named[name].values.update(values.values)
                self.named[name].places.update(values.places)
            else:
                self.named[name] = entry

    def virtual_mta(self, section: Section, known: dict[str, _Named]) -> None:
        values = self.reader.read(section, STANZAS[section.tag])
        name = self.reader.argument(section, v.name)
        named = known.setdefault(name, _Named(section.place)) if name is not None else _Named(section.place)
        if name is not None and name.startswith("{"):
            self.problems.error(section.place_of(0), f"<{section.tag} {name}>: names in braces are reserved")
        named.values.update(values)
        for inner in section.sections:
            if self.reader.stanza(inner, section) is not None:
                self.domain(inner, named.domains)

    def acct_file(self, section: Section) -> None:
        values = self.reader.read(section, STANZAS["acct-file"])
        target = self.reader.argument(section, v.text)
        if not target:
            return
        if target.startswith("|"):
            self.problems.unsupported(section.place, "<acct-file |COMMAND> is not supported yet: these records are not written")
            return
        if target.lower().endswith(".json"):
            self.problems.error(section.place, "accounting in JSON is not supported yet, and starting without it would write CSV into this file")
        path = os.path.normpath(os.path.join(os.path.dirname(section.place.file), target))
        known = self.accts.setdefault(path, Values())
        records = self.records(section, known)
        known.update(values)
        if records:
            known.values["records"] = records
        if missing := [record for record in records if record not in _SUPPORTED_RECORDS]:
            self.problems.unsupported(known.places["records"], f"records of type {', '.join(missing)} are not supported yet: none are written")
        for statement in self.reader.take_special("record-fields"):
            check_fields(statement, known.values.setdefault("fields", {}), self.problems)

    def records(self, section: Section, known: Values) -> tuple[str, ...]:
        """What all `records` of one file ask for together, with a warning: it should stand once, but where it does not, all of them are meant."""
        every: list[str] = list(known.values.get("records", ()))
        for statement in section.statements:
            if statement.name != "records":
                continue
            if every:
                self.problems.warning(statement.place, f"records stands again: this file gets {', '.join(every)} too")
            try:
                stated = v.parse_value(v.record_types, statement.argument)
            except ValueProblem:
                continue  # its reader has said so
            every += stated
        return tuple(dict.fromkeys(every))

    def listener(self, section: Section) -> None:
        values = self.reader.read(section, STANZAS["smtp-listener"])
        address = self.reader.argument(section, v.listener_address)
        if address is not None:
            own = absolute(values).values
            tls, proxies = of_listener(own, self.server_tls), own.get("proxy_protocol_from", ())
            self.listeners.append(v.ListenerSettings(*address, own.get("source", ""), own.get("immediate_tls", False), tls, proxies))

    def _path(self, place: Place, value_type: v.ValueType[str], text: str, column: int) -> str:
        arguments = Arguments(text)
        try:
            path = value_type.parse(arguments)
            arguments.end()
        except ValueProblem as problem:
            self.problems.error(Place(place.file, place.line, column + problem.offset), problem.text)
            return ""
        return os.path.normpath(os.path.join(os.path.dirname(place.file), path))

    # --- the whole ---

    def assemble(self, server: Values) -> Config:
        if "log_file" in server.values:
            server.values["log_file"] = os.path.normpath(os.path.join(os.path.dirname(server.places["log_file"].file), server.values["log_file"]))
        self.read_texts(server)
        server.values["relay_domain"] = tuple(self.relay_domains(server))
        listeners = tuple(dict.fromkeys((*server.values.get("smtp_listener", ()), *self.listeners)))
        server.values["smtp_listener"] = listeners or (v.ListenerSettings(parse_network("0.0.0.0")),)
        server.values["alias"] = (*server.values.get("alias", ()), *self.aliases)
        server.values["included_headers"] = self.included_headers(server)
        every = settings.ServerSettings(**server.values)
        vmtas = self.virtual_mtas(every)
        pools = {
            name: settings.VirtualMtaPool(
                name=name,
                members=self.members(name, pool),
                max_smtp_out=pool.values.values.get("max_smtp_out", 0),
                include_headers_from=pool.values.values.get("include_headers_from", ""),
            )
            for name, pool in self.pools.items()
        }
        for scope in (self.domains, *(s.domains for s in (*self.vmtas.values(), *self.pools.values()))):
            scope.explicit.freeze()
            scope.expanded.freeze()
        return Config(
            server=every,
            spools=tuple(settings.SpoolSettings(path=path, **values.values) for path, values in self.spools.items()),
            acct_files=tuple(self.acct_settings(path, values) for path, values in self.accts.items()),
            virtual_mtas=vmtas,
            pools=pools,
            sources=self.networks.freeze(),
            named_sources=self.named,
            source_groups={name: settings.SourceGroup(name=name, **values.values) for name, values in self.groups.items()},
            smtp_users={name: self.smtp_user(name, values) for name, values in self.users.items()},
            global_domains=self.domains,
            pool_domains=self.pool_scopes(),
            virtual_mta_domains={name: s.domains for name, s in self.vmtas.items() if s.domains.entries},
            places={
                "": server.places,
                **{f"virtual-mta {name}": named.values.places for name, named in self.vmtas.items()},
                **{f"virtual-mta-pool {name}": named.values.places for name, named in self.pools.items()},
            },
        )

    def read_texts(self, values: Values) -> None:
        """Files that directives have read with the configuration: their text."""
        for name, value in values.values.items():
            if isinstance(value, FileText):
                place = values.places[name]
                path = resolve(place.file, value.path)
                if path in self.snapshot.attached:
                    values.values[name] = FileText(path, self.snapshot.attached[path].decode("utf-8", "replace"))
                else:
                    self.problems.error(place, f"{path} cannot be read: {self.snapshot.failures.get(path, 'it was not found')}")

    def included_headers(self, values: Values) -> bytes:
        """What the file of include-headers-from holds, in wire form; b"" where there is none, or after a complaint."""
        place = values.places.get("include_headers_from")
        if place is None:
            return b""
        path = values.values["include_headers_from"] = resolve(place.file, values.values["include_headers_from"])
        try:
            if path not in self.snapshot.attached:
                raise ValueError(self.snapshot.failures.get(path, "it cannot be read"))
            return wire_form(self.snapshot.attached[path])
        except ValueError as error:
            self.problems.error(place, f"include-headers-from {path}: {error}")
            return b""

    def relay_domains(self, server: Values) -> list[DomainPattern]:
        patterns: list[DomainPattern] = []
        for texts, place in zip(server.values.get("relay_domain", ()), server.all_places.get("relay_domain", ()), strict=True):
            for text in texts:
                try:
                    found = [DomainPattern.parse(name) for name in self.macros.expand(text)]
                except ValueError as error:
                    self.problems.error(place, f"relay-domain {text[:60]}: {error}")
                    continue
                if wide := next((pattern for pattern in found if pattern.is_everything), None):
                    text = f"an open relay: relay-domain {wide} is {'every domain' if wide.reach == 'all' else 'every host'}"
                    self.problems.warning(place, text, "open relay")
                patterns += found
        return patterns

    def smtp_user(self, name: str, user: Values) -> settings.SmtpUser:
        """The user *name*, whose password is the first line of its password-file where there is one."""
        self.read_texts(user)
        place = user.places.get("password") or user.places.get("password_file") or user.places[""]
        method = user.values.get("authentication_method", "password")
        if method != "password":
            text = f"authentication-method {method} is not supported yet: nobody can authenticate as {name}"
            self.problems.unsupported(user.places["authentication_method"], text)
        elif "password" in user.values and "password_file" in user.values:
            self.problems.error(user.places["password_file"], f"<smtp-user {name}>: password and password-file: one of them is enough")
        else:
            if "password_file" in user.values:
                user.values["password"] = user.values["password_file"].text.partition("\n")[0].rstrip("\r")
            wrong = fault(user.values.get("password", ""))
            if wrong and ("password" in user.values or "password" not in user.places):  # one that cannot be read is complained of
                self.problems.error(place, f"<smtp-user {name}>: {wrong}")
            self.exposed_password(name, place, user)
        return settings.SmtpUser(name=name, **user.values)

    def exposed_password(self, name: str, place: Place, user: Values) -> None:
        """A password that everybody on the machine can read is none: the start is refused.  An Argon2id string is not it."""
        file = user.values["password_file"].path if "password_file" in user.values else place.file
        if file in self.snapshot.exposed and not is_hash(user.values.get("password", "")):
            text = f"<smtp-user {name}>: everybody on this machine can read the password in {file}: chmod o-r it and change the password"
            self.problems.error(place, text, "readable secret")

    def virtual_mtas(self, server: settings.ServerSettings) -> dict[str, settings.VirtualMta]:
        inherited: dict[str, int] = {}
        headers: dict[str, bytes] = {}
        for pool in self.pools.values():
            bound = pool.values.values.get("max_smtp_out", 0)
            of_pool = self.included_headers(pool.values)
            for member in dict.fromkeys(pool.values.values.get("members", ())):
                headers[member] = headers.get(member, b"") + of_pool
                if bound:  # a member of several pools obeys the smallest
                    inherited[member] = min(bound, inherited.get(member, bound))
        every = {DEFAULT_VIRTUAL_MTA: settings.VirtualMta(name=DEFAULT_VIRTUAL_MTA, source_hosts=server.smtp_source_host)}
        for name, named in self.vmtas.items():
            own = named.values.values
            every[name] = settings.VirtualMta(
                name=name,
                source_hosts=own.get("source_hosts") or server.smtp_source_host,
                host_name=own.get("host_name", ""),
                max_smtp_out=own.get("max_smtp_out", inherited.get(name, 0)),
                included_headers=headers.get(name, b"") + self.included_headers(named.values),
                include_headers_from=own.get("include_headers_from", ""),
            )
        return every

    def members(self, name: str, pool: _Named) -> tuple[str, ...]:
        members: tuple[str, ...] = pool.values.values.get("members", ())
        if name in self.vmtas:
            self.problems.error(
                pool.place,
                f"the pool {name!r} has the name of the virtual MTA in line {self.vmtas[name].place.line} of {self.vmtas[name].place.file}",
            )
        if not members:
            self.problems.error(pool.place, f"the pool {name!r} has no virtual-mta")
        for member, place in zip(members, pool.values.all_places.get("members", ()), strict=True):
            if member not in self.vmtas:
                what = "is a pool, not a virtual MTA" if member in self.pools else "is not defined" + v.did_you_mean(member, self.vmtas)
                self.problems.error(place, f"the virtual MTA {member!r} {what}", "unknown virtual MTA")
        return members

    def pool_scopes(self) -> dict[str, DomainScope]:
        found: dict[str, DomainScope] = {}
        owner: dict[str, str] = {}
        for name, pool in self.pools.items():
            for member in pool.values.values.get("members", ()) if pool.domains.entries else ():
                if owner.setdefault(member, name) != name:
                    text = f"the virtual MTA {member!r} is in the pools {owner[member]!r} and {name!r}, which both have <domain> sections"
                    self.problems.error(pool.place, text)
                found[member] = pool.domains
        return found

    def acct_settings(self, path: str, values: Values) -> settings.AcctFileSettings:
        known: dict[str, Any] = dict(values.values)
        if "records" in known:
            known["records"] = tuple(dict.fromkeys(record for record in known["records"] if record in _SUPPORTED_RECORDS))
        if known.get("move_to"):
            known["move_to"] = os.path.normpath(os.path.join(os.path.dirname(values.places["move_to"].file), known["move_to"]))
        return settings.AcctFileSettings(path=path, **known)
