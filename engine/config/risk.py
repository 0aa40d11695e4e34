"""What an operator would not want once he sees it: each with its place and what to do.  Pure; the machine comes as `Surroundings`."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from dataclasses import dataclass

from engine.config.build import Loaded
from engine.config.explain import Explainer, Said
from engine.config.lexer import Arguments, Place, ValueProblem
from engine.config.model import DomainScope, Entry
from engine.config.parser import Section
from engine.config.pattern import Address, Network, parse_network
from engine.config.surroundings import FileFact, Surroundings
from engine.config.values import HostSpec, ListenerSettings, listener_address, parse_value

READABLE_BY_OTHERS = 0o004
_ADVICE = {
    "open relay": "name who may send through you and which recipients are yours, or demand a login (require-auth true)",
    "unknown virtual MTA": "define it, or correct the name",
    "readable secret": "take the right to read it from others (chmod o-r), and change the password",
    "scope against specificity": "write the limit that you mean into the virtual MTA too, or set domain-precedence specific",
}
_FILES = ("-certificate", "-ca-file", "include-headers-from", "body-template-from", "-extra-headers", "address-file", "pattern-file")
_KEYS = ("-certificate", "domain-key")  # hold a private key


@dataclass(frozen=True, slots=True)
class Risk:
    """One danger."""

    kind: str
    places: tuple[Place, ...]  # the line that is to change first, then the others that have part in it
    text: str
    advice: str
    stops: bool = False  # the start fails for it


def find_risks(loaded: Loaded, explainer: Explainer, around: Surroundings) -> list[Risk]:
    """Everything dangerous in *loaded* on the machine *around*, by kind."""
    finder = _Finder(loaded, explainer, around)
    return [
        *finder.told(),
        *finder.public_networks(),
        *finder.logins(),
        *finder.loops(),
        *finder.addresses(),
        *finder.passwords(),
        *finder.files(),
        *finder.keys_sent(),
    ]


def files_to_look_at(loaded: Loaded, explainer: Explainer) -> list[str]:
    """The files whose existence and permissions `find_risks` asks for, each once."""
    finder = _Finder(loaded, explainer, Surroundings())
    return list(dict.fromkeys([*(said.statement.place.file for said in finder.secrets()), *(path for path, _ in finder.named_files())]))


class _Finder:
    def __init__(self, loaded: Loaded, explainer: Explainer, around: Surroundings) -> None:
        self.loaded = loaded
        self.config = loaded.draft
        self.explainer = explainer
        self.around = around

    def told(self) -> Iterator[Risk]:
        """What the check of every start says too."""
        for problem in self.loaded.problems:
            if problem.risk:
                place = Place(problem.file, problem.line, problem.column)
                text = problem.text.removeprefix("an open relay").removeprefix(": ").lstrip()
                yield Risk(problem.risk, (place,), text, _ADVICE[problem.risk], problem.severity == "error")

    def public_networks(self) -> Iterator[Risk]:
        """Networks of the public Internet that may send to anybody without a login."""
        for section in self.loaded.top.sections:
            network = _network(section.argument) if section.tag == "source" else None
            if network is None or not 1 < network.num_addresses < 1 << (network.max_prefixlen - 1) or network.is_private:
                continue
            settings = {setting.name: setting for setting in self.explainer.source(str(network.network_address))}
            relaying = settings["always-allow-relaying"]
            login = settings.get("require-auth")
            if relaying.place is None or not _yes(relaying.value) or (login is not None and _yes(login.value)):
                continue
            if any(said.statement.place == relaying.place for said in self.explainer.said(section)):
                text = f"{network} is {network.num_addresses} public addresses, and each of them may send to everybody"
                yield Risk("open relay", (relaying.place,), text, "narrow it to the machines that are yours, or require-auth true")

    def logins(self) -> Iterator[Risk]:
        """Where a login is demanded by a wider <source> than the one that an operator would look into: sections merge, directive by directive."""
        kind = "login demanded"
        for _, entry in self.config.sources.items():
            network = _network(entry.pattern)
            if network is None or not entry.values.get("always_allow_relaying") or "require_auth" in entry.values:
                continue
            demands = self._demands(str(network.network_address), "")
            if demands is not None:
                text = (
                    f"{_short(network)} may relay, yet it still has to authenticate, before any mail: sections merge directive by directive, "
                    f"and <source {demands.pattern}> says require-auth"
                )
                advice = f"if it is to send without a login, add `require-auth false` to <source {entry.pattern}>"
                yield Risk(kind, (entry.places["always_allow_relaying"], demands.places["require_auth"]), text, advice)
        for listener in self.config.server.smtp_listener:
            demands = self._demands("0.0.0.0" if listener.network.version == 4 else "::", listener.source)
            if listener.port == 25 and demands is not None:
                text = (
                    "a stranger has to authenticate on port 25 too, and no mail server does: a returning bounce, and all mail for relay-domain and "
                    f"relay-address, is refused with 530, since <source {demands.pattern}> says require-auth"
                )
                advice = (
                    "if mail from outside is to come in there, let the listeners on port 25 say source=NAME, and <source NAME> `require-auth false`: "
                    "strangers may not relay all the same"
                )
                yield Risk(kind, (demands.places["require_auth"], *self._listener_place(listener)), text, advice)
                return

    def _demands(self, ip: str, source: str) -> Entry | None:
        """The <source> whose require-auth counts for a client at *ip*, where it is true."""
        found = [entry for entry in self.config.client_entries(ip, source) if "require_auth" in entry.values]
        return found[-1] if found and found[-1].values["require_auth"] else None

    # --- ourselves as the next hop ---

    def loops(self) -> Iterator[Risk]:
        scopes = [self.config.global_domains, *dict.fromkeys((*self.config.pool_domains.values(), *self.config.virtual_mta_domains.values()))]
        for scope in scopes:
            yield from self._loops_in(scope)

    def _loops_in(self, scope: DomainScope) -> Iterator[Risk]:
        usual = self.config.domain("other.invalid", "{default}").default_smtp_port
        for entry in scope.entries:
            for group in entry.values.get("smtp_hosts", ()):
                for spec in group:
                    port = spec.port or entry.values.get("default_smtp_port", usual)
                    listener = self._listens(spec, port)
                    if listener is not None:
                        yield self._loop(entry, spec, port, listener)

    def _loop(self, entry: Entry, spec: HostSpec, port: int, listener: ListenerSettings) -> Risk:
        here = entry.places["smtp_hosts"]
        there = self._listener_place(listener)
        text = f"<domain {entry.pattern}> is sent to {spec.host}:{port}, where this engine itself listens: its mail would come back in"
        return Risk("loop", (here, *there), text, "name the next hop that you mean, or another port")

    def _listens(self, spec: HostSpec, port: int) -> ListenerSettings | None:
        """The listener that *spec* at *port* leads back to."""
        at = [listener for listener in self.config.server.smtp_listener if listener.port == port]
        if spec.lookup_mx or not at:
            return None
        if not spec.literal:
            return at[0] if spec.host in self.config.server.host_name else None
        address = ipaddress.ip_address(spec.host)
        for listener in sorted(at, key=lambda each: each.network.network_address.is_unspecified):
            network = listener.network
            everywhere = network.network_address.is_unspecified and network.version == address.version
            if (everywhere or address in network) and (self._is_local(address) or network.network_address == address):
                return listener
        return None

    def _listener_place(self, listener: ListenerSettings) -> list[Place]:
        return [place for network, port, place in self._listeners() if (network, port) == (listener.network, listener.port)][:1]

    def _listeners(self) -> Iterator[tuple[Network, int, Place]]:
        """Where this engine is to listen, and which line says so."""
        for section in self.loaded.top.sections:
            if section.tag == "smtp-listener" and (found := _listener(section.argument)):
                yield *found, section.place
        for said in self.explainer.said(self.loaded.top):
            if said.row.name == "smtp-listener" and (found := _listener(_first(said.statement.argument))):
                yield *found, said.statement.place

    # --- addresses ---

    def _is_local(self, address: Address) -> bool:
        return address.is_loopback or (self.around.addresses is not None and address in self.around.addresses)

    def _absent(self, network: Network) -> bool:
        """Whether it is known that this machine has no address in *network*."""
        if self.around.addresses is None or network.network_address.is_unspecified or network.is_loopback:
            return False
        return not any(address.version == network.version and address in network for address in self.around.addresses)

    def addresses(self) -> Iterator[Risk]:
        """Addresses to send from or to listen on that this machine does not have."""
        sending: dict[Network, list[Place]] = {}
        listening: dict[Network, list[Place]] = {}
        for network, _, place in self._listeners():
            listening.setdefault(network, []).append(place)
        for section in self._sections():
            for said in self.explainer.said(section):
                if said.row.name in ("smtp-source-host", "smtp-source-ip") and (found := _network(_first(said.statement.argument))):
                    sending.setdefault(found, []).append(said.statement.place)
        kind = "address not on this machine"
        for network, places in listening.items():
            if self._absent(network):
                text = f"no address of this machine is {_short(network)}: nothing can listen there"
                yield Risk(kind, tuple(places), text, "give the address to an interface, or take the line out", stops=True)
        for network, places in sending.items():
            if self._absent(network):
                text = f"no address of this machine is {_short(network)}: mail that is to leave from it waits"
                yield Risk(kind, tuple(places), text, "give the address to an interface, or take the line out")

    # --- files ---

    def secrets(self) -> Iterator[Said]:
        """The statements that hold a password or the like in plain text."""
        for section in self._sections():
            for said in self.explainer.said(section):
                name = said.row.name
                with_password = name.endswith("-certificate") and len(said.statement.argument.split()) > 1
                with_key = name == "privacy-policy" and _first(said.statement.argument).lower().startswith(("siphash", "hmac-"))
                if with_password or with_key or name.endswith(("password", "api-key", "access-token")):
                    yield said

    def passwords(self) -> Iterator[Risk]:
        by_file: dict[str, list[Place]] = {}
        for said in self.secrets():
            by_file.setdefault(said.statement.place.file, []).append(said.statement.place)
        for file, places in by_file.items():
            fact = self.around.files.get(file, FileFact())
            if fact.mode & READABLE_BY_OTHERS:
                text = f"everybody on this machine can read the passwords in {file} (its mode is {fact.mode:04o})"
                yield Risk("readable secret", tuple(places), text, "take the right to read it from others (chmod o-r), and change the passwords")

    def named_files(self) -> Iterator[tuple[str, Said]]:
        """(path, statement) of each file that something reads: keys, certificates, headers, addresses."""
        for section in self._sections():
            for said in self.explainer.said(section):
                path = ""
                if said.row.name == "domain-key":
                    path = _third(said.statement.argument)
                elif said.row.name.endswith(_FILES):
                    path = _first(said.statement.argument)
                if path and "$" not in path and not path.startswith("{"):
                    yield os.path.normpath(os.path.join(os.path.dirname(said.statement.place.file), path)), said

    def files(self) -> Iterator[Risk]:
        """Files that are missing, and private keys that everybody can read."""
        users: dict[str, list[Said]] = {}
        for path, said in self.named_files():
            users.setdefault(path, []).append(said)
        for path, all_said in users.items():
            fact = self.around.files.get(path, FileFact())
            places = tuple(said.statement.place for said in all_said)
            what = all_said[0].row.name
            if fact.missing:
                yield Risk("file missing", places, f"{what}: there is no file {path}", "put it there, or correct the name")
            elif fact.problem:
                text = f"{what}: {path} cannot be looked at: {fact.problem}"
                yield Risk("file missing", places, text, "run this as the user that starts the engine")
            elif what.endswith(_KEYS) and fact.mode & READABLE_BY_OTHERS:
                text = f"everybody on this machine can read the private key in {path} (its mode is {fact.mode:04o})"
                yield Risk("readable secret", places, text, "take the right to read it from others (chmod o-r), and make a new key")

    def keys_sent(self) -> Iterator[Risk]:
        """Private keys of clients' messages that stay in them."""
        for section in self._sections():
            for said in self.explainer.said(section):
                if said.row.name == "retain-x-dkim-key" and _yes(_first(said.statement.argument)):
                    text = "the private keys in x-dkim-key stay in the messages, and every recipient can read them"
                    yield Risk("secret sent out", (said.statement.place,), text, "take the line out")

    # --- the text ---

    def _sections(self) -> Iterator[Section]:
        waiting = [self.loaded.top]
        while waiting:
            section = waiting.pop()
            yield section
            waiting += reversed(section.sections)


def _yes(text: str) -> bool:
    return text.lower() in ("yes", "true")


def _network(text: str) -> Network | None:
    try:
        return parse_network(text.strip().strip('"'))
    except ValueError:
        return None


def _listener(text: str) -> tuple[Network, int] | None:
    try:
        return parse_value(listener_address, text)
    except ValueProblem:
        return None


def _short(network: Network) -> str:
    return str(network.network_address) if network.num_addresses == 1 else f"in {network}"


def _first(text: str) -> str:
    try:
        return Arguments(text).word()
    except ValueProblem:
        return ""


def _third(text: str) -> str:
    try:
        items = Arguments(text).list(",")
    except ValueProblem:
        return ""
    return items[2][0] if len(items) == 3 else ""
