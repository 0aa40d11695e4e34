"""`python -m tests.peers [pytest options]`: install what may be installed, run every test of this package, say what could not run."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.peers import install


def main() -> int:
    """pytest's exit status."""
    install.main()
    return int(pytest.main(["-m", "peers", str(Path(__file__).parent), "--timeout", "300", *sys.argv[1:]]))


if __name__ == "__main__":
    sys.exit(main())
