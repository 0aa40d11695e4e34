"""Request and response over a Unix socket, one row per command.  Imports leaves only."""

from engine.control.client import ask, ask_spool, spool_conversation, tell_spool, wait_until_closed
from engine.control.protocol import COMMANDS, Changed, Child, Command, Reloaded, Request, Response, Status, Stopping, Upgrade
from engine.control.views import Standing

__all__ = [
    "COMMANDS",
    "Changed",
    "Child",
    "Command",
    "Reloaded",
    "Request",
    "Response",
    "Standing",
    "Status",
    "Stopping",
    "Upgrade",
    "ask",
    "ask_spool",
    "spool_conversation",
    "tell_spool",
    "wait_until_closed",
]
