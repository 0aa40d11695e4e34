"""What keeps real mail out of a shadow's sink, and a shadow's mail out of the world: the mark of a spool that `engine start --shadow` has used."""

from __future__ import annotations

import os
from pathlib import Path

from engine.errors import StartError
from engine.process import SHADOW_MARK
from engine.spool.format import sync_directory

_TEXT = """engine start --shadow has used this spool: what waits in it was meant for the sink, and an engine without --shadow refuses to send it.
Remove this file only to have all of it delivered to the world.
"""


def admit(root: Path, waiting: int, *, shadow: bool) -> None:
    """Let an engine, a *shadow* or not, use the spool *root* where *waiting* recipients lie; StartError if they are the other kind's.

    An empty spool is anybody's: it is marked for a shadow, and the mark is taken away for all others, durably before the first mail comes in.
    """
    mark = root / SHADOW_MARK
    marked = os.path.lexists(mark)
    if marked == shadow:
        return
    if waiting and shadow:
        raise StartError(
            f"spool {root}: {waiting} recipients wait in it for real delivery, and --shadow would lose them in its sink: nothing has been touched; "
            f"start without --shadow, or give the shadow a spool of its own (--state-dir DIR, or another <spool>)"
        )
    if waiting:
        raise StartError(
            f"spool {root}: engine start --shadow has used it, and {waiting} recipients wait in it that were meant for the sink: nothing has been "
            f"touched; start with --shadow until they are gone, or give another <spool>; only to deliver them to the world, remove {mark}"
        )
    try:
        if shadow:
            with mark.open("x") as file:
                file.write(_TEXT)
                file.flush()
                os.fsync(file.fileno())
        else:
            mark.unlink()
        sync_directory(root)
    except OSError as error:
        raise StartError(f"{mark} cannot be {'written' if shadow else 'removed'}: {error.strerror}; the spool is not used without") from error
