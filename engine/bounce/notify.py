"""Who wants to hear about what became of a recipient (RFC 3461 §4.1, §5.2).  Pure."""

from __future__ import annotations

NEVER = 1
SUCCESS = 2
FAILURE = 4
DELAY = 8


def wants_report(action: str, notify: int, *, return_path: str, notify_sender: bool = True) -> bool:
    """Whether a recipient whose NOTIFY bits are *notify* (0: not given) is to be named in a DSN with *action* `failed`, `delayed` or `relayed`.

    Nobody is told about mail from the null sender, which a DSN is itself, nor where *notify_sender* says that the return path was never checked.
    Without NOTIFY the sender hears of failures only; RFC 3461 leaves delays to us, and PowerMTA tells of them only who asked.
    """
    if not return_path or not notify_sender or notify & NEVER:
        return False
    wanted = {"failed": FAILURE, "delayed": DELAY, "relayed": SUCCESS}.get(action, 0)
    return bool((notify or FAILURE) & wanted)
