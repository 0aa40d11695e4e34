"""What may be asked on the control socket: one JSON object on a line each way, one row of `COMMANDS` per command."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from engine.control.views import Detail, Part, Reason, SlotView, TrafficTable
from engine.errors import RemoteProtocolError

MAX_LINE_BYTES = 1 << 20


class Child(msgspec.Struct, frozen=True):
    """One child of the supervisor, as `engine status` shows it."""

    name: str
    pid: int  # 0: none now
    state: str  # "working", "starting", "waiting", "throttled", "draining"
    uptime_s: float
    restarts: int
    heartbeat_age_s: float
    smtp_in: int  # sessions open now
    smtp_out: int  # connections open now
    title: str = ""


class Upgrade(msgspec.Struct, frozen=True):
    """How far the last `engine upgrade` has come."""

    attempt: int = 0  # counts them; 0: nobody has asked for one
    state: str = ""  # "trying", "refused", "possible", "replacing", "done"
    before: str = ""  # version of the program that was asked
    after: str = ""  # ... and of the one that is installed, once that has said it
    problems: list[str] = []  # why it was refused: everything runs on as it was


class Status(msgspec.Struct, frozen=True):
    """The engine as its supervisor sees it."""

    version: str
    pid: int
    uptime_s: float
    ready: bool  # every child is at work
    stopping: bool
    spool: str
    spool_socket: str
    listening: list[str]
    turned_away: int  # clients that the supervisor itself answered 421
    children: list[Child]
    generation: int = 1  # of the configuration: each reload makes the next
    reloading: bool = False  # processes of an older one still drain, or of the newest one start
    traffic: TrafficTable | None = None
    others: list[str] = []  # paths of the spools with a process that are not the first
    shadow: str = ""  # address:port of the sink that all mail goes to instead of the world
    upgrade: Upgrade = Upgrade()


class Stopping(msgspec.Struct, frozen=True):
    """The engine drains; the connection stays open until it has ended."""

    pid: int
    deadline_s: float


class Changed(msgspec.Struct, frozen=True):
    """One thing that a configuration on disk says otherwise than the one in force; "-" where one of them does not mention it."""

    kind: str
    name: str
    setting: str
    before: str
    after: str

    def __str__(self) -> str:
        what = " ".join(part for part in (self.kind if self.kind != "server" else "", self.name, self.setting) if part)
        return f"{what}: {self.before} -> {self.after}"


class Reloaded(msgspec.Struct, frozen=True):
    """What the configuration on disk would change, or is changing from now on."""

    conf: str
    good: bool  # false: nothing has changed; *problems* say why
    problems: list[str]
    changes: list[Changed]
    more: int = 0  # changes beyond those listed
    stopping: list[str] = []  # processes that end once they have drained
    starting: list[str] = []
    generation: int = 0  # of the configuration that is in force from now on


class Command(NamedTuple):
    """A row: the command's name, what its answer decodes to, what it does."""

    name: str
    answer: type[Any]
    help: str


COMMANDS = {
    row.name: row
    for row in (
        Command("status", Status, "what runs, since when, and how often it was restarted"),
        Command("stop", Stopping, "drain, then end; asked again: end at once"),
        Command("diff", Reloaded, "what a reload would change"),
        Command("reload", Reloaded, "read the configuration again and apply it"),
        Command("try-upgrade", Upgrade, "ask the installed program whether it could take over"),
        Command("upgrade", Upgrade, "ask it, and have it take over"),
        Command("slot", SlotView, "a delivery slot in numbers"),
        Command("queues", Part, "what a slot knows of the queues that are named, or of those with connections"),
        Command("queue", Detail, "all that a slot knows of one queue"),
        Command("why", Reason, "why a queue, or one recipient of it, is not sent now"),
    )
}


class Request(msgspec.Struct, frozen=True):
    """A question: one of COMMANDS, with what it is about."""

    command: str
    queues: list[tuple[int, str]] = []  # numbers and names
    active: bool = False  # of `queues`: those with connections besides
    key: str = ""  # of `why`: the recipient's row in hexadecimal, "" for the whole queue
    queued_ms: int = 0  # ... and when it was queued
    attempts: int = 0
    last_reply: str = ""


class Response(msgspec.Struct, frozen=True):
    """Its answer: *data*, or why there is none."""

    error: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


_encoder = msgspec.json.Encoder()


def encode_line(message: Request | Response) -> bytes:
    """*message* as it goes over the socket."""
    return _encoder.encode(message) + b"\n"


def answered(data: object) -> Response:
    """The response that carries *data*."""
    return Response(data=msgspec.Raw(_encoder.encode(data)))


def decode_request(line: bytes) -> Request:
    """The request on *line*; RemoteProtocolError if it is none."""
    try:
        request = msgspec.json.decode(line, type=Request)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"not a request: {error}") from error
    if request.command not in COMMANDS:
        raise RemoteProtocolError(f"unknown command {request.command[:100]!r}; known: {', '.join(COMMANDS)}")
    return request


def decode_response(line: bytes) -> Response:
    """The response on *line*; RemoteProtocolError if it is none."""
    try:
        return msgspec.json.decode(line, type=Response)
    except msgspec.MsgspecError as error:
        raise RemoteProtocolError(f"not a response: {error}") from error


def decode_answer(command: str, response: Response) -> Any:
    """What *response* to *command* holds, as its row says."""
    return msgspec.json.decode(response.data, type=COMMANDS[command].answer)
