"""engine: a multiprocess spool engine for outbound mail.

The way of a message: listener -> reception -> spool -> scheduler, delivery -> accounting; `supervisor` starts them, `config` says how,
`smtp`, `tls` and `dns` speak to the world, `policy` decides, `spf` and `doctor` judge, `bounce` reports, `control` answers.
docs/architecture.md is the story.
"""

import os

__version__ = "0.1.0"


def _run_sources() -> None:
    """Have modules of our packages that are compiled as they are (setup.py) loaded from their Python source."""
    import sys
    from importlib.machinery import SOURCE_SUFFIXES, FileFinder, SourceFileLoader

    root = os.path.dirname(__file__)
    for directory, _, _ in os.walk(root):
        if directory != root:
            sys.path_importer_cache[directory] = FileFinder(directory, (SourceFileLoader, SOURCE_SUFFIXES))


if os.environ.get("ENGINE_FASTPATH") == "off":
    _run_sources()
