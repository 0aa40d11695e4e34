"""Scripted SMTP peers on loopback, one named misbehaviour each: `with Sink("rcpt-5xx", addresses={"bob@d1.example"}) as sink: ... sink.messages`."""

from tests.sinks.behaviours import BEHAVIOURS
from tests.sinks.session import Message, Session
from tests.sinks.sink import Connection, Sink

__all__ = ["BEHAVIOURS", "Connection", "Message", "Session", "Sink"]
