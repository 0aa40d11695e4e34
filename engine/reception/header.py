"""What a `<source>` asks to be done to the messages of its clients: header fields read, cut out and added, copies, defaults for DSNs.

Plain Python: reception comes here only for clients whose settings say so (`ClientSettings.asks_more`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from engine.mail.received import date

if TYPE_CHECKING:
    from engine.config import ClientSettings
    from engine.policy.access import Target

STRIPPED = (b"x-dkim-key", b"x-schedule")  # of everybody's mail, obeyed or not, unless retained: one holds a private key
MAX_JOB_ID_CHARS = 255
_VERDICTS = b"authentication-results"
MAX_ENV_ID_CHARS = 100  # RFC 3461 §5.4

_RETURN = {"headers": "", "full": "FULL", "system": ""}  # what a DSN of ours returns when nothing is said are the headers


class Found(NamedTuple):
    """What the header section of one message says to a HeaderWork."""

    hops: int  # Received fields, those that are cut out included
    requested: str | None  # the first x-virtual-mta, if it is obeyed
    cut: list[tuple[int, int]]  # in order; they never overlap
    job_id: str
    env_id: str
    add_date: bool
    late_date: bool  # it is to be that of delivery
    add_message_id: bool


class HeaderWork:
    """The settings of one `<source>`, in the form that a message is looked at with; made once per set of settings."""

    def __init__(self, client: ClientSettings, bcc: tuple[Target, ...], own_name: str) -> None:
        relays = client.always_allow_relaying  # strangers must not steer us by headers
        self.bcc = bcc  # where a copy of each message goes
        self.ret = _RETURN[client.dsn_return_default]
        self.notify_sender = not client.suppress_local_dsn
        self._add_date = client.add_date_header != "no"
        self._late_date = client.date_header_time == "delivery"
        self._override_date = client.add_date_header == "override"
        self._add_message_id = client.add_message_id_header
        self._prefix = client.jobid_prefix
        self._cut = set(client.remove_header)
        if client.remove_received_headers:
            self._cut.add(b"received")
        if not client.retain_x_dkim_key:
            self._cut.add(b"x-dkim-key")
        if not client.retain_x_schedule:
            self._cut.add(b"x-schedule")
        if relays and client.process_x_dkim_options and not client.retain_x_dkim_options:
            self._cut.add(b"x-dkim-options")
        self._virtual_mta = relays and client.process_x_virtual_mta
        if self._virtual_mta and not client.retain_x_virtual_mta:
            self._cut.add(b"x-virtual-mta")
        self._job_fields: list[bytes] = []  # the first that has a value gives it
        if relays and client.process_x_job:
            self._job_fields.append(b"x-job")
            if not client.retain_x_job:
                self._cut.add(b"x-job")
        if relays and client.jobid_header:
            self._job_fields.append(client.jobid_header)
        self._env_id = relays and client.process_x_envid
        if self._env_id:
            self._cut.add(b"x-envid")
        self._own_name = own_name.lower() if client.checks_origin else ""  # nobody else writes our verdicts (RFC 8601 §5)
        verdicts = (_VERDICTS,) if self._own_name else ()
        wanted = {b"received", b"x-virtual-mta", b"x-envid", b"date", b"message-id", *self._job_fields, *self._cut, *verdicts}
        self.names = tuple(sorted(wanted))  # for fastpath.find_fields

    def read(self, content: bytes, fields: list[tuple[int, int, int]]) -> Found:
        """What *fields*, found in *content* by `names`, say."""
        hops = 0
        cut: list[tuple[int, int]] = []
        first: dict[bytes, str] = {}
        for index, start, stop in fields:
            name = self.names[index]
            if name == b"received":
                hops += 1
            if name not in first:
                first[name] = value(content[start:stop])
            forged = name == _VERDICTS and bool(self._own_name) and self._own_name in value(content[start:stop]).lower()
            if name in self._cut or forged or (name == b"date" and self._override_date):
                cut.append((start, stop))
        job_id = next((found for name in self._job_fields if (found := _word(first.get(name, ""), MAX_JOB_ID_CHARS))), "")
        add_date = self._add_date and (self._override_date or b"date" not in first or b"date" in self._cut)
        return Found(
            hops=hops,
            requested=first.get(b"x-virtual-mta") if self._virtual_mta else None,
            cut=cut,
            job_id=f"{self._prefix}{job_id}"[:MAX_JOB_ID_CHARS] if job_id else "",
            env_id=_printable(first.get(b"x-envid", ""), MAX_ENV_ID_CHARS) if self._env_id else "",
            add_date=add_date,
            late_date=add_date and self._late_date,
            add_message_id=self._add_message_id and (b"message-id" not in first or b"message-id" in self._cut),
        )


def added_fields(found: Found, message_id: str, host_id: int, host_name: str, now_s: int) -> bytes:
    """The Date and Message-ID fields that the message gets, in wire form.  *host_id* keeps ids of several servers apart; 0 is left out.

    A Date that is made anew at delivery stands last (`Message.late_date`).
    """
    dated = f"Date: {date(now_s)}\r\n" if found.add_date else ""
    named = f"Message-ID: <{message_id}{f'.{host_id}' if host_id else ''}@{host_name}>\r\n" if found.add_message_id else ""
    return f"{named}{dated}".encode("latin-1", "replace") if found.late_date else f"{dated}{named}".encode("latin-1", "replace")


def value(header_field: bytes) -> str:
    """The unfolded value of a whole header field."""
    return header_field.partition(b":")[2].replace(b"\r\n", b"").strip(b" \t").decode("latin-1")


def _word(text: str, most: int) -> str:
    """The first word of *text*, printable ASCII: a job ID has no blanks."""
    words = text.split(None, 1)
    return _printable(words[0], most) if words else ""


def _printable(text: str, most: int) -> str:
    return "".join(c if " " <= c <= "~" else "?" for c in text[:most])
