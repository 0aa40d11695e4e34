"""Every transcript against a live listener, whose client may send to example.net only."""

from __future__ import annotations

import pytest

from engine.smtp.server import ServerLimits
from tests.listener.live import Live
from tests.reception.fakes import config
from tests.smtp.dialog import Dialog, all_dialogs, run_dialog

BY_CLIENTS = {"quoted-local-parts"}  # grammar only: what policy denies to strangers


@pytest.mark.parametrize("dialog", all_dialogs(), ids=lambda dialog: dialog.name)
def test_listener_holds_dialog(dialog: Dialog) -> None:
    settings = config(relay_domain="example.net", always_allow_relaying=dialog.name in BY_CLIENTS)
    with Live(settings) as live:
        client = settings.client("127.0.0.1")
        limits = ServerLimits("mx.example.org", **dialog.limits)
        live.listener.welcome = lambda ip, place, local_ip, user="": (client, limits)  # type: ignore[method-assign]
        live.listener.failure_delay_s = 0
        live.listener.nonce = lambda: "0123456789abcdef"
        with live.client() as peer:

            def exchange(data: bytes) -> bytes:
                if data:
                    peer.send(data)
                return peer.socket.recv(65536)

            run_dialog(dialog, exchange)
        live.until(lambda: live.count.mine() == 0)
