"""`python -m bench.floor`: what sending and receiving cost with nothing between: source straight to sink, ours and Debian's smtp-source."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.end_to_end import main as end_to_end


def main(words: Sequence[str] | None = None) -> int:
    """The command; takes the options of bench.end_to_end."""
    return end_to_end(["--compare", "floor,smtp-source", "--no-engine", *(sys.argv[1:] if words is None else words)])


if __name__ == "__main__":
    sys.exit(main())
