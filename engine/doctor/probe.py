"""Looks at the world from one of our addresses: connections out."""

from __future__ import annotations

import socket

from engine.doctor.dialog import Dialog, Failure, unverified
from engine.doctor.listeners import IMPLICIT_TLS_PORT
from engine.doctor.ports import Target, Try

_DISCARD_PORT = 9


async def try_port(source: str, target: Target, address: str, timeout_s: float) -> Try:
    """Connect from *source* to *address*, an address of *target*, and wait for the greeting; then part with QUIT."""
    try:
        dialog = await Dialog.open(address, target.port, source, timeout_s, unverified() if target.role == IMPLICIT_TLS_PORT else None, target.host)
        try:
            greeting = await dialog.reply()
            await dialog.quit()
        finally:
            dialog.close()
    except Failure as failure:
        return Try(source, target, address, failure.state, failure.text)
    return Try(source, target, address, "greeted", str(greeting))


def source_for(address: str) -> str:
    """The address that the kernel would send from to *address*; "" where it has none.  Sends nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        try:
            asked.connect((address, _DISCARD_PORT))
        except OSError:
            return ""
        return str(asked.getsockname()[0])
