"""Every transcript against the server core; and every transcript's bytes in other cuts."""

from __future__ import annotations

import pytest

from tests.smtp.dialog import Dialog, all_dialogs, run_dialog
from tests.smtp.postbox import Client

DIALOGS = all_dialogs()


def test_there_are_dialogs() -> None:
    assert len(DIALOGS) >= 30


@pytest.mark.parametrize("dialog", DIALOGS, ids=lambda dialog: dialog.name)
@pytest.mark.usefixtures("loops")
def test_core_holds_dialog(dialog: Dialog) -> None:
    client = Client(**dialog.limits)
    run_dialog(dialog, client.exchange)
    assert client.core.closing


@pytest.mark.parametrize("dialog", DIALOGS, ids=lambda dialog: dialog.name)
def test_replies_and_mail_do_not_depend_on_cuts(dialog: Dialog) -> None:
    def replies(pieces: list[bytes]) -> tuple[bytes, object]:
        client = Client(**dialog.limits)
        out = b"".join([client.exchange(piece) for piece in pieces])
        return out, client.postbox.mails

    sent = dialog.sent
    whole = replies([sent])
    assert replies([sent[i : i + 1] for i in range(len(sent))]) == whole
    for at in range(1, min(len(sent), 1200)):
        assert replies([sent[:at], sent[at:]]) == whole, at
